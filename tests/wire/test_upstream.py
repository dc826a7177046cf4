"""The contract's "From v2", its rows of faults: over our own pool and over httpx's.

It is long for its tables: each fault, and each answer, is a row.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from proxy.contract.errors import (
    InvalidUpstreamResponse,
    ProxyError,
    UpstreamConnectTimeout,
    UpstreamDisconnected,
    UpstreamOverloaded,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.contract.messages import Field, write_lines
from proxy.wire.answer import Answer
from proxy.wire.connection import Disconnected, ResponseTooLarge
from proxy.wire.pool import Limits
from proxy.wire.senders import open_sender
from proxy.wire.upstream import Upstream, fault_of
from tests.wire.servers import (
    BOTH,
    OK,
    TLS_FAULTS,
    Authority,
    End,
    Handler,
    Scripted,
    TlsFault,
    Way,
    answer_in_plain,
    asynchronous,
    close_at_once,
    hold,
    in_turn,
    read_request,
    send,
    serve,
    until,
    unused_port,
)

LINES: tuple[Field, ...] = ((b"x-api-key", b"key"), (b"content-length", b"2"))
LIMITS = Limits(timeout=2.0, connect_timeout=1.0, pool_timeout=1.0, max_connections=1, max_response_bytes=1000)


@pytest.fixture(params=BOTH, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@asynccontextmanager
async def upstream(way: Way, url: str, ca_file: str, limits: Limits = LIMITS) -> AsyncIterator[Upstream]:
    one = Upstream("v2", open_sender(url, way.transport, limits, ca_file))
    try:
        yield one
    finally:
        await one.aclose()


async def call(one: Upstream) -> Answer:
    return await one.send(b"POST", b"/manufacturer/device-connections", write_lines(LINES), b"{}")


# The map of exceptions


def all_below(base: type[httpx.TransportError]) -> Iterator[type[httpx.TransportError]]:
    yield base
    for below in base.__subclasses__():
        yield from all_below(below)


FAULTS: dict[type[httpx.TransportError], tuple[type[ProxyError], str]] = {
    httpx.TimeoutException: (UpstreamTimeout, "http_response_timeout"),
    httpx.ConnectTimeout: (UpstreamConnectTimeout, "connection_timeout"),
    httpx.ReadTimeout: (UpstreamTimeout, "http_response_timeout"),
    httpx.WriteTimeout: (UpstreamTimeout, "http_response_timeout"),
    httpx.PoolTimeout: (UpstreamOverloaded, "connection_limit_reached"),
    httpx.NetworkError: (UpstreamDisconnected, "connection_terminated"),
    httpx.ConnectError: (UpstreamUnavailable, "destination_unavailable"),
    httpx.ReadError: (UpstreamDisconnected, "connection_terminated"),
    httpx.WriteError: (UpstreamDisconnected, "connection_terminated"),
    httpx.CloseError: (UpstreamDisconnected, "connection_terminated"),
    httpx.RemoteProtocolError: (InvalidUpstreamResponse, "http_protocol_error"),
    Disconnected: (UpstreamDisconnected, "connection_terminated"),
    ResponseTooLarge: (InvalidUpstreamResponse, "http_response_body_size"),
}

BUGS = (
    httpx.TransportError,
    httpx.ProtocolError,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)
"""A request that may not be sent: ours to mend, and raised as it is, so that its traceback is logged."""


def test_the_map_is_complete() -> None:
    """Whatever subclasses httpx has today, and those of ours."""
    assert {*FAULTS, *BUGS} == set(all_below(httpx.TransportError))


@pytest.mark.parametrize("error", BUGS)
def test_a_bug_is_no_fault_of_the_upstream(error: type[httpx.TransportError]) -> None:
    with pytest.raises(error):
        fault_of(error("a text"))


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: error.__name__)
def test_the_map(error: type[httpx.TransportError]) -> None:
    fault = fault_of(error("a text"))
    assert (type(fault), fault.reason) == FAULTS[error]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
def test_what_this_machine_lacks_is_no_fault_of_the_upstream(number: int) -> None:
    error = httpx.ConnectError("no connection")
    error.__cause__ = OSError(number, "")
    assert isinstance(fault_of(error), UpstreamOverloaded)


# Real faults


class Row(NamedTuple):
    """What the upstream does, and what becomes of it."""

    pieces: tuple[bytes, ...]
    end: End
    error: type[ProxyError]
    reason: str


def with_field(field: bytes, body: bytes = b"ok") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (field, len(body), body)


CUT = UpstreamDisconnected, "connection_terminated"
NOT_HTTP = InvalidUpstreamResponse, "http_protocol_error"
TOO_LARGE = InvalidUpstreamResponse, "http_response_body_size"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

ROWS = {
    "closed without an answer": Row((), "close", *CUT),
    "closed in the status line": Row((b"HTTP/1.1 20",), "close", *CUT),
    "closed in the head": Row((b"HTTP/1.1 200 OK\r\nContent-Le",), "close", *CUT),
    "closed after an interim answer": Row((b"HTTP/1.1 100 Continue\r\n\r\n",), "close", *CUT),
    "closed in the body": Row((OK[:-1],), "close", *CUT),
    "closed in a chunk": Row((CHUNKED + b"5\r\nhel",), "close", *CUT),
    "closed before the last chunk": Row((CHUNKED + b"5\r\nhello\r\n",), "close", *CUT),
    "reset without an answer": Row((), "reset", *CUT),
    "reset in the head": Row((b"HTTP/1.1 200 OK\r\nContent-Le",), "reset", *CUT),
    "reset in the body": Row((OK[:-1],), "reset", *CUT),
    "garbage": Row((b"\x16\x03\x01 this is no HTTP\r\n\r\n",), "hold", *NOT_HTTP),
    "garbage that says closed": Row((b"connection closed\r\n\r\n",), "hold", *NOT_HTTP),
    "a field that says disconnected": Row((b"HTTP/1.1 200 OK\r\ndisconnected \r\n\r\n",), "hold", *NOT_HTTP),
    "a status in letters": Row((b"HTTP/1.1 abc OK\r\n\r\n",), "hold", *NOT_HTTP),
    "a status of 099": Row((b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",), "hold", *NOT_HTTP),
    "a status of 101": Row(
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",), "hold", *NOT_HTTP
    ),
    "a status of 600": Row((b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",), "hold", *NOT_HTTP),
    "a status of 999": Row((b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",), "hold", *NOT_HTTP),
    "two lengths": Row((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",), "hold", *NOT_HTTP),
    "a chunk's size in letters": Row((CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n",), "hold", *NOT_HTTP),
    "too large": Row((with_field(b"X-A: 1", b"x" * 1001),), "serve", *TOO_LARGE),
    "too large, chunked": Row((CHUNKED + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",), "serve", *TOO_LARGE),
    "too large, by close": Row((b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,), "close", *TOO_LARGE),
    "no answer": Row((), "hold", UpstreamTimeout, "http_response_timeout"),
    "no whole head": Row((b"HTTP/1.1 200 OK\r\n",), "hold", UpstreamTimeout, "http_response_timeout"),
    "no whole body": Row((OK[:-1],), "hold", UpstreamTimeout, "http_response_timeout"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@asynchronous
async def test_faults(way: Way, row: Row, ca_file: str) -> None:
    """Each becomes its error, and the next call, over the one slot that there is, succeeds."""
    script = Scripted(*row.pieces, end=row.end)
    limits = LIMITS._replace(timeout=0.4) if row.error is UpstreamTimeout else LIMITS
    async with serve(in_turn(script, Scripted(OK))) as server, upstream(way, server.url, ca_file, limits) as one:
        with pytest.raises(ProxyError) as raised:
            await call(one)
        assert (type(raised.value), raised.value.reason) == (row.error, row.reason)
        assert len(script.requests) == 1
        script.pieces, script.end = (OK,), "serve"
        assert (await call(one)).body == b"ok"


@asynchronous
async def test_trickle(way: Way, ca_file: str) -> None:
    """One deadline for the whole call: httpx's own times run anew with each read."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.01)

    limits = LIMITS._replace(timeout=0.4)
    async with serve(in_turn(trickle, Scripted(OK))) as server, upstream(way, server.url, ca_file, limits) as one:
        with pytest.raises(UpstreamTimeout):
            await call(one)
        await server.all_gone()
        assert (await call(one)).body == b"ok"


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "connection_refused"), ("localhost", "connection_refused"), ("nowhere.invalid", "dns_error")],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
@asynchronous
async def test_nobody_there(way: Way, scheme: str, host: str, reason: str, ca_file: str) -> None:
    async with upstream(way, f"{scheme}://{host}:{unused_port()}/v2", ca_file) as one:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable) as raised:
                await call(one)
            assert raised.value.reason == reason


