"""The calls of an old integration, made for real: a simulated v2, the proxy and a plain HTTP client.

`Demo` runs the two as processes of their own on free loopback ports; `play()` makes the calls one by one and
says of each what was sent, what v2 got, what came back and whether it was as promised.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from os import environ, pread
from types import TracebackType
from typing import IO, NamedTuple, Self

KEY = "demo-key"
START_SECONDS = 20.0

_SAMPLE = '{"manufacturer_user_id": "user-4711", "device_ids": ["heat-pump-1", "wallbox-2"]}'


class Step(NamedTuple):
    """A call of the old integration, and the answer that v1 promises it."""

    title: str
    headers: dict[str, str]
    body: str
    status: int
    error_code: str | None = None
    reaches_v2: bool = True
    v2_runs: bool = True


STEPS = (
    Step("A connection", {"x-api-key": KEY}, _SAMPLE, 201),
    Step("The same with Authorization: ApiKey", {"authorization": f"ApiKey {KEY}"}, _SAMPLE, 201),
    Step("Without a key", {}, _SAMPLE, 401, "missing_api_key", reaches_v2=False),
    Step("With a key that v2 refuses", {"x-api-key": "wrong"}, _SAMPLE, 401, "invalid_api_key"),
    Step(
        "With a bad body",
        {"x-api-key": KEY},
        '{"manufacturer_user_id": 4711}',
        400,
        "invalid_request",
        reaches_v2=False,
    ),
    Step("While v2 is down", {"x-api-key": KEY}, _SAMPLE, 502, "upstream_unavailable", reaches_v2=False, v2_runs=False),
    Step("After v2 came back", {"x-api-key": KEY}, _SAMPLE, 201),
)


class Played(NamedTuple):
    """What one step came to. `v2_got` holds each call that reached v2, as text."""

    step: Step
    sent: str
    v2_got: list[str]
    came_back: str
    as_promised: bool


class Demo:
    """The two processes; a context manager that ends them. Raises RuntimeError where one does not start."""

    def __init__(self) -> None:
        self._v2: _Process | None = None
        self._v2_listen = "127.0.0.1:0"
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._start_v2()
            undo.callback(self._stop_v2)
            self._proxy = undo.enter_context(_Process("serve", **self._settings()))
            self.address, self.admin = self._proxy.listening(r"http://(\S+), admin on http://(\S+),")
            self._exit = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def play(self) -> Iterator[Played]:
        """Makes the calls, in their order."""
        for step in STEPS:
            if step.v2_runs and self._v2 is None:
                self._start_v2()
            elif not step.v2_runs:
                self._stop_v2()
            yield self._play(step)

    def metrics(self) -> list[str]:
        """The samples that count calls."""
        text = _fetch(self.admin, "GET", "/metrics")[1]
        return [
            line for line in text.splitlines() if re.match(r"nox_proxy_(requests|unmapped|credential)\w*_total", line)
        ]

    def log(self) -> list[str]:
        """The proxy's access log so far."""
        return self._proxy.output()

    def _play(self, step: Step) -> Played:
        headers = {"content-type": "application/json", **step.headers}
        if self._v2 is not None:
            _fetch(self._v2_listen, "DELETE", "/_simulator/calls")
        status, answer = _fetch(self.address, "POST", "/manufacturers/nox", headers, step.body)
        got = self._v2_calls()
        kept = status == step.status and bool(got) == step.reaches_v2 and _is_v1(answer, step)
        sent = _message("POST /manufacturers/nox", headers, step.body)
        return Played(step, sent, got, f"{status}\n{answer}", kept)

    def _v2_calls(self) -> list[str]:
        if self._v2 is None:
            return []
        calls = json.loads(_fetch(self._v2_listen, "GET", "/_simulator/calls")[1])
        return [
            _message(
                f"{call['method']} {call['path']}",
                {name: value for name, value in call["headers"] if name in ("x-api-key", "via")},
                call["body"],
            )
            for call in calls
        ]

    def _start_v2(self) -> None:
        self._v2 = _Process("simulate", "v2", "--listen", self._v2_listen, "--key", KEY)
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
        }


class _Process:
    """A nox-proxy command, its output in files that go with it."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        own = {name: value for name, value in environ.items() if not name.startswith("NOX_PROXY_")}
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "proxy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**own, **variables},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listening(self, pattern: str) -> tuple[str, ...]:
        """Waits for the line that says where it listens. Raises RuntimeError."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            said = _said(self._err)
            if found := re.search(rf"listening on {pattern}", said):
                return tuple(found.groups())
            time.sleep(0.02)
        said = _said(self._err)
        self.close()
        raise RuntimeError(f"nox-proxy did not start: {said}")

    def output(self) -> list[str]:
        """What it wrote to standard output."""
        return _said(self._out).splitlines()

    def close(self) -> None:
        """Ends it by SIGTERM."""
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._err.close()


def _said(file: IO[bytes]) -> str:
    """A file that the process is writing to, from its start: pread leaves the shared offset alone."""
    return pread(file.fileno(), 1 << 20, 0).decode()


def _fetch(
    address: str, method: str, path: str, headers: dict[str, str] | None = None, body: str = ""
) -> tuple[int, str]:
    connection = HTTPConnection(address, timeout=START_SECONDS)
    try:
        connection.request(method, path, body.encode() or None, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _message(line: str, headers: dict[str, str], body: str) -> str:
    return "\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), body])


def _is_v1(answer: str, step: Step) -> bool:
    """Whether an answer is the v1 envelope that the step promises."""
    told = json.loads(answer)
    if not isinstance(told.get("timestamp"), int) or told.get("success") is not (step.error_code is None):
        return False
    if step.error_code is not None:
        return bool(told["error_code"] == step.error_code and told["error"] == told["message"])
    asked = json.loads(step.body)
    data = told["data"]
    return bool(data["nox_user_id"] and {**data, **asked} == data)
