"""What a connection takes comes free when it ends: nothing waits for the garbage collector, which may come late."""

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Literal, NamedTuple, cast

import httpx
import pytest
from starlette.responses import PlainTextResponse

from proxy.contract.messages import Request, Response
from proxy.wire.connection import Connection
from proxy.wire.direct import Known
from proxy.wire.lifetime import LastingProtocol
from proxy.wire.listener import bind
from proxy.wire.pool import Limits, Origin, Pool
from proxy.wire.server import App, CallerLimits, Server
from tests.wire.servers import OK, Scripted, reset, run, serve, until, unused_port

POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
WITHOUT_HOST = b"GET / HTTP/1.1\r\n\r\n"


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def none_is_left(kind: type[object]) -> None:
    await until(lambda: not any(isinstance(each, kind) for each in gc.get_objects()))


# Callers


class Heads:
    """Knows each head of a POST when it comes again."""

    def __init__(self) -> None:
        self.known: dict[tuple[str | None, bytes], Known] = {}

    def learn(self, head: bytes, request: Request, length: int) -> Known:
        known = self.known[request.client, head] = Known(length, answer, lambda: True)
        return known

    def settle(self) -> None: ...


async def answer(_body: bytes) -> Response:
    return Response(200, b"content-length: 2\r\n", b"ok")


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    limits = CallerLimits(header_timeout=0.1, body_timeout=0.1)
    server = Server(cast(App, PlainTextResponse("ok")), listener, heads=Heads(), limits=limits)
    running = asyncio.create_task(server.run())
    await server.started()
    try:
        yield listener.getsockname()
    finally:
        server.end()
        await running


class Caller(NamedTuple):
    says: bytes
    then: Literal["closes", "resets", "is told to go"]


CALLERS = {
    "the direct way": Caller(POST, "closes"),
    "the direct way, reset": Caller(POST, "resets"),
    "the direct way, pipelined": Caller(POST * 3, "closes"),
    "ASGI's": Caller(GET, "closes"),
    "ASGI's, reset": Caller(GET, "resets"),
    "ASGI's, pipelined": Caller(GET * 3, "closes"),
    "no longer kept": Caller(GET.replace(b"host", b"connection: close\r\nhost"), "is told to go"),
    "silent": Caller(b"", "is told to go"),
    "malformed": Caller(WITHOUT_HOST, "is told to go"),
    "malformed behind another": Caller(GET + WITHOUT_HOST, "is told to go"),
    "half a body": Caller(POST[:-1], "is told to go"),
}


async def call(address: tuple[str, int], caller: Caller) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(caller.says)
    if caller.then == "is told to go":
        await reader.read()
    else:
        await reader.readuntil(b"ok")
    if caller.then == "resets":
        reset(writer)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
def test_of_a_callers_connection(caller: Caller) -> None:
    async def come_and_go() -> None:
        async with serving() as address:
            await call(address, Caller(POST, "closes"))
            with uncollected():
                await call(address, caller)
                await none_is_left(LastingProtocol)

    run(come_and_go())


# Upstreams

UPSTREAMS = {
    "kept": Scripted(OK),
    "closed": Scripted(OK, end="close"),
    "reset": Scripted(OK, end="reset"),
    "said to be closed": Scripted(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)),
    "broken off": Scripted(OK[:-1], end="close"),
    "not in time": Scripted(OK[:-1], end="hold"),
    "no HTTP": Scripted(b"no HTTP", end="hold"),
}


async def exchange(port: int) -> None:
    limits = Limits(timeout=0.2, keepalive_expiry=0.1)
    with uncollected():
        async with contextlib.aclosing(Pool(limits, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) as pool:
            with contextlib.suppress(httpx.TransportError):
                await pool.exchange(Origin("http", "127.0.0.1", port), GET)
            await none_is_left(Connection)


@pytest.mark.parametrize("upstream", UPSTREAMS.values(), ids=UPSTREAMS)
def test_of_an_upstreams_connection(upstream: Scripted) -> None:
    async def come_and_go() -> None:
        async with serve(upstream) as server:
            await exchange(server.port)

    run(come_and_go())


def test_of_a_connection_that_is_not_made() -> None:
    run(exchange(unused_port()))