@asynchronous
async def test_name_that_cannot_be_looked_up(way: Way, ca_file: str) -> None:
    """A label over 63 characters: a mistyped setting, and no crash."""
    async with upstream(way, f"http://{'a' * 64}.invalid", ca_file) as one:
        with pytest.raises(UpstreamUnavailable):
            await call(one)


@pytest.mark.parametrize("fault", TLS_FAULTS)
@asynchronous
async def test_tls_not_verified(way: Way, fault: TlsFault, authority: Authority, ca_file: str) -> None:
    """The key is not sent."""
    script = Scripted(OK)
    async with serve(script, authority.server(fault)) as server, upstream(way, server.url, ca_file) as one:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable) as raised:
                await call(one)
            assert raised.value.reason == "tls_certificate_error"
    assert script.requests == []


@asynchronous
async def test_tls_verified(way: Way, authority: Authority, ca_file: str) -> None:
    async with serve(Scripted(OK), authority.server()) as server, upstream(way, server.url, ca_file) as one:
        assert await call(one) == Answer(200, ((b"content-length", b"2"),), b"ok")


@pytest.mark.parametrize("handler", [answer_in_plain, close_at_once])
@asynchronous
async def test_plain_text_behind_https(way: Way, handler: Handler, ca_file: str) -> None:
    async with serve(handler) as server, upstream(way, f"https://127.0.0.1:{server.port}", ca_file) as one:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await call(one)


