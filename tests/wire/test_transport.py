"""The same table over our transport and httpx's own: whatever holds for one holds for the other.

Where httpcore 1.0.9 is known to behave otherwise, the row says what it does instead.
"""

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import pytest

from proxy.wire.pool import Limits, Pool
from proxy.wire.transport import KeepAliveTransport, origin_of, trust_for
from tests.wire.servers import (
    BOTH,
    OK,
    OURS,
    TLS_FAULTS,
    Authority,
    End,
    Handler,
    Rendezvous,
    Scripted,
    TlsFault,
    Way,
    answer_in_plain,
    asynchronous,
    close_at_once,
    gone,
    hold,
    in_turn,
    read_request,
    relay,
    send,
    serve,
    shut,
    turn,
    until,
    unused_port,
)

DISCONNECTED = (httpx.RemoteProtocolError, httpx.ReadError)
"""An RST: httpx's own pool tells it apart from a FIN."""

NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(params=BOTH, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def client(
    way: Way,
    tls: ssl.SSLContext = NO_AUTHORITY,
    *,
    connections: int = 10,
    expiry: float = 5.0,
    connect: float = 2.0,
    read: float = 2.0,
    pool: float = 2.0,
) -> httpx.AsyncClient:
    transport: httpx.AsyncBaseTransport
    if way.transport == "keepalive":
        limits = Limits(max_connections=connections, keepalive_expiry=expiry)
        transport = KeepAliveTransport(Pool(limits, tls))
    else:
        theirs = httpx.Limits(max_connections=connections, keepalive_expiry=expiry)
        transport = httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=theirs)
    times = httpx.Timeout(connect=connect, read=read, write=read, pool=pool)
    return httpx.AsyncClient(transport=transport, timeout=times, trust_env=False)


# Answers that are understood


class Good(NamedTuple):
    """An answer, and what is made of it. `kept`: whether the connection serves the next call, None for either."""

    pieces: tuple[bytes, ...]
    body: bytes = b"hello"
    status: int = 200
    method: str = "GET"
    end: End = "serve"
    kept: bool | None = True


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_5 = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
NO_LENGTH = b"HTTP/1.1 200 OK\r\n\r\n"

