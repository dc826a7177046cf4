"""A deployment as its callers see it: whole calls over kept connections, and bytes that are no call."""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from proxy.contract.messages import Field, write_lines
from proxy.wire.answer import Answer
from proxy.wire.pool import Limits, Pool
from proxy.wire.senders import PoolSender
from proxy.wire.transport import check_url, origin_of, tls_context
from proxy.wire.upstream import fault_of

CALL_SECONDS = 10.0
"""For a whole exchange."""
CONNECT_SECONDS = 5.0
RAW_SECONDS = 5.0
"""For bytes that are no call, until the connection closes."""
RAW_BYTES = 65_536
"""Of what comes back then, the most that is kept; an answer's status is in the first few."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


class RawAnswer(NamedTuple):
    """What came of bytes that are no call: the answer's status, if there was one, and whether the connection closed."""

    status: int | None
    closed: bool


class Client:
    """One deployment by its URL, which may have a path. One call at a time."""

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        """Raises ValueError for a URL that is none, and OSError where `ca_file` cannot be read."""
        if set(url) & {"?", "#", "@"}:
            raise ValueError("a URL without user, password, query or fragment")
        check_url(url)
        parsed = httpx.URL(url)
        self.host: bytes = parsed.netloc
        self.base: bytes = parsed.raw_path.rstrip(b"/")
        self._origin = origin_of(parsed)
        self._tls = tls_context(ca_file)
        limits = Limits(timeout=CALL_SECONDS, connect_timeout=CONNECT_SECONDS, max_connections=1)
        self._sender = PoolSender(url, Pool(limits, self._tls))

    async def send(self, method: bytes, path: bytes, lines: Sequence[Field], body: bytes) -> Answer:
        """One call; the lines are taken as they are, framing too. Raises UpstreamError."""
        try:
            return await self._sender.send(method, path, write_lines(lines), body)
        except httpx.TransportError as error:
            raise fault_of(error) from error

    async def send_raw(self, message: bytes) -> RawAnswer:
        """Writes the bytes and reads until the connection closes."""
        secure = self._origin.scheme == "https"
        said = b""
        closed = True
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(RAW_SECONDS):
                reader, writer = await asyncio.open_connection(
                    self._origin.host,
                    self._origin.port,
                    ssl=self._tls if secure else None,
                    server_hostname=self._origin.host if secure else None,
                )
                writer.write(message)
                while piece := await reader.read(RAW_BYTES):
                    said = (said + piece)[:RAW_BYTES]
        except TimeoutError:
            closed = False
        except OSError:
            pass  # reset: that is closed too
        finally:
            if writer is not None:
                writer.transport.abort()
        status = _STATUS.match(said)
        return RawAnswer(int(status[1]) if status else None, closed and writer is not None)

    async def aclose(self) -> None:
        """Closes its connections."""
        with contextlib.suppress(OSError):
            await self._sender.aclose()
