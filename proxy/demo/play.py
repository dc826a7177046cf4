"""The demo's first act, the calls of an old integration: a simulated v2, the proxy and a plain HTTP client.

`Demo` runs the two as processes of their own on free loopback ports; `play()` makes the calls one by one and
says of each what was sent, what v2 got, what came back and whether it was as promised.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from proxy.demo.processes import Answer, Metrics, Process, Stage, fetch
from proxy.demo.steps import MANUFACTURERS, STEPS, UNLISTED, Step
from proxy.policy.credentials import digest

ANNOUNCED = ("deprecation", "sunset", "link")
SHOWN = ("retry-after", "nox-unmapped")
"""The headers of an answer that are worth a line; those above stand on every answer, and are shown once."""


class Played(NamedTuple):
    """What one step came to. `v2_got` holds each call that reached v2, as text."""

    step: Step
    sent: str
    v2_got: list[str]
    came_back: str
    as_promised: bool


class Caller(NamedTuple):
    """A row of the progress table: calls, those not answered with 201, and what of v1 they rely on.

    `last_seen` is in Unix seconds, 0 for never.
    """

    manufacturer: str
    calls: int
    errors: int
    last_seen: int
    by_authorization: int
    with_device_ids: int


class Demo(Stage):
    """v2 and a proxy."""

    def __init__(self) -> None:
        self._v2: Process | None = None
        self._v2_listen = "127.0.0.1:0"

    def play(self) -> Iterator[Played]:
        """Makes the calls, in their order."""
        for step in STEPS:
            if step.v2_runs and self._v2 is None:
                self._start_v2()
            elif not step.v2_runs:
                self._stop_v2()
            yield self._play(step)

    def progress(self) -> list[Caller]:
        """Who called v1, as `/metrics` has it, the busiest first."""
        metrics = Metrics(self.admin)
        callers = [
            Caller(
                name,
                calls,
                calls - metrics.total("nox_proxy_requests_total", manufacturer=name, status="201"),
                metrics.total("nox_proxy_legacy_last_seen_timestamp_seconds", manufacturer=name),
                metrics.total("nox_proxy_credential_scheme_total", manufacturer=name, scheme="authorization"),
                metrics.total("nox_proxy_unmapped_fields_total", manufacturer=name, field="device_ids"),
            )
            for name, calls in metrics.by("nox_proxy_requests_total", "manufacturer").items()
        ]
        return sorted(callers, key=lambda caller: (-caller.calls, caller.manufacturer))

    def log(self) -> list[str]:
        """The proxy's access log so far."""
        return self._proxy.output()

    def _set(self, undo: ExitStack) -> None:
        undo.callback(self._stop_v2)
        self._start_v2()
        self._proxy = undo.enter_context(Process("serve", **self._settings()))
        self.address, self.admin = self._proxy.listening(r"http://(\S+), admin on http://(\S+),")

    def _play(self, step: Step) -> Played:
        headers = {"content-type": "application/json", **step.headers}
        if self._v2 is not None:
            fetch(self._v2_listen, "/_simulator/calls", "DELETE")
        answer = fetch(self.address, "/manufacturers/nox", "POST", headers, step.body)
        got = self._v2_calls()
        kept = bool(got) == step.reaches_v2 and _is_as_promised(answer, step)
        sent = _message("POST /manufacturers/nox", headers, step.body)
        names = (*ANNOUNCED, *SHOWN) if step is STEPS[0] else SHOWN
        shown = {name: answer.headers[name] for name in names if name in answer.headers}
        return Played(step, sent, got, _message(str(answer.status), shown, answer.body), kept)

    def _v2_calls(self) -> list[str]:
        if self._v2 is None:
            return []
        calls = json.loads(fetch(self._v2_listen, "/_simulator/calls", "GET").body)
        return [
            _message(
                f"{call['method']} {call['path']}",
                {name: value for name, value in call["headers"] if name in ("x-api-key", "via")},
                call["body"],
            )
            for call in calls
        ]

    def _start_v2(self) -> None:
        accepted = [f"--key={key}" for key in (*MANUFACTURERS.values(), UNLISTED)]
        self._v2 = Process("simulate", "v2", "--listen", self._v2_listen, *accepted)
        (self._v2_listen,) = self._v2.listening(r"http://([^/]+)/")

    def _stop_v2(self) -> None:
        if self._v2 is not None:
            self._v2.close()
            self._v2 = None

    def _settings(self) -> dict[str, str]:
        return {
            "NOX_PROXY_LISTEN": "127.0.0.1:0",
            "NOX_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
            "NOX_PROXY_UPSTREAMS__V2__URL": f"http://{self._v2_listen}/v2",
            "NOX_PROXY_CHANGES__CONNECT_NOX_USER__DEPRECATION": json.dumps(_schedule(datetime.now(UTC))),
            "NOX_PROXY_MANUFACTURERS": json.dumps(
                {name: {"keys_sha256": [digest(key.encode())]} for name, key in MANUFACTURERS.items()}
            ),
        }


def _schedule(now: datetime) -> dict[str, object]:
    """Deprecated, with a sunset set, and a brownout that runs now."""
    brownout = {
        "start": (now - timedelta(hours=1)).isoformat(),
        "end": (now + timedelta(hours=1)).isoformat(),
        "exempt": ["acme", "corvid", "unregistered"],
    }
    return {
        "deprecated_at": "2026-01-01T00:00:00Z",
        "sunset_at": "2027-06-30T23:59:59Z",
        "brownouts": [brownout],
    }


def _message(line: str, headers: dict[str, str], body: str) -> str:
    return "\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), body])


def _is_as_promised(answer: Answer, step: Step) -> bool:
    """Whether it is the v1 envelope that the step promises, with the deprecation announced."""
    announced = answer.headers.keys() >= set(ANNOUNCED)
    return answer.status == step.status and announced and _is_v1(answer.body, step)


def _is_v1(answer: str, step: Step) -> bool:
    """Whether a body is that envelope."""
    told = json.loads(answer)
    if not isinstance(told.get("timestamp"), int) or told.get("success") is not (step.error_code is None):
        return False
    if step.error_code is not None:
        return bool(told["error_code"] == step.error_code and told["error"] == told["message"])
    asked = json.loads(step.body)
    data = told["data"]
    return bool(data["nox_user_id"] and {**data, **asked} == data)
