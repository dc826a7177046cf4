"""The pool as an httpx transport, for all that is not the hot path, and the choice between it and httpx's own."""

import re
import ssl
from collections.abc import Sequence
from typing import Literal

import httpx

from proxy.contract.messages import Field, write_lines
from proxy.wire.pool import Limits, Origin, Pool

TransportName = Literal["keepalive", "httpx"]

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies against a private authority alone, or without one against the public ones (certifi's).

    Raises OSError where the file is missing or holds no certificate.
    """
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=ca_file)


def trust_for(url: str, ca_file: str | None) -> ssl.SSLContext:
    """By what the connections to a URL are verified. Plain ones trust nobody, which saves a start reading authorities.

    Raises OSError as `tls_context` does.
    """
    return tls_context(ca_file) if httpx.URL(url).scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def check_url(text: str) -> None:
    """Raises ValueError for a URL that the transports could not use."""
    try:
        host = origin_of(httpx.URL(text)).host
        host.encode("idna")  # as the resolver will
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
        raise ValueError("not a URL of a host") from None
    if not _HOST.fullmatch(host):
        raise ValueError("not a URL of a host")


def origin_of(url: httpx.URL) -> Origin:
    """Where a URL leads. The host stays as it is written: decoded from punycode and back it may become another.

    Raises httpx.UnsupportedProtocol.
    """
    if url.scheme not in _PORTS or not url.raw_host:
        raise httpx.UnsupportedProtocol("only http and https URLs with a host")
    return Origin(url.scheme, url.raw_host.decode(), url.port or _PORTS[url.scheme])


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """The pool behind httpx's interface.

    The answer is whole when it is returned. Of httpx's timeouts, `pool` and `connect` bound what their names
    say, and `read` bounds the exchange from its start to its last byte, not each read.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises the exceptions of `Pool.exchange`, httpx.UnsupportedProtocol and httpx.LocalProtocolError."""
        origin = origin_of(request.url)
        body = await request.aread()
        if not _NAME.fullmatch(request.method.encode()):
            raise httpx.LocalProtocolError("a method that may not be sent")
        lines = _framed(request.headers.raw, body)
        start = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)
        message = start + write_lines(lines) + b"\r\n" + body
        answer = await self._pool.exchange(
            origin, message, limits=self._limits(request), without_body=request.method == "HEAD"
        )
        return httpx.Response(
            answer.status,
            headers=list(answer.fields),
            stream=httpx.ByteStream(answer.body),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _limits(self, request: httpx.Request) -> Limits:
        own = self._pool.limits
        times: dict[str, float | None] = request.extensions.get("timeout", {})
        return own._replace(
            timeout=times.get("read") or own.timeout,
            connect_timeout=times.get("connect") or own.connect_timeout,
            pool_timeout=times.get("pool") or own.pool_timeout,
        )


def _framed(lines: Sequence[Field], body: bytes) -> list[Field]:
    """The body is at hand, so it goes with its length; a field that would break the message is refused."""
    kept = [line for line in lines if line[0].lower() not in (b"content-length", b"transfer-encoding")]
    if any(not _NAME.fullmatch(name) or _BAD_VALUE.search(value) for name, value in kept):
        raise httpx.LocalProtocolError("a header field that may not be sent")
    had_framing = len(kept) != len(lines)
    return [*kept, (b"content-length", b"%d" % len(body))] if body or had_framing else kept
