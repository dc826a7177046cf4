"""Scripted TCP and TLS servers on loopback, inside the test's own event loop, and what runs an async test.

It is long because each fault of an upstream is a script of its own, and all share one server.
"""

import asyncio
import contextlib
import datetime
import functools
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, NamedTuple, ParamSpec, get_args

import trustme
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

P = ParamSpec("P")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
End = Literal["serve", "close", "reset", "hold"]

BOUND = 10.0
"""Seconds after which a test that should long have ended has failed."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# Async tests


class Way(NamedTuple):
    """How one row of a table runs: which transport, on which event loop."""

    transport: Literal["keepalive", "httpx"]
    loop: Literal["uvloop", "asyncio"]

    def __str__(self) -> str:
        return f"{self.transport}-{self.loop}"


OURS = (Way("keepalive", "uvloop"), Way("keepalive", "asyncio"))
BOTH = (*OURS, Way("httpx", "uvloop"))


def run(test: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    """Runs to the end within BOUND; what reaches the loop's exception handler is a failure too."""
    unhandled: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        await asyncio.wait_for(test, BOUND)

    (uvloop.run if loop == "uvloop" else asyncio.run)(bounded())
    assert not unhandled


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A coroutine function with an argument `way` becomes a test on that way's event loop."""

    @functools.wraps(test)
    def on_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        way = kwargs["way"]
        assert isinstance(way, Way)
        run(test(*args, **kwargs), way.loop)

    return on_loop


async def turn(times: int = 5) -> None:
    """Lets the event loop come round."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    """Waits for what other tasks or the kernel bring about; BOUND ends it where they never do."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


# Servers


class Received(NamedTuple):
    """A whole request."""

    line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes


class Server:
    """A listening server, and what it has seen so far."""

    def __init__(self, scheme: str, port: int) -> None:
        self.scheme = scheme
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def all_gone(self) -> None:
        """Waits until every caller has closed its connection."""
        await until(lambda: self.open == 0)


async def read_request(reader: asyncio.StreamReader) -> Received | None:
    """One whole request, framed by Content-Length or chunked; None where the caller is gone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head[:-4].split(b"\r\n")
        fields = [(name, value.strip()) for name, _, value in (each.partition(b":") for each in lines)]
        framing = {name.lower(): value for name, value in fields}
        if b"transfer-encoding" in framing:
            body = await _read_chunks(reader)
        else:
            body = await reader.readexactly(int(framing.get(b"content-length", b"0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Received(line, fields, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body


async def gone(reader: asyncio.StreamReader) -> None:
    """Waits until the caller has closed, in whatever manner, and drops what it sends before."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def send(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Writes each piece as a segment of its own."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await turn()


def abort(writer: asyncio.StreamWriter) -> None:
    """At once, if it is still open."""
    with contextlib.suppress(AttributeError):  # up to Python 3.11.3 asyncio's, of TLS that has ended
        writer.transport.abort()


def reset(writer: asyncio.StreamWriter) -> None:
    """Breaks off with an RST instead of a FIN."""
    linger = struct.pack("ii", 1, 0)
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    abort(writer)


def shut(writer: asyncio.StreamWriter) -> None:
    """Closes in the kernel this very moment, before any event loop comes round to it."""
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


class Scripted:
    """Answers each request with the same pieces, then does as `end` says. Keeps the requests."""

    def __init__(self, *pieces: bytes, end: End = "serve") -> None:
        self.pieces = pieces
        self.end = end
        self.requests: list[Received] = []
        self.answered = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await read_request(reader)) is not None:
            self.requests.append(request)
            await send(writer, *self.pieces)
            self.answered.set()
            if self.end == "reset":
                reset(writer)
            if self.end == "hold":
                await gone(reader)
            if self.end != "serve":
                return


def in_turn(*handlers: Handler) -> Handler:
    """A handler for each connection in its turn; the last one takes all that follow."""
    waiting = list(handlers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(reader, writer)

    return handle


async def hold(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Takes everything and never says a word."""
    await gone(reader)


def relay(port: int) -> Handler:
    """Hands bytes to and fro between the caller and another port, without a look at them."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # of a TLS that was closed while more came
                while data := await reader.read(65_536):
                    writer.write(data)
        finally:
            writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    return handle


class Rendezvous:
    """Answers nobody until `parties` requests are there at once: proves as many free slots."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._all_here = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader) is not None:
            self._missing -= 1
            if self._missing <= 0:
                self._all_here.set()
            await self._all_here.wait()
            await send(writer, OK)


@contextlib.asynccontextmanager
async def serve(handler: Handler, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Server]:
    """Listens on a port of 127.0.0.1, 0 for a free one. At exit all is closed, and a handler's bug comes out."""
    tasks: set[asyncio.Task[None]] = set()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        server.open += 1
        server.most_open = max(server.most_open, server.open)
        server.writers.append(writer)
        try:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
        finally:
            server.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(attend(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls, backlog=512)
    server = Server("https" if tls else "http", listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        for writer in server.writers:
            abort(writer)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
        await turn()
    bugs = [end for end in ends if isinstance(end, Exception)]
    if bugs:
        raise bugs[0]


def unused_port() -> int:
    """A port that refuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# TLS

TlsFault = Literal["untrusted", "self_signed", "wrong_host", "expired"]
TLS_FAULTS: tuple[TlsFault, ...] = get_args(TlsFault)


class Authority:
    """A private authority, and servers' certificates that are good or wrong in one way."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.asked: list[str | None] = []
        """The server names that callers asked for, in their order (SNI)."""

    def write(self, path: Path) -> str:
        """The authority's own certificate, as a file to trust."""
        self._ca.cert_pem.write_to_path(str(path))
        return str(path)

    def client(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cadata=self._ca.cert_pem.bytes().decode())

    def server(self, fault: TlsFault | None = None) -> ssl.SSLContext:
        """For 127.0.0.1 and localhost, with the one fault asked for."""
        ca = trustme.CA() if fault == "untrusted" else self._ca
        names = ["elsewhere.test"] if fault == "wrong_host" else ["127.0.0.1", "localhost"]
        until = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC) if fault == "expired" else None
        since = until and until - datetime.timedelta(1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        signed = ca.issue_cert(*names, not_before=since, not_after=until)
        (_self_signed() if fault == "self_signed" else signed).configure_cert(context)
        context.sni_callback = lambda _, name, __: self.asked.append(name)
        return context


def _self_signed() -> trustme.LeafCert:
    """For localhost and 127.0.0.1, by nobody's word but its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    itself = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
    certificate = (
        x509.CertificateBuilder(itself, itself, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return trustme.LeafCert(secret, certificate.public_bytes(pem), [])


async def answer_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that speaks plain HTTP to a TLS handshake."""
    await reader.read(1)
    await send(writer, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await gone(reader)


async def close_at_once(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """A server that gives up at the first byte."""
    await reader.read(1)
