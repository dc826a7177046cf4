"""Slow callers (slowloris): each sends the beginning of a request, then a byte now and then, and never all of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Literal

Part = Literal["header", "body"]

BEGINNINGS: dict[Part, bytes] = {
    "header": b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\nx-slow: ",
    "body": b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\ncontent-length: 10000\r\n\r\n{",
}
"""What is sent at once; all that follows is spaces."""

PAUSE = 1.0
"""Seconds from a caller's byte to its next."""


class Dribbler(asyncio.Protocol):
    """One slow caller. Times are of `perf_counter`; both are 0 until then."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.began = self.answered = 0.0
        self.answer = b""
        self.ended = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio has it
        self._transport = transport
        self.began = perf_counter()
        transport.write(BEGINNINGS[self.part])

    def send_one_byte(self) -> None:
        """As long as the proxy has not said a word."""
        if self._transport is not None and not self.answer and not self._transport.is_closing():
            self._transport.write(b" ")

    def data_received(self, data: bytes) -> None:
        self.answered = self.answered or perf_counter()
        self.answer += data

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@contextlib.asynccontextmanager
async def dribbling(address: str, each: int) -> AsyncIterator[list[Dribbler]]:
    """So many callers of each kind, from when all of them have begun; their bytes come one by one, evenly spread."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    callers = [Dribbler(part) for _ in range(each) for part in BEGINNINGS]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, host, int(port))  # type: ignore[misc]
    going = asyncio.create_task(_dribble(callers))
    try:
        yield callers
    finally:
        going.cancel()
        for caller in callers:
            caller.close()
        await asyncio.gather(*(caller.ended.wait() for caller in callers))


async def _dribble(callers: list[Dribbler]) -> None:
    tick = 0.01
    turns = round(PAUSE / tick)
    while True:
        for turn in range(turns):
            for caller in callers[turn::turns]:
                caller.send_one_byte()
            await asyncio.sleep(tick)
