"""An outsider's thousand calls, no two alike: whatever they carry, /metrics gets not one new series by it."""

import json
import random
from collections.abc import Callable
from http.client import HTTPConnection
from typing import NamedTuple

import pytest

from tests.processes import DEADLINE, ROOT, Proxy, Simulator, Wire, eventually
from tests.sent import note_secrets

CALLS = 1_000
LIMIT = 2_000
V1 = "/manufacturers/nox"
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
METHODS = ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "LOCK", "REPORT", "PURGE", "MKCOL", "HEAD")
TYPES = ("text/plain", "text/html", "application/x-www-form-urlencoded", "multipart/form-data", "image/png")


class Sent(NamedTuple):
    """A request of a client library, or `raw` bytes of none."""

    headers: dict[str, str]
    body: bytes | None = None
    method: str = "POST"
    path: str = V1
    raw: bytes = b""


class Dice(random.Random):
    """What an outsider makes up."""

    def word(self, shortest: int = 1, longest: int = 60) -> str:
        return "".join(self.choices(VISIBLE, k=self.randint(shortest, longest)))

    def name(self) -> str:
        return "".join(self.choices("abcdefghijklmnopqrstuvwxyz0123456789-_~%.", k=self.randint(1, 40)))

    def body(self) -> bytes:
        """A call's, with an unknown field, and half of the time with device IDs."""
        asked: dict[str, object] = {"manufacturer_user_id": self.word(0), self.word(): self.word()}
        if self.random() < 0.5:
            asked["device_ids"] = [self.word() for _ in range(self.randint(0, 5))]
        return json.dumps(asked).encode()

    def extras(self) -> dict[str, str]:
        """Header lines that decide nothing."""
        address = ".".join(str(self.randrange(256)) for _ in range(4))
        return {
            "host": self.choice((address, f"{self.name().replace('%', '')}:{self.randrange(65_536)}")),
            "x-request-id": self.word(),
            "x-forwarded-for": f"{address}, {self.word()}",
            "x-forwarded-host": self.word(),
            "x-forwarded-proto": self.word(),
            "traceparent": f"00-{self.getrandbits(128):032x}-{self.getrandbits(64):016x}-01",
            "user-agent": self.word(),
            "idempotency-key": self.word(),
            f"x-{self.randrange(10**9)}": self.word(),
        }

    def query(self) -> str:
        return f"{V1}{self.choice(('', '/'))}?{self.name()}={self.name()}"


def keyed(dice: Dice) -> dict[str, str]:
    if dice.random() < 0.5:
        return {"x-api-key": dice.word(8, 512)}
    return {"authorization": f"{dice.choice(('ApiKey', 'apikey'))} {dice.word(8, 500)}"}


def raw(dice: Dice, *lines: str) -> Sent:
    return Sent({}, raw="\r\n".join((f"POST {dice.query()} HTTP/1.1", *lines, "", "")).encode())


class Kind(NamedTuple):
    """A sort of calls that all get one status, or another one during a brownout."""

    make: Callable[[Dice], Sent]
    status: int
    in_brownout: int


