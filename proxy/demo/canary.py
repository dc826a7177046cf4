"""The demo's second act: users move from a simulated v1 to v2 and back, and a shadow compares the two.

`Canary` runs both services and a proxy with a settings file. Each share is written into the file, SIGHUP is sent, and
no call is made before the proxy has said that it took the settings.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from proxy.demo.processes import START_SECONDS, Metrics, Process, Stage, ask, connect, fetch
from proxy.demo.steps import KEY

SHARES = (0, 1, 10, 50, 100, 0)
USERS = tuple(f"user-{number}" for number in range(1, 201))
SHADOWED = USERS[:100]
"""The users of a round of the shadow: fewer than it has room for, so that none is dropped."""
NEAR = 5.0
"""Points that the share seen may be off: 200 users are few. At 0 and 100 there is nothing to be off."""

SETTINGS = """\
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"

[upstreams.v1]
url = "http://{v1}"

[upstreams.v2]
url = "http://{v2}/v2"

[changes.connect_nox_user.rollout]
v2_percent = {percent}
"""
_SHADOW = """
[changes.connect_nox_user.rollout.shadow]
percent = 100
accept_side_effects = true
"""


class Moved(NamedTuple):
    """What came of a share. `moved_back` are the users whom v2 answered before, and v1 does now."""

    percent: int
    by_v1: int
    by_v2: int
    moved_back: int
    errors: int
    as_promised: bool

    @property
    def seen(self) -> float:
        """v2's share of the calls, in percent."""
        return 100 * self.by_v2 / len(USERS)


class Shadowed(NamedTuple):
    """What came of a round of the shadow, by `/metrics`."""

    title: str
    verdicts: Mapping[str, int]
    fields: Mapping[str, int]
    errors: int
    as_promised: bool


class Canary(Stage):
    """Both services and a proxy."""

    def __init__(self) -> None:
        self._on_v2: set[str] = set()

    def move(self) -> Iterator[Moved]:
        """Sets the shares one by one; each time all users call."""
        for percent in SHARES:
            self._write(percent)
            self._proxy.reload()
            yield self._move(percent)

    def shadow(self) -> Iterator[Shadowed]:
        """Has v2 get what v1 answers: as it is, then while it is told to make a mismatch."""
        self._write(0, _SHADOW)
        self._proxy.reload()
        calls = len(SHADOWED)
        yield self._shadow("v2 as it is", {"match": calls}, {})
        fetch(self.v2, "/_simulator/fault", "PUT", body="mismatch")
        yield self._shadow("v2 told to differ", {"mismatch": calls}, {"data.nox_user_id": calls})
        fetch(self.v2, "/_simulator/fault", "DELETE")

    def log_line(self) -> str:
        """The last mismatch in the proxy's log."""
        return next((line for line in reversed(self._proxy.output()) if '"shadow":"mismatch"' in line), "none")

    def _set(self, undo: ExitStack) -> None:
        self.file = Path(undo.enter_context(tempfile.TemporaryDirectory())) / "nox-proxy.toml"
        v1, v2 = (undo.enter_context(Process("simulate", its, "--listen", "127.0.0.1:0")) for its in ("v1", "v2"))
        (self.v1,), (self.v2,) = (each.listening(r"http://([^/]+)/") for each in (v1, v2))
        self._write(SHARES[0])
        self._proxy = undo.enter_context(Process("serve", "--config", str(self.file)))
        self.address, self.admin = self._proxy.listening(r"http://(\S+), admin on http://(\S+),")

    def _write(self, percent: int, more: str = "") -> None:
        self.file.write_text(SETTINGS.format(v1=self.v1, v2=self.v2, percent=percent) + more)

    def _move(self, percent: int) -> Moved:
        for service in (self.v1, self.v2):
            fetch(service, "/_simulator/calls", "DELETE")
        errors = self._call(USERS)
        by_v1, by_v2 = _users(self.v1, "manufacturer_user_id"), _users(self.v2, "user_id")
        back, self._on_v2 = self._on_v2 & {*by_v1}, {*by_v2}
        moved = Moved(percent, len(by_v1), len(by_v2), len(back), errors, as_promised=False)
        once = sorted(by_v1 + by_v2) == sorted(USERS)
        near = abs(moved.seen - percent) <= (NEAR if 0 < percent < 100 else 0)
        return moved._replace(as_promised=not errors and once and near and not (percent and back))

    def _shadow(self, title: str, verdicts: dict[str, int], fields: dict[str, int]) -> Shadowed:
        before = self._found()
        errors = self._call(SHADOWED)
        end = time.monotonic() + START_SECONDS
        found = before
        while sum(found[0].values()) < sum(before[0].values()) + len(SHADOWED) and time.monotonic() < end:
            time.sleep(0.02)
            found = self._found()
        new, differing = (_more(*counts) for counts in zip(before, found, strict=True))
        kept = not errors and (new, differing) == (verdicts, fields)
        return Shadowed(title, new, differing, errors, kept)

    def _found(self) -> tuple[dict[str, int], dict[str, int]]:
        """The shadow's verdicts and the mismatching fields so far."""
        metrics = Metrics(self.admin)
        verdicts = metrics.by("nox_proxy_shadow_comparisons_total", "verdict")
        return verdicts, metrics.by("nox_proxy_shadow_mismatches_total", "field")

    def _call(self, users: tuple[str, ...]) -> int:
        """A call by each; how many did not get v1's 201."""
        with connect(self.address) as connection:
            return sum(not _connects(connection, user) for user in users)


def _connects(connection: HTTPConnection, user: str) -> bool:
    headers = {"content-type": "application/json", "x-api-key": KEY}
    answer = ask(connection, "/manufacturers/nox", "POST", headers, json.dumps({"manufacturer_user_id": user}))
    return answer.status == 201 and bool(json.loads(answer.body)["data"]["manufacturer_user_id"] == user)


def _users(service: str, field: str) -> list[str]:
    """Those whose calls a simulated service got."""
    calls = json.loads(fetch(service, "/_simulator/calls", "GET").body)
    return [json.loads(call["body"])[field] for call in calls]


def _more(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {name: more for name, count in now.items() if (more := count - before.get(name, 0))}
