"""A whole schedule walked through by a set clock: the pipeline before, in and between the windows, and after sunset."""

import asyncio
import json

import pytest

from proxy.contract.messages import Request, gather, read_lines
from proxy.pipeline import Pipeline, Upstreams
from proxy.policy.credentials import digest
from proxy.policy.deprecation import Brownout, Deprecation
from proxy.telemetry.block import Block
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.sinks import Telemetry
from proxy.wire.answer import Answer
from proxy.wire.headers import ToUpstream
from proxy.wire.pool import Limits
from proxy.wire.upstream import Upstream
from tests.ruled import rules_of
from tests.test_admission import GOOD


class Accepting:
    """A v2 that accepts every key."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    limits = Limits()

    async def send(self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: object = None) -> Answer:
        self.calls.append((method, target, lines, body))
        return Answer(201, (), b'{"manufacturer_user_id": "u-1", "nox_user_id": "n-1"}')

    def connections(self) -> None: ...

    async def aclose(self) -> None: ...


class Walk:
    """A pipeline, and the time it is told. Windows: half of the callers, all but acme, and half again."""

    WINDOWS = (
        Brownout(1_000.0, 1_010.0, 50.0),
        Brownout(1_010.0, 1_020.0, exempt=frozenset({"acme"})),
        Brownout(2_000.0, 2_010.0, 50.0, frozenset({"unregistered"})),
        Brownout(2_500.0, 2_510.0, 50.0),
    )
    DEPRECATED, SUNSET = 500.0, 3_000.0

    def __init__(self) -> None:
        self.now = 0.0
        self.v2 = Accepting()
        schedule = Deprecation("http://docs", "http://v2", None, self.DEPRECATED, self.SUNSET, True, self.WINDOWS)
        digests = {name: [digest(f"{name}-{n}".encode()) for n in range(3)] for name in ("acme", "zenith")}
        self.pipeline = Pipeline(
            rules_of(schedule, digests=digests),
            Upstreams(Upstream("v2", self.v2)),
            ToUpstream(()),
            Telemetry(Metrics(Block()), None),
            max_body_bytes=1_000,
            now=lambda: self.now,
        )

    def ask(self, key: str, now: float) -> str:
        """The error code that a key gets at a time, or `answered`; v2 has the calls that are answered, no others.

        By either door the same.
        """
        self.now, before = now, len(self.v2.calls)

        async def read_body(limit: int) -> bytes:
            return GOOD

        request = Request("POST", b"/manufacturers/nox", gather([(b"x-api-key", key.encode())]))
        reply = asyncio.run(self.pipeline.answer(request, read_body))
        calls = len(self.v2.calls) - before
        known = self.pipeline.recognise(request)
        assert known is not None
        assert asyncio.run(self.pipeline.answer_known(known, GOOD)).body == reply.body
        assert self.pipeline.needs_body(known) == (reply.status == 201)
        told, lines = json.loads(reply.body), dict(read_lines(reply.lines))
        code: str = told.get("error_code", "answered")
        left = b"%d" % (10 - now % 10) if code == "endpoint_brownout" else None
        assert told["timestamp"] == int(now)
        assert (lines[b"deprecation"], lines[b"sunset"]) == (b"@500", b"Thu, 01 Jan 1970 00:50:00 GMT")
        assert (calls, lines.get(b"retry-after")) == (reply.status == 201, left)
        assert len(self.v2.calls) - before == 2 * calls
        return code


WHOLE = [
    (0.0, "answered", "answered"),
    (500.0, "answered", "answered"),
    (999.999, "answered", "answered"),
    (1_000.0, "answered", "endpoint_brownout"),
    (1_009.0, "answered", "endpoint_brownout"),
    (1_010.0, "answered", "endpoint_brownout"),
    (1_019.0, "answered", "endpoint_brownout"),
    (1_020.0, "answered", "answered"),
    (2_000.0, "answered", "endpoint_brownout"),
    (2_010.0, "answered", "answered"),
    (2_505.0, "answered", "endpoint_brownout"),
    (2_999.999, "answered", "answered"),
]


@pytest.fixture(scope="module")
def walk() -> Walk:
    return Walk()


@pytest.mark.parametrize(("now", "acme", "zenith"), WHOLE)
def test_a_manufacturer_is_one_caller_whatever_its_key(walk: Walk, now: float, acme: str, zenith: str) -> None:
    """At 50 % one of the two is hit; tests/policy/test_deprecation.py has which."""
    assert {walk.ask(f"acme-{n}", now) for n in range(3)} == {acme}
    assert {walk.ask(f"zenith-{n}", now) for n in range(3)} == {zenith}


def test_unlisted_keys_are_told_apart(walk: Walk) -> None:
    keys = [f"stranger-{n}" for n in range(200)]

    def hit(now: float) -> set[str]:
        return {key for key in keys if walk.ask(key, now) == "endpoint_brownout"}

    half = hit(1_000.0)
    assert 70 <= len(half) <= 130
    assert hit(1_009.0) == hit(2_500.0) == half
    assert hit(1_010.0) == set(keys)
    assert hit(999.0) == hit(1_020.0) == hit(2_005.0) == hit(2_999.0) == set()


@pytest.mark.parametrize("now", [3_000.0, 3_000.001, 1e9])
def test_at_sunset_all_of_them_are_refused(walk: Walk, now: float) -> None:
    assert {walk.ask(key, now) for key in ("acme-0", "zenith-0", "stranger-0")} == {"endpoint_sunset"}