KINDS = {
    "a stranger": Kind(lambda d: Sent(keyed(d), d.body(), path=d.query()), 401, 410),
    "x-api-key": Kind(lambda d: Sent({"x-api-key": d.word(8, 512)}, b'{"manufacturer_user_id": ""}'), 401, 410),
    "ApiKey": Kind(lambda d: Sent({"authorization": f"ApiKey {d.word(8, 500)}"}, d.body()), 401, 410),
    "device_ids": Kind(lambda d: Sent(keyed(d), b'{"manufacturer_user_id": "", "device_ids": ["d"]}'), 401, 410),
    "no key": Kind(lambda d: Sent({}, d.body(), path=d.query()), 401, 401),
    "a scheme": Kind(lambda d: Sent({"authorization": f"x{d.name()} {d.word()}"}, d.body()), 401, 401),
    "two keys": Kind(
        lambda d: Sent({"x-api-key": d.word(8), "authorization": f"ApiKey {d.word(8)}"}, d.body()), 401, 401
    ),
    "an unfit key": Kind(lambda d: Sent({"x-api-key": d.word(513, 600)}, d.body()), 401, 401),
    "a path": Kind(lambda d: Sent(keyed(d), d.body(), path=f"/x{d.name()}/{d.name()}"), 404, 404),
    "a path below": Kind(lambda d: Sent(keyed(d), d.body(), path=f"{V1}/{d.name()}"), 404, 404),
    "a method": Kind(lambda d: Sent(keyed(d), method=d.choice(METHODS), path=d.query()), 405, 405),
    "a method elsewhere": Kind(lambda d: Sent(keyed(d), method=d.choice(METHODS), path=f"/x{d.name()}"), 404, 404),
    "a loop": Kind(lambda d: Sent({**keyed(d), "via": f"1.1 {d.name()}, 1.1 nox-proxy"}, d.body()), 502, 502),
    "too large": Kind(lambda d: Sent(keyed(d), b"x" * d.randint(LIMIT + 1, 9_000)), 413, 410),
    "an encoding": Kind(lambda d: Sent({**keyed(d), "content-encoding": f"x{d.name()}"}, d.body()), 415, 410),
    "a type": Kind(lambda d: Sent({**keyed(d), "content-type": f"{d.choice(TYPES)};a={d.name()}"}, d.body()), 415, 410),
    "no JSON": Kind(lambda d: Sent(keyed(d), f"!{d.word()}".encode()), 400, 410),
    "no user": Kind(lambda d: Sent(keyed(d), json.dumps({f"a{d.word()}": d.word()}).encode()), 400, 410),
    "nonsense": Kind(lambda d: Sent({}, raw=f"!{d.word()}\r\n\r\n".encode()), 400, 400),
    "no Host": Kind(lambda d: raw(d, f"x-api-key: {d.word()}"), 400, 400),
    "large headers": Kind(lambda d: raw(d, "host: a", f"x-{d.randrange(10**9)}: {'y' * 40_000}"), 431, 431),
}


def send(connection: HTTPConnection, address: str, sent: Sent) -> int:
    """The status that came; a connection is kept while the proxy keeps it."""
    if sent.raw:
        with Wire(address) as wire:
            wire.send(sent.raw)
            return wire.answer().status
    note_secrets(sent.body or b"", sent.headers)
    connection.request(sent.method, sent.path, sent.body, sent.headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


BROWNOUT = {"brownouts": [{"start": "2020-01-01T00:00:00Z", "end": "2090-01-01T00:00:00Z"}]}


def counted(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if name.startswith("nox_proxy_requests_total{"))


@pytest.mark.parametrize("in_brownout", [False, True], ids=["v2 refuses", "brownout"])
def test_a_thousand_calls_add_no_series(v2: Simulator, in_brownout: bool) -> None:
    """The first round has each kind once; what comes after differs in all that a caller can choose."""
    dice = Dice(4711)
    schedule = json.dumps(BROWNOUT if in_brownout else {})
    settings = {"MAX_BODY_BYTES": str(LIMIT), "CHANGES__CONNECT_NOX_USER__DEPRECATION": schedule}
    running = Proxy(v2.url, WORKERS="2", MANUFACTURERS='{"acme": {}}', cwd=ROOT, **settings)
    connection = HTTPConnection(running.address, timeout=DEADLINE)

    def call(name: str) -> None:
        kind = KINDS[name]
        sent = kind.make(dice)
        status = send(connection, running.address, sent._replace(headers={**dice.extras(), **sent.headers}))
        assert status == (kind.in_brownout if in_brownout else kind.status), (name, sent)

    try:
        for name in KINDS:
            call(name)
        assert eventually(lambda: any("upstream_connections" in name for name in running.metrics()))
        before = running.metrics()
        for name in dice.choices(list(KINDS), k=CALLS):
            call(name)
        after = running.metrics()
    finally:
        connection.close()
        assert running.stop() == 0
    assert sorted(after) == sorted(before)
    assert counted(after) == counted(before) + CALLS
