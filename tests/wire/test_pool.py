"""Our pool alone: what it refuses, when it gives up, and that nothing is left over.

It is long for the ways in which a connection may end or go wrong, each a script of its own.
"""

import asyncio
import contextlib
import gc
import random
import ssl
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.wire.answer import Answer
from proxy.wire.connection import MAX_HEAD_BYTES, Disconnected, ResponseTooLarge
from proxy.wire.pool import Limits, Origin, Pool
from tests.wire.servers import (
    OK,
    OURS,
    Authority,
    Handler,
    Rendezvous,
    Scripted,
    Server,
    Way,
    asynchronous,
    gone,
    hold,
    in_turn,
    read_request,
    reset,
    send,
    serve,
    shut,
    turn,
    until,
    unused_port,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=OURS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def open_pool(tls: ssl.SSLContext | None = None, **limits: Any) -> contextlib.aclosing[Pool]:
    """Closed with its block. Of one connection, unless the limits say otherwise."""
    own = Limits(**{"timeout": 2.0, "max_connections": 1, **limits})
    return contextlib.aclosing(Pool(own, tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


def at(server: Server) -> Origin:
    return Origin(server.scheme, "127.0.0.1", server.port)


def seconds() -> float:
    return asyncio.get_running_loop().time()


async def assert_ok(pool: Pool, server: Server) -> None:
    assert await pool.exchange(at(server), GET) == Answer(200, ((b"content-length", b"2"),), b"ok")


# What is refused


def with_length(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


def in_chunks(size: int) -> bytes:
    return CHUNKED + b"1\r\nx\r\n" * size + b"0\r\n\r\n"


def without_length(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * size


@pytest.mark.parametrize("message", [with_length, in_chunks, without_length])
@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False), (100_000, False)])
@asynchronous
async def test_max_response_bytes(way: Way, message: Callable[[int], bytes], size: int, fits: bool) -> None:
    """Up to and with the limit, however the body is framed; the connection of one too large is closed."""
    first = Scripted(message(size), end="close")
    async with serve(in_turn(first, Scripted(OK))) as server, open_pool(max_response_bytes=1000) as pool:
        if fits:
            assert (await pool.exchange(at(server), GET)).body == b"x" * size
        else:
            with pytest.raises(ResponseTooLarge):
                await pool.exchange(at(server), GET)
            await assert_ok(pool, server)


@asynchronous
async def test_body_without_end(way: Way) -> None:
    """Given up at the limit, not at the deadline."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await send(writer, b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await send(writer, b"x" * 10_000)

    async with serve(pour) as server, open_pool(timeout=60.0) as pool:
        with pytest.raises(ResponseTooLarge):
            await pool.exchange(at(server), GET)
        await server.all_gone()


@pytest.mark.parametrize("form", ["one value", "one name", "many fields", "reason phrase", "interim answers"])
@pytest.mark.parametrize("segments", [1, 100], ids=["at once", "in segments"])
@asynchronous
async def test_head_too_large(way: Way, form: str, segments: int) -> None:
    """However it arrives, a whole head over MAX_HEAD_BYTES is none."""
    over = MAX_HEAD_BYTES + 5000
    head = {
        "one value": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * over + b"\r\n",
        "one name": b"HTTP/1.1 200 OK\r\n" + b"a" * over + b": 1\r\n",
        "many fields": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1234\r\n" * (over // 11),
        "reason phrase": b"HTTP/1.1 200 " + b"a" * over + b"\r\n",
        "interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * (over // 25) + b"HTTP/1.1 200 OK\r\n",
    }[form]
    message = head + b"Content-Length: 0\r\n\r\n"
    step = len(message) // segments + 1
    pieces = [message[start : start + step] for start in range(0, len(message), step)]
    async with serve(in_turn(Scripted(*pieces, end="hold"), Scripted(OK))) as server, open_pool() as pool:
        with pytest.raises(httpx.RemoteProtocolError):
            await pool.exchange(at(server), GET)
        await assert_ok(pool, server)
        await until(lambda: server.open == 1)


@asynchronous
async def test_head_that_fits(way: Way) -> None:
    """60,000 bytes of fields are no fault; nor is a large body in the segment of a small head."""
    large = b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 60_000 + b"\r\nContent-Length: 2\r\n\r\nok"
    async with serve(in_turn(Scripted(large))) as server, open_pool() as pool:
        for _ in range(3):
            assert (await pool.exchange(at(server), GET)).body == b"ok"
    async with serve(Scripted(with_length(200_000))) as server, open_pool() as pool:
        for _ in range(3):
            assert len((await pool.exchange(at(server), GET)).body) == 200_000
        assert server.connections == 1


ENDLESS = {
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\nX-A: 1\r\n\r\n"),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"X-A: 1\r\n"),
    "a value": (b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 1000),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\n", b"X-A: 1\r\n" * 100),
    "a trailer": (CHUNKED + b"2\r\nok\r\n0\r\nX-A: ", b"a" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
@asynchronous
async def test_endless(way: Way, name: str) -> None:
    """What has no end is given up by its size, long before the deadline."""
    start, more = ENDLESS[name]
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        await send(writer, start)
        while True:
            await send(writer, more * 10)
            sent += len(more) * 10

    async with serve(pour) as server, open_pool(timeout=60.0) as pool:
        exchange = asyncio.ensure_future(pool.exchange(at(server), GET))
        await until(lambda: exchange.done() or sent > 3_000_000)
        exchange.cancel()
        with pytest.raises(httpx.RemoteProtocolError):
            await exchange
        await server.all_gone()


@pytest.mark.parametrize("status", [b"000", b"099", b"101", b"600", b"999"])
@asynchronous
async def test_status_that_cannot_be_handed_on(way: Way, status: bytes) -> None:
    bad = Scripted(b"HTTP/1.1 " + status + b" Odd\r\nContent-Length: 2\r\n\r\nok", end="hold")
    async with serve(in_turn(bad, Scripted(OK))) as server, open_pool() as pool:
        with pytest.raises(httpx.RemoteProtocolError):
            await pool.exchange(at(server), GET)
        await assert_ok(pool, server)
        await until(lambda: server.open == 1)


@pytest.mark.parametrize(
    "coding", [b"gzip", b"gzip, chunked", b"chunked, gzip", b"identity", b"chunked, chunked", b"x"]
)
@asynchronous
async def test_transfer_coding_not_asked_for(way: Way, coding: bytes) -> None:
    """We send no TE, so chunked alone may come; with a tab behind it, llhttp sees none."""
    message = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with serve(in_turn(Scripted(message, end="close"), Scripted(OK))) as server, open_pool() as pool:
        with pytest.raises(httpx.RemoteProtocolError) as raised:
            await pool.exchange(at(server), GET)
        assert not isinstance(raised.value, Disconnected)
        await assert_ok(pool, server)


# Deadlines


TRICKLES = {
    "the head": b"HTTP/1.1 200 OK\r\nX-A: ",
    "the body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "a chunk": CHUNKED + b"fffff\r\n",
    "a chunk extension": CHUNKED + b"1;a=",
    "a trailer": CHUNKED + b"1\r\nx\r\n0\r\nX-A: ",
    "a body without a length": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("start", TRICKLES.values(), ids=TRICKLES)
@asynchronous
async def test_trickle(way: Way, start: bytes) -> None:
    """One deadline for the whole exchange, however lively the server is; then it sees its caller gone."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        while not writer.transport.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.01)

    async with serve(in_turn(trickle, Scripted(OK))) as server, open_pool(timeout=0.1) as pool:
        began = seconds()
        with pytest.raises(httpx.ReadTimeout):
            await pool.exchange(at(server), GET)
        assert 0.09 < seconds() - began < 1.0
        await server.all_gone()
        await assert_ok(pool, server)


@asynchronous
async def test_server_that_reads_nothing(way: Way) -> None:
    """The deadline covers the sending too."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: server.connections == 2)

    message = b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000
    async with serve(in_turn(deaf, Scripted(OK))) as server, open_pool(timeout=0.1) as pool:
        with pytest.raises(httpx.ReadTimeout):
            await pool.exchange(at(server), message)
        await assert_ok(pool, server)


@asynchronous
async def test_times_of_one_exchange(way: Way) -> None:
    """They hold for it alone."""
    async with serve(hold) as server, open_pool(timeout=60.0) as pool:
        with pytest.raises(httpx.ReadTimeout):
            await pool.exchange(at(server), GET, limits=pool.limits._replace(timeout=0.05))
    async with serve(Scripted(OK)) as server, open_pool(timeout=0.01) as pool:
        answer = await pool.exchange(at(server), GET, limits=pool.limits._replace(timeout=5.0))
        assert answer.body == b"ok"


@asynchronous
async def test_waiting_ends_with_the_deadline(way: Way, authority: Authority) -> None:
    """Neither the wait for a slot nor the connecting goes on beyond the whole exchange's end."""
    async with serve(hold) as server, open_pool(authority.client(), timeout=0.1, pool_timeout=60.0) as pool:
        began = seconds()
        held = asyncio.ensure_future(pool.exchange(at(server), GET, limits=pool.limits._replace(timeout=60.0)))
        await until(lambda: server.connections == 1)
        with pytest.raises(httpx.PoolTimeout):
            await pool.exchange(at(server), GET)
        held.cancel()
        await asyncio.wait([held])
        with pytest.raises(httpx.ConnectTimeout):
            await pool.exchange(at(server)._replace(scheme="https"), GET)
        assert seconds() - began < 2.0


# What ends a connection


@pytest.mark.parametrize("surplus", [b"\r\n", b"\n", b"\r\n\r\n", b"\r\n\r\n\r\n"], ids=repr)
@pytest.mark.parametrize(
    "message", [OK, with_length(0), with_length(0)[:-4] + b"\r\nX-A: 1\r\n\r\n", in_chunks(2)], ids=repr
)
@asynchronous
async def test_line_ends_after_an_answer(way: Way, message: bytes, surplus: bytes) -> None:
    """A parser skips them; a clean upstream sends none, and there may be more to come."""
    async with serve(Scripted(message + surplus)) as server, open_pool() as pool:
        for _ in range(2):
            assert (await pool.exchange(at(server), GET)).status == 200
        assert server.connections == 2


@asynchronous
async def test_body_that_ends_in_line_ends(way: Way) -> None:
    """They are the body's own: the same surplus, not seen for the body's last line."""
    message = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok\r\n"
    async with serve(Scripted(message)) as server, open_pool() as pool:
        for _ in range(2):
            assert (await pool.exchange(at(server), GET)).body == b"ok\r\n"
        assert server.connections == 1
    async with serve(Scripted(message + b"\r\n")) as server, open_pool() as pool:
        for _ in range(2):
            assert (await pool.exchange(at(server), GET)).body == b"ok\r\n"
        assert server.connections == 2


@pytest.mark.parametrize("late", [b"x", b"\r\n", OK, b"HTTP/1.1 408 Request Timeout\r\n\r\n"], ids=repr)
@asynchronous
async def test_bytes_on_an_idle_connection(way: Way, late: bytes) -> None:
    """Nobody asked: the connection is closed at once, without a call to find it out."""
    async with serve(Scripted(OK)) as server, open_pool() as pool:
        await assert_ok(pool, server)
        server.writers[0].write(late)
        await server.all_gone()
        await assert_ok(pool, server)
        assert server.connections == 2


@asynchronous
async def test_early_answer(way: Way) -> None:
    """It comes before the request is written: taken, but what is unsent may not run into the next request."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await send(writer, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: server.connections == 2)
        await gone(reader)

    message = b"POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000
    async with serve(in_turn(hasty, Scripted(OK))) as server, open_pool() as pool:
        assert (await pool.exchange(at(server), message)).status == 413
        await assert_ok(pool, server)
        await until(lambda: server.open == 1)


async def speaks_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await send(writer, b"220 mail.test ESMTP\r\n")
    writer.close()


async def closes_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


@pytest.mark.parametrize("handler", [speaks_first, closes_at_once, resets_at_once])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@asynchronous
async def test_server_that_does_not_wait(way: Way, handler: Handler, secure: bool, authority: Authority) -> None:
    """Told at once, never at the deadline; whichever comes first, its word or the request."""
    tls = authority.server() if secure else None
    async with serve(handler, tls) as server, open_pool(authority.client(), timeout=60.0, max_connections=9) as pool:
        for _ in range(5):
            calls = [pool.exchange(at(server), GET) for _ in range(9)]
            ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2.0)
            assert all(isinstance(end, httpx.RemoteProtocolError | httpx.ConnectError) for end in ends)
        await server.all_gone()


@asynchronous
async def test_tls_cut_off(way: Way, authority: Authority) -> None:
    """An answer by close, and TCP closed without TLS's own end: cut by anybody, so not whole (RFC 9112, 9.8).

    uvloop tells the two apart; the standard loop reports both as an end, and so does every client on it.
    """

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await send(writer, b"HTTP/1.1 200 OK\r\n\r\nhalf")
        shut(writer)

    async with serve(cut, authority.server()) as server, open_pool(authority.client()) as pool:
        if way.loop == "uvloop":
            with pytest.raises(Disconnected):
                await pool.exchange(at(server), GET)
        else:
            assert (await pool.exchange(at(server), GET)).body == b"half"


# What is left over

MILLION = 1_000_000
READ = {
    "answered": (Scripted(with_length(MILLION)), None),
    "too large": (Scripted(with_length(2 * MILLION)), ResponseTooLarge),
    "broken off": (Scripted(with_length(MILLION)[:-1], end="close"), Disconnected),
    "not in time": (Scripted(with_length(MILLION)[:-1], end="hold"), httpx.ReadTimeout),
}


@pytest.mark.parametrize(("script", "error"), READ.values(), ids=READ)
@asynchronous
async def test_what_was_read_goes_with_its_exchange(
    way: Way, script: Scripted, error: type[httpx.TransportError] | None
) -> None:
    """Whatever becomes of the connection: it may be kept, or wait for the collector with what refers to it."""
    timeout = 0.2 if error is httpx.ReadTimeout else 2.0
    async with serve(script) as server, open_pool(timeout=timeout, max_response_bytes=MILLION) as pool:
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(3):
                with pytest.raises(error) if error else contextlib.nullcontext():
                    await pool.exchange(at(server), GET)
            await turn()
            held, _most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert held < MILLION / 2


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@asynchronous
async def test_nothing_is_left_over(way: Way, secure: bool, authority: Authority) -> None:
    """After timeouts, cancels and faults of every kind: no file descriptor more, and every slot free."""
    kinds: list[Handler] = [
        hold,
        Scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", end="hold"),
        Scripted(b"HTTP/1.1 200 OK\r\nContent-Le", end="reset"),
        Scripted(end="close"),
        Scripted(b"garbage\r\n\r\n", end="hold"),
        Scripted(OK + OK, end="hold"),
        Scripted(b"HTTP/1.1 200 OK\r\n\r\nhello", end="close"),
        Scripted(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", end="close"),
    ]
    tls = authority.server() if secure else None
    async with serve(in_turn(*kinds * 3, Rendezvous(8)), tls) as server:
        before = open_files()
        async with open_pool(authority.client(), timeout=0.1, max_connections=8) as pool:
            tasks = [asyncio.ensure_future(pool.exchange(at(server), GET)) for _ in range(24)]
            await until(lambda: server.connections >= 8 or all(task.done() for task in tasks))
            for task in tasks[::3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with pytest.raises(httpx.ConnectError):
                await pool.exchange(Origin("http", "127.0.0.1", unused_port()), GET)
            while server.connections < 24:
                with contextlib.suppress(httpx.TransportError):
                    await pool.exchange(at(server), GET)
            wide = pool.limits._replace(timeout=5.0)
            await asyncio.gather(*(pool.exchange(at(server), GET, limits=wide) for _ in range(8)))
        await server.all_gone()
        await until(lambda: open_files() <= before)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@asynchronous
async def test_cancels_race_with_freed_slots(way: Way, seed: int, secure: bool, authority: Authority) -> None:
    """Callers leave at random while two connections come free at random: both slots survive, and no more."""
    chance = random.Random(seed)

    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            await turn(chance.randrange(4))
            answer = chance.choice([OK, OK, OK[:-1], b"junk\r\n\r\n", OK + b"x"])
            await send(writer, answer)
            if answer == OK[:-1] or chance.random() < 0.3:
                return

    tls = authority.server() if secure else None
    async with serve(moody, tls) as server, open_pool(authority.client(), timeout=5.0, max_connections=2) as pool:
        tasks = []
        for _ in range(300):
            tasks.append(asyncio.ensure_future(pool.exchange(at(server), GET)))
            await turn(chance.randrange(3))
            for task in tasks[-6:]:
                if chance.random() < 0.25:
                    task.cancel()
        for task in tasks:
            await turn(chance.randrange(3))
            if chance.random() < 0.8:
                task.cancel()
        for task in tasks[-40:]:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        expected = (Answer, asyncio.CancelledError, httpx.RemoteProtocolError)
        assert [end for end in ends if not isinstance(end, expected)] == []
        assert_slots(pool, server, 2)


def assert_slots(pool: Pool, server: Server, slots: int) -> None:
    """As many as there should be to the server's origin: not one lost, not one too many."""
    lane = pool._lanes[at(server)]
    assert (lane.active, lane.slots) == (0, slots)


@asynchronous
async def test_a_call_cancelled_as_its_connection_is_made_leaves_none_open(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(Rendezvous(1)) as server, open_pool() as pool:
        reach = Pool._reach

        async def reach_and_cancel(*arguments: Any) -> None:
            await reach(*arguments)
            asyncio.get_running_loop().call_soon(call.cancel)

        monkeypatch.setattr(Pool, "_reach", reach_and_cancel)
        call = asyncio.ensure_future(pool.exchange(at(server), GET))
        with pytest.raises(asyncio.CancelledError):
            await call
        assert pool.connections() == (0, 0)
        await server.all_gone()


@asynchronous
async def test_aclose_ends_idle_connections(way: Way) -> None:
    async with serve(Rendezvous(3)) as server:
        async with open_pool(max_connections=3) as pool:
            await asyncio.gather(*(assert_ok(pool, server) for _ in range(3)))
            assert server.open == 3
        await server.all_gone()


@asynchronous
async def test_aclose_during_an_exchange(way: Way) -> None:
    """The exchange ends as it would have; its connection ends with it."""
    may_answer = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            await may_answer.wait()
            await send(writer, OK)

    async with serve(slow) as server:
        async with open_pool() as pool:
            call = asyncio.ensure_future(assert_ok(pool, server))
            await until(lambda: server.connections == 1)
        may_answer.set()
        await call
        await asyncio.wait_for(server.all_gone(), 1.0)


@asynchronous
async def test_idle_connections_are_swept(way: Way) -> None:
    """After keepalive_expiry, with no call to find them out; and again after the next calls."""
    async with serve(Rendezvous(3)) as server, open_pool(max_connections=3, keepalive_expiry=0.1) as pool:
        for _ in range(2):
            began = seconds()
            await asyncio.gather(*(assert_ok(pool, server) for _ in range(3)))
            assert server.open == 3
            await assert_ok(pool, server)
            await server.all_gone()
            assert 0.1 <= seconds() - began < 1.0
        assert server.connections == 6


@asynchronous
async def test_origins_share_nothing(way: Way) -> None:
    """A busy or dead origin leaves the others their slots."""
    async with serve(hold) as busy, serve(Scripted(OK)) as free, open_pool(timeout=5.0) as pool:
        held = asyncio.ensure_future(pool.exchange(at(busy), GET))
        await until(lambda: busy.connections == 1)
        await assert_ok(pool, free)
        held.cancel()
        await asyncio.wait([held])