@asynchronous
async def test_tls_handshake_that_hangs(way: Way, ca_file: str) -> None:
    limits = LIMITS._replace(connect_timeout=0.1)
    async with serve(hold) as server, upstream(way, f"https://127.0.0.1:{server.port}", ca_file, limits) as one:
        for _ in range(2):
            with pytest.raises(UpstreamTimeout) as raised:
                await call(one)
            assert raised.value.reason == "connection_timeout"


@asynchronous
async def test_no_connection_free(way: Way, ca_file: str) -> None:
    limits = LIMITS._replace(pool_timeout=0.1)
    async with serve(in_turn(hold, Scripted(OK))) as server, upstream(way, server.url, ca_file, limits) as one:
        held = asyncio.ensure_future(call(one))
        await until(lambda: server.connections == 1)
        with pytest.raises(UpstreamOverloaded) as raised:
            await call(one)
        assert raised.value.reason == "connection_limit_reached"
        held.cancel()
        await asyncio.wait([held])
        assert (await call(one)).body == b"ok"


@asynchronous
async def test_a_slow_spell_takes_no_connection_for_good(way: Way, ca_file: str) -> None:
    """Calls that wait for a connection, and get one just as their time is over."""
    limits = LIMITS._replace(timeout=0.15, pool_timeout=0.1, max_connections=2)
    slow = True

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            if slow:
                await asyncio.sleep(0.1)  # what makes it slow
            await send(writer, OK)

    async with serve(answer) as server, upstream(way, server.url, ca_file, limits) as one:
        for _ in range(5):
            await asyncio.gather(*(call(one) for _ in range(20)), return_exceptions=True)
        slow = False
        assert {(await call(one)).body for _ in range(3)} == {b"ok"}


@asynchronous
async def test_nobody_gets_anothers_answer(way: Way, ca_file: str) -> None:
    """What is said beyond an answer is no answer to the next call."""
    evil = OK.replace(b"ok", b"no")
    async with serve(Scripted(OK + evil)) as server, upstream(way, server.url, ca_file) as one:
        assert [(await call(one)).body for _ in range(4)] == [b"ok"] * 4


# Answers


ANSWERS = {
    "201": (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok", 201, b"ok"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "301": (b"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 301, b""),
    "307": (b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", 307, b""),
    "308": (b"HTTP/1.1 308 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 308, b""),
    "400": (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno", 400, b"no"),
    "500": (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", 500, b""),
    "599": (b"HTTP/1.1 599 Odd\r\nContent-Length: 2\r\n\r\nno", 599, b"no"),
    "identity": (with_field(b"Content-Encoding: identity"), 200, b"ok"),
    "identity, spaced": (with_field(b"Content-Encoding:  Identity "), 200, b"ok"),
    "as large as may be": (with_field(b"X-A: 1", b"x" * 1000), 200, b"x" * 1000),
}


@pytest.mark.parametrize(("message", "status", "body"), ANSWERS.values(), ids=ANSWERS)
@asynchronous
async def test_answers(way: Way, message: bytes, status: int, body: bytes, ca_file: str) -> None:
    """They are returned as they are, redirects too: none is followed, and each call is sent once."""
    script = Scripted(message)
    async with serve(script) as server, upstream(way, server.url, ca_file) as one:
        for calls in (1, 2):
            answer = await call(one)
            assert (answer.status, answer.body, len(script.requests)) == (status, body, calls)
            assert all(name == name.lower() for name, _ in answer.fields)


@pytest.mark.parametrize("base", ["", "/", "/v2", "/v2/", "/a/b%20c"])
@asynchronous
async def test_what_is_sent(way: Way, base: str, ca_file: str) -> None:
    """The path below the upstream's URL, its Host, the lines given and no line more."""
    script = Scripted(OK)
    async with serve(script) as server, upstream(way, server.url + base, ca_file) as one:
        await call(one)
        host = b"127.0.0.1:%d" % server.port
    (request,) = script.requests
    assert request.line == b"POST %s/manufacturer/device-connections HTTP/1.1" % base.rstrip("/").encode()
    assert [(name.lower(), value) for name, value in request.fields] == [(b"host", host), *LINES]
    assert request.body == b"{}"


def test_ca_file_that_cannot_be_read(way: Way, tmp_path: Path) -> None:
    """Missing, or without a certificate in it."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (tmp_path / "missing.pem", empty):
        with pytest.raises(OSError):  # noqa: PT011
            open_sender("https://v2.test", way.transport, LIMITS, str(path))
