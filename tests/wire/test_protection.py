"""An upstream's breaker and retries, against servers that fail as they are told.

Over our own pool; over httpx's transport what depends on it, which is what counts as a failed connect.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

import pytest

from proxy.contract.errors import BreakerOpen, UpstreamConnectTimeout, UpstreamError, UpstreamUnavailable
from proxy.policy.breaker import BreakerRule
from proxy.wire.answer import Answer
from proxy.wire.pool import Limits
from proxy.wire.senders import open_sender
from proxy.wire.upstream import Upstream
from tests.wire.servers import (
    BOTH,
    OK,
    OURS,
    Authority,
    Handler,
    Rendezvous,
    Scripted,
    Way,
    asynchronous,
    close_at_once,
    hold,
    in_turn,
    serve,
    turn,
    until,
    unused_port,
)

LIMITS = Limits(timeout=1.0, connect_timeout=0.5, pool_timeout=0.5, max_connections=16)
NEVER = BreakerRule(failures=1_000_000, min_requests=1_000_000)
SOON = BreakerRule(failures=3, open_for=0.2)
FAILED = b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def way() -> Way:
    return OURS[0]


class Calls:
    """Calls to one upstream, and how often their connects were tried again."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.retries = 0
        self.retried = asyncio.Event()

    async def make(self) -> Answer:
        return await self.upstream.send(b"POST", b"/", b"content-length: 2\r\n", b"{}", self._on_retry)

    async def fail(self, times: int) -> list[UpstreamError]:
        """One after another."""
        errors = []
        for _ in range(times):
            with pytest.raises(UpstreamError) as raised:
                await self.make()
            errors.append(raised.value)
        return errors

    def _on_retry(self) -> None:
        self.retries += 1
        self.retried.set()


@asynccontextmanager
async def calls(
    way: Way, url: str, ca_file: str, rule: BreakerRule = NEVER, limits: Limits = LIMITS
) -> AsyncIterator[Calls]:
    upstream = Upstream("v2", open_sender(url, way.transport, limits, ca_file), rule)
    try:
        yield Calls(upstream)
    finally:
        await upstream.aclose()
        await turn()


async def half_open() -> None:
    """The breaker that has just opened takes a trial. Its clock is not the loop's, which may be a little behind."""
    since = monotonic()
    await until(lambda: monotonic() - since >= SOON.open_for)


# Retries


@pytest.mark.parametrize("way", BOTH, ids=str)
@asynchronous
async def test_what_refused_a_moment_ago_may_be_back(way: Way, ca_file: str) -> None:
    port = unused_port()
    async with calls(way, f"http://127.0.0.1:{port}", ca_file) as made:
        await made.fail(9)
        assert made.retries == 0
        tenth = asyncio.ensure_future(made.make())
        await made.retried.wait()
        script = Scripted(OK)
        async with serve(script, port=port):
            assert (await tenth).body == b"ok"
        assert len(script.requests) == made.retries == 1


@pytest.mark.parametrize("way", BOTH, ids=str)
@asynchronous
async def test_a_dead_upstream_gets_no_storm(way: Way, ca_file: str) -> None:
    limits = LIMITS._replace(max_connections=100)
    async with calls(way, f"http://127.0.0.1:{unused_port()}", ca_file, limits=limits) as made:
        errors = await asyncio.gather(*(made.make() for _ in range(100)), return_exceptions=True)
        assert {type(error) for error in errors} == {UpstreamUnavailable}
        assert 0 < made.retries <= 10


@pytest.mark.parametrize(
    "handler",
    [close_at_once, Scripted(end="close"), Scripted(end="reset"), Scripted(b"HTTP/1.1 20", end="close"), hold],
    ids=["closes", "closes after the request", "resets", "breaks off", "hangs"],
)
@asynchronous
async def test_nothing_is_sent_again_that_may_have_been_taken(way: Way, handler: Handler, ca_file: str) -> None:
    limits = LIMITS._replace(timeout=0.3)
    async with serve(handler) as server, calls(way, server.url, ca_file, limits=limits) as made:
        await asyncio.gather(*(made.make() for _ in range(30)), return_exceptions=True)
        assert made.retries == 0
        assert server.connections <= 30


