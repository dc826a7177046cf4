"""A call to an upstream: sent once, answered whole within its deadline, and every fault one of our errors.

Whether it is sent at all is its breaker's to say. Only a connect that failed is tried again, for then nothing was sent.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import NamedTuple, Protocol

import httpx

from proxy.contract.errors import (
    InvalidUpstreamResponse,
    UpstreamConnectTimeout,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.contract.messages import Field
from proxy.policy.breaker import Breaker, BreakerRule, Verdict
from proxy.policy.retry import RetryBudget
from proxy.wire.connection import Answer, Disconnected, ResponseTooLarge
from proxy.wire.pool import Connections, Limits, Pool
from proxy.wire.transport import TransportName, origin_of, trust_for, write_message

RETRY_PAUSE = 0.1
"""Seconds. What refuses is often back in a moment."""

TOO_LARGE = "http_response_body_size"
"""The reason of an answer beyond `max_response_bytes`."""

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """The way to one upstream. `target` is below its URL and sent byte for byte; Host is the sender's to add."""

    limits: Limits

    async def send(
        self, method: bytes, target: bytes, lines: Sequence[Field], body: bytes, limits: Limits | None = None
    ) -> Answer:
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
        self._host = (b"host", parsed.netloc)

    async def send(
        self, method: bytes, target: bytes, lines: Sequence[Field], body: bytes, limits: Limits | None = None
    ) -> Answer:
        message = write_message(method, _below(self._base, target), (self._host, *lines), body)
        return await self._pool.exchange(self._origin, message, limits=limits, without_body=method == b"HEAD")

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
        self, method: bytes, target: bytes, lines: Sequence[Field], body: bytes, limits: Limits | None = None
    ) -> Answer:
        limits = limits or self.limits
        request = httpx.Request(
            method.decode(),
            self._url,
            headers=[self._host, *lines],
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


class UpstreamState(NamedTuple):
    """How an upstream stands in this process. `connections` is None where that cannot be told."""

    connections: Connections | None
    max_connections: int
    is_open: bool
    """Its breaker, half open too."""
    retries_left: int


class Upstream:
    """One upstream by its name on the metrics, with its breaker and its budget of retries."""

    def __init__(self, name: str, sender: Sender, rule: BreakerRule | None = None) -> None:
        self.name = name
        self._sender = sender
        self._breaker = Breaker(rule or BreakerRule())
        self._budget = RetryBudget()

    async def send(
        self,
        method: bytes,
        target: bytes,
        lines: Sequence[Field],
        body: bytes,
        on_retry: Callable[[], None] = lambda: None,
        *,
        is_measure: bool = True,
    ) -> Answer:
        """Sends a call at most once. `on_retry` is told where a connect is tried again.

        `is_measure`: a 5xx says that the upstream is not well, and not only that path of it.
        Raises one of the UpstreamErrors (contract, "From v2").
        """
        now = monotonic()
        admitted = self._breaker.admit(now)
        self._budget.call(now)
        verdict: Verdict = "unknown"
        try:
            answer = await self._send(partial(self._send_once, method, target, lines, body), on_retry)
            verdict = "succeeded" if answer.status < 500 else "failed" if is_measure else "unknown"
            return answer
        except UpstreamError as fault:
            verdict = _verdict_of(fault)
            raise
        finally:
            self._tell(admitted, verdict)

    def state(self) -> UpstreamState:
        """As it is now."""
        left = self._budget.left(monotonic())
        connections, limit = self._sender.connections(), self._sender.limits.max_connections
        return UpstreamState(connections, limit, self._breaker.is_open, left)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._sender.aclose()

    async def _send(self, send: Callable[[Limits | None], Awaitable[Answer]], on_retry: Callable[[], None]) -> Answer:
        deadline = monotonic() + self._sender.limits.timeout
        try:
            return await send(None)
        except UpstreamError as fault:
            again_at = monotonic() + RETRY_PAUSE
            if again_at >= deadline or not self._may_retry(fault):
                raise
        on_retry()
        await asyncio.sleep(RETRY_PAUSE)
        return await send(self._sender.limits._replace(timeout=deadline - again_at))

    def _may_retry(self, fault: UpstreamError) -> bool:
        """Only what failed before there was a connection, and may be otherwise in a moment."""
        connects = isinstance(fault, UpstreamUnavailable | UpstreamConnectTimeout) and not fault.reason.startswith(
            "tls"
        )
        return connects and not self._breaker.is_open and self._budget.take(monotonic())

    async def _send_once(
        self, method: bytes, target: bytes, lines: Sequence[Field], body: bytes, limits: Limits | None
    ) -> Answer:
        try:
            return await self._sender.send(method, target, lines, body, limits)
        except httpx.TransportError as error:
            raise fault_of(error) from error

    def _tell(self, admitted: int, verdict: Verdict) -> None:
        was_open = self._breaker.is_open
        self._breaker.tell(admitted, verdict, monotonic())
        if self._breaker.is_open != was_open:
            _log.warning("breaker of %s: %s", self.name, "closed" if was_open else "open, it fails too often")


def _verdict_of(fault: UpstreamError) -> Verdict:
    """A pool or a limit of ours says nothing of the upstream."""
    ours = isinstance(fault, UpstreamOverloaded) or fault.reason == TOO_LARGE
    return "unknown" if ours else "failed"


def fault_of(error: httpx.TransportError) -> UpstreamError:
    """The one map from httpx's exceptions to ours. Raises the error itself where it is a bug of ours."""
    match error:
        case httpx.PoolTimeout():
            return UpstreamOverloaded()
        case httpx.ConnectTimeout():
            return UpstreamConnectTimeout()
        case httpx.TimeoutException():
            return UpstreamTimeout()
        case httpx.ConnectError() if any(getattr(cause, "errno", None) in _OURS for cause in _causes(error)):
            return UpstreamOverloaded()
        case httpx.ConnectError():
            return UpstreamUnavailable(reason=_why_unavailable(error))
        case Disconnected() | httpx.NetworkError():
            return UpstreamDisconnected()
        case ResponseTooLarge():
            return InvalidUpstreamResponse(reason=TOO_LARGE)
        case httpx.RemoteProtocolError() if _HTTPCORE_DISCONNECTED & set(str(error).lower().split()):
            return UpstreamDisconnected()
        case httpx.RemoteProtocolError():
            return InvalidUpstreamResponse()
        case _:
            raise error  # a request that may not be sent


_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""What this machine lacks for a connection; the upstream is not to blame."""

_HTTPCORE_DISCONNECTED = {"disconnected", "closed"}
"""httpx's own pool tells a broken-off answer from a malformed one by its words alone."""


def _why_unavailable(error: BaseException) -> str:
    """The error's type for RFC 9209, section 2.3, from what lies under a ConnectError."""
    for cause in _causes(error):
        match cause:
            case socket.gaierror() | UnicodeError():
                return "dns_error"
            case ssl.SSLCertVerificationError():
                return "tls_certificate_error"
            case ssl.SSLError():
                return "tls_protocol_error"
            case ConnectionRefusedError():
                return "connection_refused"
    return "destination_unavailable"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _causes(inner)
        error = error.__cause__ or error.__context__
