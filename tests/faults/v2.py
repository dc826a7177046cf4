"""A v2 in a thread of its own, whose manners change while it runs, and which knows each call whose bytes came to it."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self, SupportsIndex, TypeVar

from tests.wire.servers import TlsFault

T = TypeVar("T")

BOUND = 60.0
"""Seconds after which what was asked of another thread has failed."""


class Background:
    """An event loop in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.Thread(target=loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(BOUND)
        self.loop.close()

    @property
    def directory(self) -> Path:
        """The thread's own, in /proc."""
        return Path(f"/proc/self/task/{self._thread.native_id}")

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it there and waits for what it returns or raises."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(BOUND)


class Visit(NamedTuple):
    """One connection to v2, numbered from 0 since its manner began."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        """Raises ConnectionError where nobody listens any more."""
        if self.writer.is_closing():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()


Serve = Callable[[Visit], Awaitable[None]]


class Manner(NamedTuple):
    """How v2 treats its callers."""

    serve: Serve
    listens: bool = True
    reads: bool = True
    """If not, connections are the kernel's to make and to fill."""
    certificate: TlsFault | None = None
    """What is wrong with it."""
    period: float | None = None
    """Seconds that it is there, and then as many not, and so on."""


class _Reader(asyncio.StreamReader):
    """Keeps all that came, whoever reads it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.came = bytearray()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.came.extend(data)
        super().feed_data(data)


class Taken:
    """How often the head and the body of each call, by its number, came to v2."""

    def __init__(self) -> None:
        self.heads: Counter[int] = Counter()
        self.bodies: Counter[int] = Counter()

    def note(self, came: bytes) -> None:
        """Notes what came on one connection. The marks are those of `callers.py`."""
        self.heads.update(int(number) for number in re.findall(rb"\r\nx-request-id: call-(\d+)\r\n", came))
        self.bodies.update(int(number) for number in re.findall(rb'"user_id":"user-of-fault-(\d+)-', came))

    def calls(self) -> Counter[int]:
        """Those of which anything came, and how often."""
        return self.heads | self.bodies


class V2:
    """Listens on a port that is its own all along, with these certificates or in plain HTTP. It begins in `manner`."""

    def __init__(
        self, home: Background, manner: Manner, tls: Callable[[TlsFault | None], ssl.SSLContext] | None = None
    ) -> None:
        self._home = home
        self._tls = tls
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self._port: int = self._held.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._port}/v2"
        self._server: asyncio.AbstractServer | None = None
        self._deaf: socket.socket | None = None
        self._rhythm: asyncio.Task[None] | None = None
        self._visits: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._bugs: list[BaseException] = []
        self._taken = Taken()
        self.behave(manner)

    def behave(self, manner: Manner) -> Taken:
        """Ends what is open, and has everyone who comes from now on treated so. Returns what came until now."""
        return self._home.do(self._become(manner))

    def close(self) -> None:
        """Ends all for good."""
        self._home.do(self._stop())
        self._held.close()

    async def _become(self, manner: Manner) -> Taken:
        await self._stop()
        taken = self._taken
        self._manner, self._taken, self._numbers = manner, Taken(), count()
        if manner.listens:
            await self._listen()
        if manner.period is not None:
            self._rhythm = asyncio.create_task(self._come_and_go(manner.period))
        return taken

    async def _come_and_go(self, period: float) -> None:
        while True:
            await asyncio.sleep(period)
            await self._leave()
            await asyncio.sleep(period)
            await self._listen()

    async def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        listener.setblocking(False)
        if not self._manner.reads:
            self._deaf = listener
            return
        tls = self._tls and self._tls(self._manner.certificate)
        self._server = await asyncio.get_running_loop().create_server(self._protocol, sock=listener, ssl=tls)

    async def _stop(self) -> None:
        if self._rhythm is not None:
            self._rhythm.cancel()
            await asyncio.wait([self._rhythm])
            self._rhythm = None
        await self._leave()

    async def _leave(self) -> None:
        """Stops listening and ends every connection. A bug of a manner comes out."""
        if self._server is not None:
            self._server.close()
        if self._deaf is not None:
            self._hear(self._deaf)
            self._deaf = None
        visits = dict(self._visits)
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        for writer in visits.values():
            writer.transport.abort()
        if self._bugs:
            raise self._bugs[0]

    def _hear(self, deaf: socket.socket) -> None:
        """What the kernel took in while nobody read it."""
        with deaf, contextlib.suppress(BlockingIOError):
            while True:
                with deaf.accept()[0] as visitor:
                    self._taken.note(_unread(visitor))

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(_Reader(loop), self._accept, loop=loop)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        visit = asyncio.ensure_future(self._attend(reader, Visit(next(self._numbers), reader, writer)))
        self._visits[visit] = writer
        visit.add_done_callback(self._forget)

    def _forget(self, visit: asyncio.Task[None]) -> None:
        del self._visits[visit]
        if not visit.cancelled() and (bug := visit.exception()):
            self._bugs.append(bug)

    async def _attend(self, reader: _Reader, visit: Visit) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await self._manner.serve(visit)
        finally:
            self._taken.note(bytes(reader.came) + _unread_by(visit.writer))
            visit.writer.close()


def _unread_by(writer: asyncio.StreamWriter) -> bytes:
    if writer.is_closing():
        return b""
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as same:
        return _unread(same)


def _unread(connection: socket.socket) -> bytes:
    """What the kernel has taken for v2, and v2 has not read."""
    data = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(1_048_576, socket.MSG_DONTWAIT):
            data += piece
    return data