@pytest.mark.parametrize("way", BOTH, ids=str)
@asynchronous
async def test_a_certificate_is_not_asked_for_again(way: Way, authority: Authority, ca_file: str) -> None:
    async with serve(hold, authority.server("expired")) as server, calls(way, server.url, ca_file) as made:
        await made.fail(20)
        assert made.retries == 0


@asynchronous
async def test_a_retry_keeps_within_the_deadline(way: Way, ca_file: str) -> None:
    """Of a connect that hangs: the second one has what is left, not a time of its own."""
    limits = LIMITS._replace(connect_timeout=0.2, timeout=0.4)
    async with serve(hold) as server, calls(way, f"https://127.0.0.1:{server.port}", ca_file, limits=limits) as made:
        await asyncio.gather(*(made.make() for _ in range(16)), return_exceptions=True)
        began = asyncio.get_running_loop().time()
        (error,) = await made.fail(1)
        assert isinstance(error, UpstreamConnectTimeout)
        assert asyncio.get_running_loop().time() - began < 0.4 + 0.2
        assert made.retries > 0


# The breaker


@pytest.mark.parametrize("pieces", [(FAILED,), ()], ids=["500", "closes"])
@asynchronous
async def test_it_opens_and_nothing_more_is_sent(way: Way, pieces: tuple[bytes, ...], ca_file: str) -> None:
    script = Scripted(*pieces, end="serve" if pieces else "close")
    async with serve(script) as server, calls(way, server.url, ca_file, SOON) as made:
        for _ in range(3):
            assert not made.upstream.state().is_open
            with suppress(UpstreamError):
                await made.make()
        assert made.upstream.state().is_open
        errors = await made.fail(5)
        assert {type(error) for error in errors} == {BreakerOpen}
        assert len(script.requests) == 3


@asynchronous
async def test_a_callers_mistake_is_no_failure(way: Way, ca_file: str) -> None:
    async with serve(Scripted(REFUSED)) as server, calls(way, server.url, ca_file, SOON) as made:
        for _ in range(10):
            assert (await made.make()).status == 429
        assert not made.upstream.state().is_open


@asynchronous
async def test_nor_is_a_pool_of_ours_that_is_too_small(way: Way, ca_file: str) -> None:
    limits = LIMITS._replace(max_connections=1, pool_timeout=0.02)
    async with serve(Rendezvous(2)) as server, calls(way, server.url, ca_file, SOON, limits) as made:
        first = asyncio.ensure_future(made.make())
        await asyncio.sleep(0)
        await made.fail(10)
        assert not made.upstream.state().is_open
        first.cancel()
        await asyncio.wait([first])


@asynchronous
async def test_half_open_one_of_many_is_the_trial(way: Way, ca_file: str) -> None:
    script = Scripted(FAILED)
    async with serve(script) as server, calls(way, server.url, ca_file, SOON) as made:
        for _ in range(3):
            await made.make()
        await half_open()
        found = await asyncio.gather(*(made.make() for _ in range(16)), return_exceptions=True)
        assert len(script.requests) == 4
        assert [type(each) for each in found].count(BreakerOpen) == 15
        script.pieces = (OK,)
        await half_open()
        assert (await made.make()).body == b"ok"
        answers = await asyncio.gather(*(made.make() for _ in range(16)))
        assert {answer.status for answer in answers} == {200}


@asynchronous
async def test_a_trial_that_is_given_up_makes_room_for_another(way: Way, ca_file: str) -> None:
    handler = in_turn(*[Scripted(end="close")] * 3, hold, Scripted(OK))
    async with serve(handler) as server, calls(way, server.url, ca_file, SOON) as made:
        await made.fail(3)
        await half_open()
        trial = asyncio.ensure_future(made.make())
        await until(lambda: server.connections == 4)
        await made.fail(1)
        trial.cancel()
        await asyncio.wait([trial])
        assert (await made.make()).body == b"ok"
