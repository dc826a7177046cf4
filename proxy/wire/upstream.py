"""A call to an upstream: sent once, answered whole within its deadline, and every fault one of our errors.

Whether it is sent at all is its breaker's to say. Only a connect that failed is tried again, for then nothing was sent.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from time import monotonic
from typing import NamedTuple

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
from proxy.policy.breaker import Breaker, BreakerRule, Verdict
from proxy.policy.retry import RetryBudget
from proxy.wire.answer import Answer
from proxy.wire.connection import Disconnected, ResponseTooLarge
from proxy.wire.pool import Connections, Limits
from proxy.wire.senders import Sender

RETRY_PAUSE = 0.1
"""Seconds. What refuses is often back in a moment."""

TOO_LARGE = "http_response_body_size"
"""The reason of an answer beyond `max_response_bytes`."""

_log = logging.getLogger(__name__)


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
        lines: bytes,
        body: bytes,
        on_retry: Callable[[], None] = lambda: None,
        *,
        is_measure: bool = True,
    ) -> Answer:
        """Sends a call at most once. `on_retry` is told where a connect is tried again.

        `is_measure`: a 5xx says that the upstream is not well, and not only that path of it.
        Raises one of the UpstreamErrors (contract, "From v2").
        """
        began = monotonic()
        admitted = self._breaker.admit(began)
        self._budget.call(began)
        verdict: Verdict = "unknown"
        try:
            try:
                answer = await self._sender.send(method, target, lines, body)
            except httpx.TransportError as error:
                limits = self._limits_of_retry(fault_of(error), error, began)
                on_retry()
                await asyncio.sleep(RETRY_PAUSE)
                answer = await self._send_again(method, target, lines, body, limits)
            verdict = "succeeded" if answer.status < 500 else "failed" if is_measure else "unknown"
            return answer
        except UpstreamError as fault:
            verdict = _verdict_of(fault)
            raise
        finally:
            if self._breaker.tell(admitted, verdict, monotonic()):
                self._say_turned()

    def state(self) -> UpstreamState:
        """As it is now."""
        left = self._budget.left(monotonic())
        connections, limit = self._sender.connections(), self._sender.limits.max_connections
        return UpstreamState(connections, limit, self._breaker.is_open, left)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._sender.aclose()

    def _limits_of_retry(self, fault: UpstreamError, error: httpx.TransportError, began: float) -> Limits:
        """With the time that is left after the pause. Raises the fault where it is none to be retried."""
        limits = self._sender.limits
        left = began + limits.timeout - monotonic() - RETRY_PAUSE
        if left <= 0 or not self._may_retry(fault):
            raise fault from error
        return limits._replace(timeout=left)

    async def _send_again(self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: Limits) -> Answer:
        try:
            return await self._sender.send(method, target, lines, body, limits)
        except httpx.TransportError as error:
            raise fault_of(error) from error

    def _may_retry(self, fault: UpstreamError) -> bool:
        """Only what failed before there was a connection, and may be otherwise in a moment."""
        failed_to_connect = isinstance(fault, UpstreamUnavailable | UpstreamConnectTimeout)
        if not failed_to_connect or fault.reason.startswith("tls"):
            return False
        return not self._breaker.is_open and self._budget.take(monotonic())

    def _say_turned(self) -> None:
        _log.warning("breaker of %s: %s", self.name, "open, it fails too often" if self._breaker.is_open else "closed")


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