GOOD = {
    "length": Good((LENGTH_5 + b"hello",)),
    "length, two segments": Good((LENGTH_5, b"hello")),
    "length, a byte at a time": Good(tuple(bytes([byte]) for byte in LENGTH_5 + b"hello"), kept=None),
    "length zero": Good((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",), b""),
    "length, white space around it": Good((b"HTTP/1.1 200 OK\r\nContent-Length: \t5 \r\n\r\nhello",)),
    "no reason phrase": Good((b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello",)),
    "every byte value": Good(
        (b"HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n" + bytes(range(256)),), bytes(range(256))
    ),
    "line ends in the body": Good((LENGTH_5 + b"\r\n\r\n\n",), b"\r\n\r\n\n", kept=None),
    "400": Good((b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nhello",), status=400),
    "503": Good((b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nhello",), status=503),
    "599": Good((b"HTTP/1.1 599 Odd\r\nContent-Length: 5\r\n\r\nhello",), status=599),
    "chunked, one segment": Good((CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",)),
    "chunked, several": Good((CHUNKED, b"3\r\nhel\r\n", b"2\r\nlo\r\n", b"0\r\n\r\n")),
    "chunked, cut inside": Good((CHUNKED + b"3\r", b"\nh", b"el\r\n2\r\nl", b"o\r\n0", b"\r\n\r\n"), kept=None),
    "chunked, empty": Good((CHUNKED + b"0\r\n\r\n",), b""),
    "chunked, upper-case size": Good((CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n",), b"0123456789"),
    "chunked, coding's name in upper case": Good(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",)
    ),
    "chunked, spaces around the coding": Good(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:  chunked  \r\n\r\n5\r\nhello\r\n0\r\n\r\n",)
    ),
    "chunk extensions": Good((CHUNKED + b'5;a=1;b="x"\r\nhello\r\n0;last\r\n\r\n',)),
    "trailers": Good((CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\nRetry-After: 9\r\n\r\n",)),
    "by close": Good((NO_LENGTH, b"hel", b"lo"), end="close", kept=False),
    "by close, empty": Good((NO_LENGTH,), b"", end="close", kept=False),
    "HEAD": Good((LENGTH_5,), b"", method="HEAD", kept=None),
    "HEAD, no length": Good((NO_LENGTH,), b"", method="HEAD", kept=None),
    "HEAD, chunked": Good((CHUNKED,), b"", method="HEAD", kept=None),
    "204": Good((b"HTTP/1.1 204 No Content\r\n\r\n",), b"", 204),
    "304": Good((b"HTTP/1.1 304 Not Modified\r\n\r\n",), b"", 304),
    "304 with the length of what it spares": Good(
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",), b"", 304
    ),
    "100, then 200": Good((b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH_5 + b"hello")),
    "103 with fields, then 200": Good((b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n" + LENGTH_5 + b"hello",)),
    "100, 103, 102, then 200": Good(
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\n",
            LENGTH_5,
            b"hello",
        )
    ),
    "an upgrade offered": Good(
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",), kept=None
    ),
    "Connection: close": Good((b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",), kept=False),
    "Connection: close, chunked": Good(
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",),
        kept=False,
    ),
    "HTTP/1.0": Good((b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",), kept=False),
    "HTTP/1.0, by close": Good((b"HTTP/1.0 200 OK\r\n\r\nhello",), end="close", kept=False),
}


@pytest.mark.parametrize("row", GOOD.values(), ids=GOOD)
@asynchronous
async def test_answers(way: Way, row: Good) -> None:
    """Each answer is understood, and two of them come over as many connections as they should."""
    async with serve(Scripted(*row.pieces, end=row.end)) as server, client(way) as calls:
        for _ in range(2):
            answer = await calls.request(row.method, server.url)
            assert (answer.status_code, answer.content) == (row.status, row.body)
            assert not {"x-early", "x-trailer", "retry-after"} & set(answer.headers)
        if row.kept is not None:
            assert server.connections == (1 if row.kept else 2)


@asynchronous
async def test_fields_come_through(way: Way) -> None:
    """Names, values, repeated fields and their order; surrounding white space is none of the value."""
    lines = (b"X-One: 1", b"Set-Cookie: a=1", b"x-two:2", b"Set-Cookie: b=2", b"X-Empty:", b"X-Latin: \xe9\xff")
    spaced = b"X-Spaced: \t a b \t "
    message = b"\r\n".join((b"HTTP/1.1 200 OK", *lines, spaced, b"Content-Length: 0", b"", b""))
    async with serve(Scripted(message)) as server, client(way) as calls:
        fields = [(name.lower(), value) for name, value in (await calls.get(server.url)).headers.raw]
    assert fields == [
        (b"x-one", b"1"),
        (b"set-cookie", b"a=1"),
        (b"x-two", b"2"),
        (b"set-cookie", b"b=2"),
        (b"x-empty", b""),
        (b"x-latin", b"\xe9\xff"),
        (b"x-spaced", b"a b"),
        (b"content-length", b"0"),
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@asynchronous
async def test_redirects_are_not_followed(way: Way, status: int) -> None:
    """They would carry the key away."""
    script = Scripted(b"HTTP/1.1 %d Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status)
    async with serve(script) as server, client(way) as calls:
        answer = await calls.post(server.url, content=b"x")
    assert (answer.status_code, answer.headers["location"], len(script.requests)) == (status, "/elsewhere", 1)


# Requests


@pytest.mark.parametrize(
    "body", [b"", b"x", bytes(range(256)), b"\r\n\r\n0\r\n\r\n", b"\xa5" * 3_000_000], ids=lambda body: str(len(body))
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@asynchronous
async def test_bodies_arrive(way: Way, body: bytes, streamed: bool) -> None:
    """Byte for byte, and twice over one connection."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    script = Scripted(OK)
    async with serve(script) as server, client(way) as calls:
        for _ in range(2):
            answer = await calls.post(server.url, content=pieces() if streamed else body)
            assert answer.content == b"ok"
        assert server.connections == 1
    assert [request.body == body for request in script.requests] == [True, True]


@asynchronous
async def test_requests_arrive_as_written(way: Way) -> None:
    """Method, target and fields."""
    script = Scripted(OK)
    fields = [(b"X-One", b"1"), (b"X-Two", b"\xe9"), (b"x-one", b"2"), (b"X-Empty", b"")]
    async with serve(script) as server, client(way) as calls:
        await calls.request("PATCH", f"{server.url}/a%2Fb/%C3%A9;p=1?q=%20&r=", headers=fields, content=b"x")
        host = b"127.0.0.1:%d" % server.port
    (request,) = script.requests
    assert request.line == b"PATCH /a%2Fb/%C3%A9;p=1?q=%20&r= HTTP/1.1"
    assert request.fields[0] == (b"Host", host)
    assert [line for line in request.fields if line[0].lower().startswith(b"x-")] == fields
    assert [value for name, value in request.fields if name.lower() == b"content-length"] == [b"1"]


UNFIT_FIELDS = {
    "CR LF in a value": (b"x-a", b"1\r\nx-b: 2"),
    "LF in a value": (b"x-a", b"1\n2"),
    "CR in a value": (b"x-a", b"1\r2"),
    "NUL in a value": (b"x-a", b"1\x002"),
    "CR LF in a name": (b"x-a\r\nx-b", b"1"),
    "space in a name": (b"x a", b"1"),
    "colon in a name": (b"x:a", b"1"),
    "no name": (b"", b"1"),
}


@pytest.mark.parametrize("field", UNFIT_FIELDS.values(), ids=UNFIT_FIELDS)
@asynchronous
async def test_unfit_fields_are_never_sent(way: Way, field: tuple[bytes, bytes]) -> None:
    """A field that would end early, or begin another, is refused, and its slot is free again."""
    script = Scripted(OK)
    async with serve(script) as server, client(way, connections=1) as calls:
        with pytest.raises(httpx.LocalProtocolError):
            await calls.get(server.url, headers=[field])
        assert (await calls.get(server.url)).content == b"ok"
    assert len(script.requests) == 1


UNFIT_METHODS = {
    "a whole request before it": "GET / HTTP/1.1\r\nx-a: 1\r\n\r\nGET",
    "a target": "GET /admin",
    "a line end": "G\nT",
    "none": "",
}


@pytest.mark.parametrize("method", UNFIT_METHODS.values(), ids=UNFIT_METHODS)
@asynchronous
async def test_unfit_methods_are_never_sent(way: Way, method: str) -> None:
    """A method with a space or line end would be another request."""
    script = Scripted(OK)
    async with serve(script) as server, client(way, connections=1) as calls:
        with pytest.raises(httpx.LocalProtocolError):
            await calls.request(method, server.url)
    assert script.requests == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "ws+unix://127.0.0.1/", "/no-host", "http:///path", "mailto:a@b"])
@asynchronous
async def test_other_schemes_are_refused(way: Way, url: str) -> None:
    async with client(way) as calls:
        with pytest.raises(httpx.UnsupportedProtocol):
            await calls.get(url)


# Faults of an answer


class Bad(NamedTuple):
    """What an upstream says and does instead of answering, and what that is."""

    pieces: tuple[bytes, ...]
    end: End = "close"
    error: type[httpx.TransportError] | tuple[type[httpx.TransportError], ...] = httpx.RemoteProtocolError


BAD = {
    "closed without an answer": Bad(()),
    "closed in the status line": Bad((b"HTTP/1.1 20",)),
    "closed in a field": Bad((b"HTTP/1.1 200 OK\r\nContent-Le",)),
    "closed after a field": Bad((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",)),
    "closed after the head": Bad((LENGTH_5,)),
    "closed in the body: too long a Content-Length": Bad((LENGTH_5 + b"hell",)),
    "closed after an interim answer": Bad((b"HTTP/1.1 100 Continue\r\n\r\n",)),
    "closed in a chunk's size": Bad((CHUNKED + b"5",)),
    "closed in a chunk": Bad((CHUNKED + b"5\r\nhel",)),
    "closed after a chunk": Bad((CHUNKED + b"5\r\nhello\r\n",)),
    "closed before the last line end": Bad((CHUNKED + b"5\r\nhello\r\n0\r\n",)),
    "reset without an answer": Bad((), "reset", DISCONNECTED),
    "reset in a field": Bad((b"HTTP/1.1 200 OK\r\nContent-Le",), "reset", DISCONNECTED),
    "reset in the body": Bad((LENGTH_5 + b"hell",), "reset", DISCONNECTED),
    "reset in a chunk": Bad((CHUNKED + b"5\r\nhel",), "reset", DISCONNECTED),
    "reset in a body without a length": Bad((NO_LENGTH, b"hel"), "reset", DISCONNECTED),
    "SSH": Bad((b"SSH-2.0-OpenSSH_9.6\r\n",)),
    "NULs": Bad((b"\0" * 64 + b"\r\n\r\n",), "hold"),
    "a TLS alert": Bad((b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",), "hold"),
    "HTTP/0.9": Bad((b"<html>hello</html>\r\n\r\n",), "hold"),
    "a request": Bad((b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",), "hold"),
    "a status in letters": Bad((b"HTTP/1.1 abc OK\r\n\r\n",), "hold"),
    "a status of two digits": Bad((b"HTTP/1.1 20 OK\r\n\r\n",), "hold"),
    "a field without a colon": Bad((b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",), "hold"),
    "a space before the colon": Bad((b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",), "hold"),
    "a space in a name": Bad((b"HTTP/1.1 200 OK\r\nX A: 5\r\nContent-Length: 0\r\n\r\n",), "hold"),
    "NUL in a value": Bad((b"HTTP/1.1 200 OK\r\nX-A: 1\x002\r\nContent-Length: 0\r\n\r\n",), "hold"),
    "a length in letters": Bad((b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",), "hold"),
    "a length below zero": Bad((b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",), "hold"),
    "a length with a sign": Bad((b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",), "hold"),
    "a length of 2**70": Bad((b"HTTP/1.1 200 OK\r\nContent-Length: 1180591620717411303424\r\n\r\nhello",)),
    "two lengths that differ": Bad(
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",), "hold"
    ),
    "a list of lengths that differ": Bad((b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",), "hold"),
    "a chunk's size in letters": Bad((CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n",), "hold"),
    "a chunk longer than its size": Bad((CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",), "hold"),
    "another coding than chunked": Bad((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",), "hold"),
    "another coding under chunked": Bad(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",), "hold"
    ),
    "Content-Length beside Transfer-Encoding": Bad(
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",), "hold"
    ),
    "Transfer-Encoding beside Content-Length": Bad(
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",), "hold"
    ),
    "never an answer": Bad((), "hold", httpx.ReadTimeout),
    "never the rest of the head": Bad((b"HTTP/1.1 200 OK\r\nContent-Le",), "hold", httpx.ReadTimeout),
    "never the rest of the body": Bad((LENGTH_5 + b"hel",), "hold", httpx.ReadTimeout),
    "never the last chunk": Bad((CHUNKED + b"5\r\nhello\r\n",), "hold", httpx.ReadTimeout),
    "never the end of a body without a length": Bad((NO_LENGTH + b"hello",), "hold", httpx.ReadTimeout),
    "never more than an interim answer": Bad((b"HTTP/1.1 100 Continue\r\n\r\n",), "hold", httpx.ReadTimeout),
}


TAKEN_BY_H11 = {"Content-Length beside Transfer-Encoding", "Transfer-Encoding beside Content-Length"}
"""RFC 9112, section 6.3, leaves it open: h11 0.16 goes by Transfer-Encoding, llhttp refuses."""


@pytest.mark.parametrize("name", BAD)
@asynchronous
async def test_faults(way: Way, name: str) -> None:
    """Each fault is told by its exception and costs its connection, and nothing else: the next call succeeds."""
    row = BAD[name]
    script = Scripted(*row.pieces, end=row.end)
    read = 0.1 if row.error is httpx.ReadTimeout else 2.0
    async with serve(in_turn(script, Scripted(OK))) as server, client(way, connections=1, read=read) as calls:
        if way.transport == "httpx" and name in TAKEN_BY_H11:
            assert (await calls.post(server.url, content=b"x")).content == b"hello"
            return
        with pytest.raises(row.error):
            await calls.post(server.url, content=b"x")
        assert (await calls.post(server.url, content=b"y")).content == b"ok"
        await until(lambda: server.open == 1)
        assert (server.connections, len(script.requests)) == (2, 1)


# Faults of the way there


@asynchronous
async def test_refused(way: Way) -> None:
    async with client(way, connections=1, pool=0.5) as calls:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await calls.get(f"http://127.0.0.1:{unused_port()}")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid"], ids=["no such name", "no name at all"])
@asynchronous
async def test_unresolved(way: Way, host: str) -> None:
    """A label over 63 characters never gets as far as the resolver."""
    async with client(way, connections=1, pool=0.5) as calls:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await calls.get(f"http://{host}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@asynchronous
async def test_tls(way: Way, host: str, authority: Authority) -> None:
    """A good certificate is taken; the server is told the name it was asked by, which an address is none of."""
    authority.asked.clear()
    async with serve(Scripted(OK), authority.server()) as server, client(way, authority.client()) as calls:
        for _ in range(2):
            assert (await calls.post(f"https://{host}:{server.port}", content=b"x" * 300_000)).content == b"ok"
        assert server.connections == 1
    assert authority.asked == [None if host == "127.0.0.1" else host]


@asynchronous
async def test_tls_answer_by_close(way: Way, authority: Authority) -> None:
    """The end that TLS itself announces is the end of the body."""
    script = Scripted(NO_LENGTH, b"x" * 100_000, end="close")
    async with serve(script, authority.server()) as server, client(way, authority.client()) as calls:
        assert (await calls.get(server.url)).content == b"x" * 100_000
        if way.transport == "httpx":
            # httpcore 1.0.9 takes the connection for idle, and sees no end in the socket: TLS has read it already.
            with pytest.raises(httpx.RemoteProtocolError):
                await calls.get(server.url)
        assert (await calls.get(server.url)).content == b"x" * 100_000


def test_plain_connections_trust_nobody() -> None:
    plain, secure = (trust_for(url, None) for url in ("http://a", "HTTPS://a"))
    assert [context.cert_store_stats()["x509_ca"] > 0 for context in (plain, secure)] == [False, True]
    assert {(context.verify_mode, context.check_hostname) for context in (plain, secure)} == {(ssl.CERT_REQUIRED, True)}


@pytest.mark.parametrize("fault", TLS_FAULTS)
@asynchronous
async def test_tls_not_verified(way: Way, fault: TlsFault, authority: Authority) -> None:
    """Nothing is sent, and no slot is lost."""
    script = Scripted(OK)
    async with (
        serve(script, authority.server(fault)) as server,
        client(way, authority.client(), connections=1, pool=0.5) as calls,
    ):
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await calls.get(server.url)
        await server.all_gone()
    assert script.requests == []


@pytest.mark.parametrize("handler", [answer_in_plain, close_at_once])
@asynchronous
async def test_tls_with_what_is_none(way: Way, handler: Handler, authority: Authority) -> None:
    """A server that speaks plain HTTP behind https, or that gives up at the handshake."""
    async with serve(handler) as server, client(way, authority.client(), connections=1, pool=0.5) as calls:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await calls.get(f"https://127.0.0.1:{server.port}")


@asynchronous
async def test_tls_handshake_that_hangs(way: Way, authority: Authority) -> None:
    """Ends in time, and the connection with it."""
    async with serve(hold) as server, client(way, authority.client(), connections=1, connect=0.1, pool=0.5) as calls:
        for _ in range(2):
            with pytest.raises(httpx.ConnectTimeout):
                await calls.get(f"https://127.0.0.1:{server.port}")
        await server.all_gone()
        assert server.connections == 2


# Connections kept


@asynchronous
async def test_one_connection_serves_many(way: Way) -> None:
    async with serve(Scripted(OK)) as server, client(way) as calls:
        for _ in range(20):
            assert (await calls.get(server.url)).content == b"ok"
        assert server.connections == 1
    await server.all_gone()


@asynchronous
async def test_closed_while_idle(way: Way) -> None:
    """Known to the event loop by then: a new connection is opened and nobody notices."""
    async with serve(Scripted(OK)) as server, client(way) as calls:
        for _ in range(3):
            assert (await calls.post(server.url, content=b"x")).content == b"ok"
            server.writers[-1].close()
            await server.all_gone()
            await turn()
        assert server.connections == 3


@asynchronous
async def test_closed_a_moment_ago(way: Way) -> None:
    """Known to the kernel alone, as the event loop has not come round: still no error, and nothing sent twice."""
    script = Scripted(OK)
    async with serve(script) as server, client(way) as calls:
        for _ in range(3):
            assert (await calls.post(server.url, content=b"x")).content == b"ok"
            shut(server.writers[-1])
        assert (server.connections, len(script.requests)) == (3, 3)


@asynchronous
async def test_expired(way: Way) -> None:
    """A connection idle for as long as keepalive_expiry is not used again."""
    async with serve(Scripted(OK)) as server, client(way, connections=1, expiry=0.0) as calls:
        for _ in range(3):
            assert (await calls.get(server.url)).content == b"ok"
            await turn()
        assert server.connections == 3


# Surplus bytes


SURPLUS = {
    "a whole answer": b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nevil",
    "an answer without a body": b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "an answer without a length": b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\n\r\nevil",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nX-Evil: 1\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Len",
    "too short a Content-Length": b"hello",
    "a letter": b"H",
    "a NUL": b"\0",
}
OF_ONES_OWN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "chunked": CHUNKED + b"2\r\nok\r\n0\r\n\r\n",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@pytest.mark.parametrize("own", OF_ONES_OWN.values(), ids=OF_ONES_OWN)
@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
@asynchronous
async def test_surplus_with_the_answer(way: Way, own: bytes, surplus: bytes) -> None:
    """Bytes after an answer, in its own segment: no part of it, and none of the next."""
    async with serve(in_turn(Scripted(own + surplus), Scripted(OK))) as server, client(way) as calls:
        first = await calls.get(server.url)
        assert first.content in (b"ok", b"")
        assert "x-evil" not in first.headers
        assert first.headers.get_list("content-length") in ([], ["2"])
        if way.transport == "httpx":
            # httpcore 1.0.9 leaves what it has read in h11's buffer, and the next call begins with it.
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadTimeout):
                await calls.get(server.url, timeout=0.1)
            assert server.connections == 1
            return
        second = await calls.get(server.url)
        assert (second.content, "x-evil" in second.headers) == (b"ok", False)
        assert server.connections == 2


@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
@pytest.mark.parametrize("turns", [0, 5])
@asynchronous
async def test_surplus_after_the_answer(way: Way, surplus: bytes, turns: int) -> None:
    """Bytes that come while the connection is idle, seen by the event loop or not yet."""
    async with serve(in_turn(Scripted(OK), Scripted(OK))) as server, client(way) as calls:
        assert (await calls.get(server.url)).content == b"ok"
        server.writers[0].write(surplus)
        await turn(turns)
        second = await calls.get(server.url)
        assert (second.content, "x-evil" in second.headers) == (b"ok", False)
        assert server.connections == 2


# Many at once


@asynchronous
async def test_fifty_callers_over_five_connections(way: Way) -> None:
    """Each gets its own answer, and the server never sees a sixth connection."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            await turn()
            await send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body), request.body)

    async with serve(echo) as server, client(way, connections=5, pool=5.0) as calls:
        bodies = [b"%d" % number * number for number in range(50)]
        answers = await asyncio.gather(*(calls.post(server.url, content=body) for body in bodies))
        assert [answer.content for answer in answers] == bodies
        assert (server.connections, server.most_open) == (5, 5)


@asynchronous
async def test_all_busy(way: Way) -> None:
    """PoolTimeout for the one too many, nothing for those at work; later as many at once as there are connections."""
    async with serve(in_turn(hold, hold, Rendezvous(2))) as server, client(way, connections=2) as calls:
        held = [asyncio.ensure_future(calls.get(server.url)) for _ in range(2)]
        await until(lambda: server.connections == 2)
        with pytest.raises(httpx.PoolTimeout):
            await calls.get(server.url, timeout=httpx.Timeout(2.0, pool=0.1))
        assert not any(task.done() for task in held)
        for task in held:
            await cancel(task)
        answers = await asyncio.gather(*(calls.get(server.url) for _ in range(2)))
        assert [answer.content for answer in answers] == [b"ok", b"ok"]


# Cancelled


async def cancel(task: asyncio.Task[httpx.Response]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


class Stage:
    """A server that goes as far as one stage of an exchange and says when it is there."""

    def __init__(self, *pieces: bytes, reads_body: bool = True) -> None:
        self.pieces = pieces
        self.reads_body = reads_body
        self.reached = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.reads_body:
            await read_request(reader)
        else:
            await reader.readuntil(b"\r\n\r\n")
        await send(writer, *self.pieces)
        self.reached.set()
        await gone(reader)


STAGES = {
    "writing": ((), False),
    "waiting for the head": ((), True),
    "reading the head": ((b"HTTP/1.1 200 OK\r\nContent-Le",), True),
    "after an interim answer": ((b"HTTP/1.1 100 Continue\r\n\r\n",), True),
    "reading the body": ((LENGTH_5 + b"hel",), True),
    "reading a chunk": ((CHUNKED + b"5\r\nhel",), True),
    "reading a body without a length": ((NO_LENGTH + b"hel",), True),
}


@pytest.mark.parametrize(("pieces", "reads_body"), STAGES.values(), ids=STAGES)
@asynchronous
async def test_cancelled_exchange(way: Way, pieces: tuple[bytes, ...], reads_body: bool) -> None:
    """Closes its connection and gives its slot, the only one, back."""
    stage = Stage(*pieces, reads_body=reads_body)
    body = b"x" if reads_body else b"x" * 20_000_000
    async with serve(in_turn(stage, Scripted(OK))) as server, client(way, connections=1) as calls:
        task = asyncio.ensure_future(calls.post(server.url, content=body))
        await stage.reached.wait()
        await turn()
        await cancel(task)
        await server.all_gone()
        assert (await calls.post(server.url, content=b"y")).content == b"ok"


@asynchronous
async def test_cancelled_while_waiting(way: Way) -> None:
    """The one that waits leaves; the one at work and the next are not touched."""
    stage = Stage()
    async with serve(in_turn(stage, Scripted(OK))) as server, client(way, connections=1) as calls:
        held = asyncio.ensure_future(calls.get(server.url))
        await stage.reached.wait()
        waiting = [asyncio.ensure_future(calls.get(server.url)) for _ in range(3)]
        await turn()
        await cancel(waiting[0])
        await cancel(waiting[2])
        await cancel(held)
        assert (await waiting[1]).content == b"ok"
        assert (await calls.get(server.url)).content == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("way", [*OURS, Way("httpx", "asyncio")], indirect=True, ids=str)
@asynchronous
async def test_cancelled_while_connecting(way: Way, authority: Authority) -> None:
    """In a TLS handshake that hangs."""
    async with (
        serve(Scripted(OK), authority.server()) as secure,
        serve(in_turn(hold, relay(secure.port))) as server,
        client(way, authority.client(), connections=1) as calls,
    ):
        task = asyncio.ensure_future(calls.get(f"https://127.0.0.1:{server.port}"))
        await until(lambda: server.connections == 1)
        await turn()
        await cancel(task)
        if way.transport == "httpx":
            # httpcore 1.0.9 closes the socket of a failed handshake only where an Exception ended it (start_tls in
            # its anyio backend): a cancelled one is left to the garbage collector.
            assert server.open == 1
            del task
            with pytest.warns(ResourceWarning):
                gc.collect()
        await server.all_gone()
        assert (await calls.get(f"https://127.0.0.1:{server.port}")).content == b"ok"


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@asynchronous
async def test_cancelled_at_any_turn(way: Way, secure: bool, authority: Authority) -> None:
    """One call is cancelled after no turn of the event loop, the next after one, and so on to the end."""
    tls = authority.server() if secure else None
    async with serve(Scripted(OK), tls) as server, client(way, authority.client(), connections=1) as calls:

        async def at_each_turn() -> None:
            for turns in range(40):
                task = asyncio.ensure_future(calls.get(server.url))
                await turn(turns)
                task.cancel()
                await asyncio.wait([task])
                assert (await calls.get(server.url, timeout=httpx.Timeout(2.0, pool=0.3))).content == b"ok"

        if way.transport == "httpx":  # loses its slot for ever: httpcore issue 1093
            with pytest.raises(httpx.PoolTimeout):
                await at_each_turn()
        else:
            await at_each_turn()


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a/x", ("http", "a", 80)),
        ("https://a.b:8443", ("https", "a.b", 8443)),
        ("http://[::1]:1", ("http", "::1", 1)),
        ("http://xn--strae-oqa.example", ("http", "xn--strae-oqa.example", 80)),
        ("http://straße.example", ("http", "xn--strae-oqa.example", 80)),
    ],
)
def test_origin(url: str, origin: tuple[str, str, int]) -> None:
    """A host in punycode stays so: decoded, and encoded by an older IDNA, it is another, and gets the key."""
    assert origin_of(httpx.URL(url)) == origin
