"""The ways to an upstream: bytes over our own pool, or any httpx transport."""

import asyncio
import ssl
from collections.abc import Awaitable
from functools import lru_cache
from typing import Protocol

import httpx

from proxy.contract.messages import read_lines
from proxy.wire.answer import Answer
from proxy.wire.connection import ResponseTooLarge
from proxy.wire.pool import Connections, Limits, Pool
from proxy.wire.transport import TransportName, origin_of, trust_for


class Sender(Protocol):
    """The way to one upstream.

    `target` is below its URL and sent byte for byte, and so are the header lines; Host is the sender's to add.
    """

    limits: Limits

    def send(
        self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: Limits | None = None
    ) -> Awaitable[Answer]:
        """`limits` may hold other times for this exchange. Raises httpx.TransportError."""

    def connections(self) -> Connections | None:
        """How many are open; None where that cannot be told."""

    async def aclose(self) -> None: ...


class PoolSender:
    """The hot path: bytes to our own pool, no httpx value made."""

    def __init__(self, url: str, pool: Pool) -> None:
        parsed = httpx.URL(url)
        self.limits = pool.limits
        self._pool = pool
        self._origin = origin_of(parsed)
        self._base = parsed.raw_path.rstrip(b"/")
        self._host = parsed.netloc
        self._start = lru_cache(maxsize=64)(self._write_start)

    def send(
        self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: Limits | None = None
    ) -> Awaitable[Answer]:
        message = b"%b%b\r\n%b" % (self._start(method, target), lines, body)
        return self._pool.exchange(self._origin, message, limits=limits, without_body=method == b"HEAD")

    def _write_start(self, method: bytes, target: bytes) -> bytes:
        return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, _below(self._base, target), self._host)

    def connections(self) -> Connections:
        return self._pool.connections()

    async def aclose(self) -> None:
        await self._pool.aclose()


class HttpxSender:
    """Any httpx transport, called directly: its client would follow redirects and read the environment.

    How many calls there are at once is kept here: httpcore loses a connection for good where a call that waits for one
    is cancelled (its issue 1093).
    """

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport, limits: Limits) -> None:
        parsed = httpx.URL(url)
        self._url = url
        self._base = parsed.raw_path.rstrip(b"/")
        self._host = (b"host", parsed.netloc)
        self._transport = transport
        self.limits = limits
        self._slots = asyncio.Semaphore(limits.max_connections)
        self._timeouts = {"connect": limits.connect_timeout, "read": limits.timeout, "write": limits.timeout}

    async def send(
        self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: Limits | None = None
    ) -> Answer:
        """In a task of its own: httpx needs one, and the caller may have none."""
        return await asyncio.create_task(self._send(method, target, lines, body, limits or self.limits))

    async def _send(self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: Limits) -> Answer:
        request = httpx.Request(
            method.decode(),
            self._url,
            headers=[self._host, *read_lines(lines)],
            stream=httpx.ByteStream(body),
            extensions={"timeout": self._timeouts, "target": _below(self._base, target)},
        )
        now = asyncio.get_running_loop().time()
        deadline = now + limits.timeout
        await self._take_slot(min(now + limits.pool_timeout, deadline))
        try:
            async with asyncio.timeout_at(deadline):
                return await self._exchange(request)
        except TimeoutError as error:
            raise httpx.ReadTimeout("no whole answer within the deadline") from error
        except ssl.SSLError as error:  # it is not httpx's where TLS breaks after the handshake
            raise httpx.ReadError("broken off") from error
        finally:
            self._slots.release()

    def connections(self) -> None:
        """An httpx transport does not say."""

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _take_slot(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._slots.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no connection came free in time") from None

    async def _exchange(self, request: httpx.Request) -> Answer:
        try:
            response = await self._transport.handle_async_request(request)
        except AttributeError as error:  # anyio's, of a connection that is reset as it is made
            raise httpx.ReadError("reset") from error
        try:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            if not 200 <= response.status_code <= 599:
                raise httpx.RemoteProtocolError("not a status that can be handed on")
            body = bytearray()
            async for piece in response.stream:
                body += piece
                if len(body) > self.limits.max_response_bytes:
                    raise ResponseTooLarge("larger than max_response_bytes")
        finally:
            await response.aclose()
        fields = tuple((name.lower(), value) for name, value in response.headers.raw)
        return Answer(response.status_code, fields, bytes(body))


def _below(base: bytes, target: bytes) -> bytes:
    """A target below a URL's path. Where both are empty but for a query, the path is `/` (RFC 9112, section 3.2.1)."""
    whole = base + target
    return whole if whole.startswith(b"/") else b"/" + whole


def open_sender(url: str, transport: TransportName, limits: Limits, ca_file: str | None) -> Sender:
    """Raises OSError where `ca_file` cannot be read."""
    tls = trust_for(url, ca_file)
    if transport == "keepalive":
        return PoolSender(url, Pool(limits, tls))
    theirs = httpx.AsyncHTTPTransport(
        verify=tls,
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),  # kept, it would hand bytes too many to the next call
    )
    return HttpxSender(url, theirs, limits)
