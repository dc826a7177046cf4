"""The shadow by itself, against real sockets: its verdicts, its bounds, and what it survives.

It is long for its table: whatever v1 and v2 may say is a row.
"""

import asyncio
import dataclasses
import functools
import gzip
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, ParamSpec

import pytest

from proxy.contract.changes.connect_nox_user import V1Connection, connect_nox_user
from proxy.contract.envelope import ErrorTranslator, failure, success
from proxy.contract.messages import read_lines, write_lines
from proxy.policy.deprecation import Deprecation
from proxy.policy.rollout import Rollout
from proxy.rules import Endpoint
from proxy.shadow import Bounds, Shadow, ShadowCall
from proxy.telemetry.exchange import Comparison, Verdict
from proxy.wire.answer import Answer
from proxy.wire.pool import Limits
from proxy.wire.senders import open_sender
from proxy.wire.upstream import Upstream
from tests.wire.servers import End, Scripted, hold, read_request, run, send, serve, turn, until, unused_port

P = ParamSpec("P")

ENDPOINT = Endpoint(
    connect_nox_user,
    {"device_ids": "echo"},
    ErrorTranslator(connect_nox_user.renamed, {}),
    Deprecation(documentation="https://docs.test", successor="https://v2.test"),
    Rollout(),
)
USER, DEVICES = "user-4711", ("heat-pump-1", "wallbox-2")
KEY = b"a-key-that-no-log-holds"
BODY = b'{"manufacturer_user_id": "user-4711", "device_ids": ["heat-pump-1", "wallbox-2"]}'
MESSAGE = b'{"user_id":"user-4711"}'
LINES = write_lines([(b"x-api-key", KEY), (b"content-length", b"%d" % len(MESSAGE))])


def envelope(nox_user_id: str = "nox-1", devices: tuple[str, ...] = DEVICES) -> bytes:
    return success(V1Connection(USER, nox_user_id, devices), 1.0)


def v1_answer(status: int = 201, body: bytes | None = None, coding: bytes | None = None) -> Answer:
    fields = ((b"content-encoding", coding),) if coding else ()
    return Answer(status, fields, envelope() if body is None else body)


def shadow_call(v1: Answer | None = None, *, number: int = 1, body: bytes = BODY) -> ShadowCall:
    return ShadowCall(ENDPOINT, b"request-%d" % number, body, LINES, MESSAGE, v1 or v1_answer())


def http(status: int, body: bytes = b"", field: bytes = b"x-a: 1") -> bytes:
    return b"HTTP/1.1 %d Said\r\n%s\r\ncontent-length: %d\r\n\r\n%s" % (status, field, len(body), body)


def v2_says(nox_user_id: str = "nox-1") -> bytes:
    return http(201, b'{"manufacturer_user_id":"user-4711","nox_user_id":"%s"}' % nox_user_id.encode())


class Running(NamedTuple):
    """A shadow at work, and what it has reported so far."""

    shadow: Shadow
    found: list[Comparison]

    def offer(self, *numbers: int, v1: Answer | None = None, body: bytes = BODY) -> None:
        for number in numbers:
            self.shadow.offer(shadow_call(v1, number=number, body=body))

    async def finds(self, how_many: int) -> list[Comparison]:
        """What it finds, once it has found so much."""
        await until(lambda: len(self.found) >= how_many)
        return self.found

    def said(self) -> list[tuple[bytes, str, str | None]]:
        return [(each.request_id, each.verdict, each.reason) for each in self.found]


@asynccontextmanager
async def shadowing(url: str, bounds: Bounds | None = None, deadline: float = 5.0) -> AsyncIterator[Running]:
    limits = Limits(timeout=deadline, connect_timeout=1.0, pool_timeout=1.0)
    upstream = Upstream("v2", open_sender(url, "keepalive", limits, None))
    found: list[Comparison] = []
    shadow = Shadow(upstream, found.append, bounds)
    shadow.start()
    try:
        yield Running(shadow, found)
    finally:
        await shadow.aclose()
        await upstream.aclose()


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def on_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return on_loop


# Verdicts


@asynchronous
async def test_what_v2_gets() -> None:
    script = Scripted(v2_says())
    async with serve(script) as server, shadowing(f"{server.url}/v2") as running:
        running.offer(1)
        (found,) = await running.finds(1)
    assert found == Comparison(b"request-1", "connect_nox_user", "match")
    (request,) = script.requests
    assert request.line == b"POST /v2/manufacturer/device-connections HTTP/1.1"
    assert [field for field in request.fields if field[0] != b"host"] == [*read_lines(LINES)]
    assert request.body == MESSAGE


