"""What a Prometheus looks at: a proxy under a mixed load, one with a canary, and what their callers were answered."""

import json
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import NamedTuple

from proxy.policy.credentials import digest
from tests.observability.board_rules import Json
from tests.observability.canary import Canary
from tests.observability.past import DAY, SLOT
from tests.observability.prometheus import Prometheus
from tests.processes import ROOT, Canned, Proxy, Simulator, call, eventually

LISTED = ("acme", "borealis", "zenith")
WITH_DEVICES = b'{"manufacturer_user_id": "u-1", "device_ids": ["d-1", "d-2"]}'
PLAIN = b'{"manufacturer_user_id": "u-1"}'


class Made(NamedTuple):
    """A call of the load: whose it counts as, what it gets, and v2's fault meanwhile."""

    manufacturer: str
    status: int
    headers: dict[str, str]
    body: bytes = PLAIN
    fault: str = ""
    path: str = "/manufacturers/nox"


def by_key(name: str) -> dict[str, str]:
    return {"x-api-key": f"{name}-key"}


def by_scheme(name: str) -> dict[str, str]:
    return {"authorization": f"ApiKey {name}-key"}


LOAD = (
    Made("acme", 201, by_key("acme"), WITH_DEVICES),
    Made("acme", 201, by_scheme("acme")),
    Made("acme", 400, by_key("acme"), b"{}"),
    Made("acme", 503, by_key("acme"), fault="status=503"),
    Made("acme", 502, by_key("acme"), fault="close"),
    Made("borealis", 201, by_scheme("borealis"), WITH_DEVICES),
    Made("borealis", 201, by_key("borealis"), fault="drift"),
    Made("zenith", 410, by_key("zenith")),
    Made("unregistered", 201, by_key("stranger"), WITH_DEVICES),
    Made("unauthenticated", 401, {}),
    Made("unauthenticated", 401, by_scheme("refused")),
    Made("", 404, by_key("acme"), path="/elsewhere"),
)


class World(NamedTuple):
    """What runs, and the calls that the proxy answered by manufacturer and status.

    `old` is a target that can only give the text format: what the proxy gives those who ask for that.
    """

    prometheus: Prometheus
    proxy: Proxy
    old: Canned
    canary: Canary
    answered: Counter[tuple[str, str]]

    def made(self) -> dict[tuple[str, ...], int]:
        """How many calls by manufacturer."""
        calls: Counter[tuple[str, ...]] = Counter({(name,): 0 for name in LISTED})
        for (manufacturer, _), answered in self.answered.items():
            calls[manufacturer,] += answered
        return calls

    def recorded(self) -> dict[tuple[str, ...], float]:
        """The same by our rules."""
        selector = f'nox_proxy:legacy_calls:sum{{instance="{self.proxy.admin}"}}'
        return self.prometheus.numbers(selector, "manufacturer")

    def make(self, calls: Counter[tuple[str, str]]) -> None:
        """Waits until they are recorded, with all before them."""
        self.answered.update(calls)
        assert eventually(lambda: self.recorded() == self.made()), (self.recorded(), self.made())

    def has_seen_the_canary(self) -> bool:
        selector = f'nox_proxy:canary_calls:sum{{instance="{self.canary.proxy.admin}"}}'
        asked = {(upstream,): calls for upstream, calls in self.canary.calls.items()}
        return self.prometheus.numbers(selector, "upstream") == asked


def load(proxy: Proxy, v2: Simulator, rounds: int) -> Counter[tuple[str, str]]:
    """Calls one after the other; what was answered."""
    answered: Counter[tuple[str, str]] = Counter()
    for made in LOAD * rounds:
        with v2.fault(made.fault) if made.fault else nullcontext():
            reply = call(proxy.address, made.body, made.headers, path=made.path)
        assert reply.status == made.status, (made, reply)
        if made.manufacturer:
            answered[made.manufacturer, str(reply.status)] += 1
    return answered


def schedule(now: int) -> Json:
    """A brownout that runs, and a next one whose last week's slot is hours ago."""

    def at(seconds: int) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    start, end = (now + 7 * DAY - ago for ago in SLOT)
    return {
        "deprecated_at": at(now - 90 * DAY),
        "sunset_at": at(now + 20 * DAY),
        "brownouts": [
            {"start": at(now - 60), "end": at(now + DAY), "exempt": ["acme", "borealis", "unregistered"]},
            {"start": at(start), "end": at(end), "exempt": ["borealis"]},
        ],
    }


def proxy_with(v2: Simulator, now: int) -> Proxy:
    keys = {name: {"keys_sha256": [digest(f"{name}-key".encode())]} for name in LISTED}
    settings = {
        "MANUFACTURERS": json.dumps(keys),
        "CHANGES__CONNECT_NOX_USER__DEPRECATION": json.dumps(schedule(now)),
    }
    return Proxy(v2.url, cwd=ROOT, WORKERS="2", **settings)


def in_text(proxy: Proxy) -> bytes:
    """The proxy's exposition in Prometheus's own format, as a whole answer."""
    reply = call(proxy.admin, method="GET", path="/metrics", headers={"accept": "text/plain"})
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {reply.headers['content-type']}\r\nconnection: close"
    return f"{head}\r\ncontent-length: {len(reply.body)}\r\n\r\n".encode() + reply.body