class Row(NamedTuple):
    """What v1 and v2 say, and what is found of it."""

    v1: Answer
    v2: bytes
    verdict: Verdict
    differences: tuple[tuple[str, str], ...] = ()
    reason: str | None = None
    end: End = "serve"


NOT_ASKED = b""
INVALID_KEY = failure("Invalid API key", "invalid_api_key", 1.0)
ERROR = b'{"error":"Invalid API key"}'
GONE = "connection_terminated"

ROWS = {
    "the same": Row(v1_answer(), v2_says(), "match"),
    "in another order": Row(v1_answer(201, envelope(devices=DEVICES[::-1])), v2_says(), "match"),
    "v2 drifted": Row(v1_answer(), http(200, v2_says().split(b"\r\n\r\n")[1][:-1] + b',"region":"eu"}'), "match"),
    "the same error": Row(v1_answer(401, INVALID_KEY), http(401, ERROR), "match"),
    "another user": Row(v1_answer(), v2_says("nox-2"), "mismatch", (("data.nox_user_id", "value"),)),
    "a device fewer": Row(v1_answer(201, envelope(devices=())), v2_says(), "mismatch", (("data.device_ids", "value"),)),
    "another text": Row(
        v1_answer(401, INVALID_KEY),
        http(401, b'{"error":"Missing API key"}'),
        "mismatch",
        (("error", "value"), ("error_code", "value"), ("message", "value")),
    ),
    "refused by v2 alone": Row(v1_answer(), http(401, ERROR), "mismatch", (("status", "value"),)),
    "refused by v1 alone": Row(v1_answer(401, INVALID_KEY), v2_says(), "mismatch", (("status", "value"),)),
    "200 for 201": Row(v1_answer(200), v2_says(), "mismatch", (("status", "value"),)),
    "v1 in gzip": Row(v1_answer(201, gzip.compress(envelope()), b"GZIP"), v2_says(), "match"),
    "v1 in identity": Row(v1_answer(201, envelope(), b"identity"), v2_says(), "match"),
    "v1 failed": Row(v1_answer(500, failure("Oh", "oh", 1.0)), NOT_ASKED, "v1_error", reason="500"),
    "v1's balancer failed": Row(v1_answer(502, b"<html>"), NOT_ASKED, "v1_error", reason="502"),
    "v1 redirects": Row(v1_answer(302, b""), NOT_ASKED, "v1_error", reason="not_an_envelope"),
    "v1 says what is no envelope": Row(v1_answer(201, b'{"ok":1}'), NOT_ASKED, "v1_error", reason="not_an_envelope"),
    "v1 in brotli": Row(v1_answer(201, envelope(), b"br"), NOT_ASKED, "v1_error", reason="content_coding"),
    "v1 has enough": Row(v1_answer(429, failure("Slow down", "slow", 1.0)), NOT_ASKED, "v1_error", reason="429"),
    "v1 is switched off": Row(v1_answer(410, failure("Gone", "gone", 1.0)), NOT_ASKED, "v1_error", reason="410"),
    "v1 in no gzip": Row(v1_answer(201, envelope(), b"gzip"), NOT_ASKED, "v1_error", reason="not_an_envelope"),
    "v1 in half a gzip": Row(
        v1_answer(201, gzip.compress(envelope())[:-9], b"gzip"), NOT_ASKED, "v1_error", reason="not_an_envelope"
    ),
    "v1 in a bomb": Row(
        v1_answer(201, gzip.compress(b'{"success":true,"a":"%s"}' % (b"a" * 10_000_000)), b"gzip"),
        NOT_ASKED,
        "v1_error",
        reason="not_an_envelope",
    ),
    "v2 failed": Row(v1_answer(), http(500, b'{"error":"Internal server error"}'), "v2_error", reason="500"),
    "v2's balancer failed": Row(v1_answer(), http(502, b"<html>"), "v2_error", reason="502"),
    "v2 redirects": Row(v1_answer(), http(307), "v2_error", reason="http_protocol_error"),
    "v2 says something odd": Row(v1_answer(), http(201, b'{"ok":1}'), "v2_error", reason="http_protocol_error"),
    "v2 packs it": Row(
        v1_answer(), http(201, b"\x1f", b"content-encoding: gzip"), "v2_error", reason="http_response_content_coding"
    ),
    "v2 closes": Row(v1_answer(), b"HTTP", "v2_error", reason=GONE, end="close"),
    "v2 resets": Row(v1_answer(), b"HTTP", "v2_error", reason=GONE, end="reset"),
    "v2 speaks no HTTP": Row(v1_answer(), b"\x16\x03\r\n\r\n", "v2_error", reason="http_protocol_error", end="hold"),
    "v2 hangs": Row(v1_answer(), b"HTTP", "v2_error", reason="http_response_timeout", end="hold"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@asynchronous
async def test_verdicts(row: Row) -> None:
    script = Scripted(row.v2, end=row.end)
    async with serve(script) as server, shadowing(server.url, deadline=0.2) as running:
        running.offer(1, v1=row.v1)
        (found,) = await running.finds(1)
        assert (found.verdict, found.differences, found.reason) == (row.verdict, row.differences, row.reason)
        assert len(script.requests) == (0 if row.v2 == NOT_ASKED else 1)


@asynchronous
async def test_what_would_be_refused_before_v2() -> None:
    """Where the settings refuse device IDs, v2 gets none of these calls: neither from their callers nor from here."""
    rejecting = dataclasses.replace(ENDPOINT, policies={"device_ids": "reject"})
    refusal = failure("device_ids is no longer supported", "device_ids_unsupported", 1.0)
    without = b'{"manufacturer_user_id": "user-4711"}'
    calls = ((BODY, v1_answer()), (BODY, v1_answer(400, refusal)), (without, v1_answer(201, envelope(devices=()))))
    script = Scripted(v2_says())
    async with serve(script) as server, shadowing(server.url) as running:
        for number, (body, v1) in enumerate(calls):
            running.shadow.offer(ShadowCall(rejecting, b"%d" % number, body, LINES, MESSAGE, v1))
            await running.finds(number + 1)
        assert len(script.requests) == 1
    assert [(each.verdict, each.differences) for each in running.found] == [
        ("mismatch", (("status", "value"),)),
        ("match", ()),
        ("match", ()),
    ]


@asynchronous
async def test_nobody_there() -> None:
    async with shadowing(f"http://127.0.0.1:{unused_port()}") as running:
        running.offer(1)
        await running.finds(1)
        assert running.said() == [(b"request-1", "v2_error", "connection_refused")]


# Bounds


@asynchronous
async def test_a_full_queue_drops() -> None:
    """With a hanging v2: one call there, two waiting, and for the rest there is no room."""
    async with serve(hold) as server, shadowing(server.url, Bounds(tasks=1, calls=2)) as running:
        running.offer(1)
        await until(lambda: server.connections == 1)
        running.offer(2, 3, 4, 5)
        assert running.said() == [(b"request-%d" % number, "dropped", "queue_full") for number in (4, 5)]


@asynchronous
async def test_the_bytes_are_bounded() -> None:
    """Those at v2 count too, and room comes back once a call is over."""
    release = asyncio.Event()

    async def answer_when_told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            await release.wait()
            await send(writer, v2_says())

    size = shadow_call().held_bytes
    bounds = Bounds(tasks=1, held_bytes=3 * size - 1)
    async with serve(answer_when_told) as server, shadowing(server.url, bounds) as running:
        running.offer(1)
        await until(lambda: server.connections == 1)
        running.offer(2, 3)
        assert running.said() == [(b"request-3", "dropped", "queue_full")]
        release.set()
        await running.finds(3)
        running.offer(4, 5)
        await running.finds(5)
        assert [each.verdict for each in running.found] == ["dropped", "match", "match", "match", "match"]


@asynchronous
async def test_a_call_too_large_to_compare_is_dropped() -> None:
    script = Scripted(v2_says())
    bounds = Bounds(call_bytes=shadow_call().held_bytes)
    async with serve(script) as server, shadowing(server.url, bounds) as running:
        running.offer(1)
        running.offer(2, body=BODY + b" ")
        running.offer(3, v1=v1_answer(201, envelope() + b" "))
        await running.finds(3)
        assert sorted(running.said()) == [
            (b"request-1", "match", None),
            (b"request-2", "dropped", "too_large"),
            (b"request-3", "dropped", "too_large"),
        ]
        assert len(script.requests) == 1


def test_what_a_call_holds() -> None:
    """Each part of it that a caller or v1 can make large."""
    small = shadow_call().held_bytes
    assert shadow_call(body=BODY + bytes(1_000)).held_bytes == small + 1_000
    assert shadow_call(v1_answer(201, envelope() + bytes(1_000))).held_bytes == small + 1_000
    assert shadow_call(v1_answer(coding=b"x" * 1_000)).held_bytes > small + 1_000
    long_line = ShadowCall(ENDPOINT, b"request-1", BODY, LINES + bytes(1_000), MESSAGE, v1_answer())
    assert long_line.held_bytes == small + 1_000


@asynchronous
async def test_no_more_at_v2_than_there_are_tasks() -> None:
    async with serve(hold) as server, shadowing(server.url, Bounds(tasks=3)) as running:
        running.offer(*range(20))
        await until(lambda: server.connections == 3)
        await turn(50)
        assert server.connections == 3


@asynchronous
async def test_room_comes_back_however_a_call_ends() -> None:
    """There is room for one call: a byte that were not given back would stop the shadow for ever."""
    script = Scripted(v2_says())
    bounds = Bounds(tasks=1, held_bytes=shadow_call().held_bytes)
    async with serve(script) as server, shadowing(server.url, bounds) as running:
        endings: list[tuple[bytes, bytes, Verdict]] = [
            (v2_says(), BODY, "match"),
            (v2_says("nox-2"), BODY, "mismatch"),
            (http(500), BODY, "v2_error"),
            (v2_says(), BODY[:-1] + b"!", "v2_error"),  # a bug: no such call is offered
            (v2_says(), BODY, "match"),
        ]
        for number, (said, body, verdict) in enumerate(endings, 1):
            script.pieces = (said,)
            running.offer(number, body=body)
            assert (await running.finds(number))[-1].verdict == verdict


@asynchronous
async def test_callers_come_in_between() -> None:
    """Calls that need no v2 are found one a turn by each task, not all at once."""
    turns = 0

    async def caller() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with shadowing(f"http://127.0.0.1:{unused_port()}", Bounds(tasks=2)) as running:
        running.offer(*range(100), v1=v1_answer(201, b"{}"))
        other = asyncio.create_task(caller())
        await running.finds(100)
        other.cancel()
    assert turns >= 100 / 2


# What it survives


@asynchronous
async def test_a_bug_ends_no_task(caplog: pytest.LogCaptureFixture) -> None:
    """More bugs than tasks, and the call after them is compared. The log has the type and the place, no value."""
    async with serve(Scripted(v2_says())) as server, shadowing(server.url, Bounds(tasks=2)) as running:
        with caplog.at_level(logging.ERROR):
            running.offer(1, 2, 3, body=b'{"manufacturer_user_id": 4711}')
            await running.finds(3)
        running.offer(4)
        await running.finds(4)
        crashed = [(b"request-%d" % number, "v2_error", "InvalidRequest") for number in (1, 2, 3)]
        assert running.said() == [*crashed, (b"request-4", "match", None)]
    assert len(caplog.records) == 3
    for record in caplog.records:
        text = record.getMessage()
        assert "InvalidRequest" in text
        assert "in _answer_by_v2" in text
        assert "4711" not in text
        assert KEY.decode() not in text


@asynchronous
async def test_a_report_that_fails_reaches_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the caller, who would be told of the drop, nor a task."""
    reports = 0

    def report(_: Comparison) -> None:
        nonlocal reports
        reports += 1
        raise ValueError(USER)

    async with serve(Scripted(v2_says())) as server:
        upstream = Upstream("v2", open_sender(server.url, "keepalive", Limits(), None))
        shadow = Shadow(upstream, report, Bounds(tasks=1, calls=2))
        shadow.start()
        for number in range(4):
            shadow.offer(shadow_call(number=number))
        await until(lambda: reports == 4)
        await shadow.aclose()
        await upstream.aclose()
    assert [record.getMessage() for record in caplog.records] == [
        "shadow: ValueError while a comparison was reported"
    ] * 4


@asynchronous
async def test_it_stops_at_once() -> None:
    """What waits or is at v2 is dropped and counted; whether v2 took the latter is not known."""
    async with serve(hold) as server:
        async with shadowing(server.url, Bounds(tasks=1)) as running:
            running.offer(1, 2, 3)
            await until(lambda: server.connections == 1)
            async with asyncio.timeout(1):
                await running.shadow.aclose()
            assert running.said() == [(b"request-%d" % number, "dropped", "shutting_down") for number in (1, 2, 3)]
        await server.all_gone()


def test_its_calls_show_no_secret() -> None:
    assert repr(shadow_call()) == "ShadowCall(connect_nox_user)"
