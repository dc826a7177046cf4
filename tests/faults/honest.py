"""Honest callers: each on one kept connection, in a steady rhythm, and what became of every call."""

import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Coroutine, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Self, TypeVar

import uvloop

from tests.processes import DEADLINE
from tests.sent import sent

T = TypeVar("T")

USER = "an-honest-user"
"""What every user ID begins with; tests/test_secrets.py looks for it."""

HEAD = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: %s\r\ncontent-length: %d\r\n\r\n"


class Window(NamedTuple):
    """A while, by `perf_counter`."""

    since: float
    until: float


class Outcome(NamedTuple):
    """What became of a call that was sent; `sent` is of `perf_counter`."""

    status: int | None
    """None where the connection ended without an answer."""
    sent: float
    seconds: float
    port: int
    """The caller's own, which tells its connection."""
    closes: bool = False
    """Whether the answer says that the connection ends with it."""


class Caller:
    """One caller, whose connection is kept while the proxy keeps it."""

    def __init__(self, address: str, name: str, key: str = "demo-key") -> None:
        self._host, _, self._port = address.rpartition(":")
        self._name = f"{USER}-{name}"
        self._key = key.encode()
        self._calls = 0
        self.in_flight: int | None = None
        """While a call is unanswered, the port it was sent from."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        sent.add(USER)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def connect(self) -> None:
        """Raises ConnectionRefusedError where nobody listens."""
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))

    async def call(self) -> Outcome:
        """One call, whose one answer must be its own. Raises ConnectionRefusedError; TimeoutError after DEADLINE."""
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            await self.connect()
        assert self._reader is not None
        assert self._writer is not None
        self._calls += 1
        port: int = self._writer.get_extra_info("sockname")[1]
        self.in_flight = port
        began = perf_counter()
        try:
            status, closes = await self._exchange(self._reader, self._writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            status, closes = None, True
        finally:
            self.in_flight = None
        if closes:
            self.close()
        return Outcome(status, began, perf_counter() - began, port, closes)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bool]:
        """The answer's status, and whether the connection ends with it."""
        user = f"{self._name}-{self._calls}"
        body = json.dumps({"manufacturer_user_id": user}).encode()
        writer.write(HEAD % (self._key, len(body)) + body)
        async with asyncio.timeout(DEADLINE):
            status, fields, answer = await read_answer(reader)
        judge(status, answer, user)
        return status, fields.get("connection") == "close"

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields and body of the next answer. Raises IncompleteReadError where there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *lines = head[:-4].decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
    return int(line.split()[1]), fields, await reader.readexactly(int(fields["content-length"]))


def judge(status: int, answer: bytes, user: str) -> None:
    """The v1 envelope: of a success this user's own, of an error a whole one."""
    told: dict[str, Any] = json.loads(answer)
    if status == 201:
        assert told["success"] is True
        assert told["data"]["manufacturer_user_id"] == user
    else:
        assert told["success"] is False
        assert list(told) == ["success", "timestamp", "error", "error_code", "message"]


class Crowd:
    """Callers that call until they are told to stop, and what became of all their calls.

    `every`: seconds from a caller's call to its next; with 0 each calls again as soon as it is answered. They begin one
    after the other, evenly spread over `within` seconds, which are `every` where nothing is said.
    """

    def __init__(
        self, address: str, callers: int, every: float = 0.0, *, within: float | None = None, name: str = ""
    ) -> None:
        self._callers = [Caller(address, f"{name}{n}") for n in range(callers)]
        self._every = every
        self._within = every if within is None else within
        self._stops = False
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: list[Outcome] = []
        self.refused = 0
        """The callers that found nobody listening, and gave up."""

    async def __aenter__(self) -> Self:
        pause = self._within / len(self._callers)
        self._tasks = [asyncio.create_task(self._go(each, n * pause)) for n, each in enumerate(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stops = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            for caller in self._callers:
                caller.close()

    async def gave_up(self) -> None:
        """Waits until every caller has found nobody listening."""
        await asyncio.gather(*self._tasks)

    async def _go(self, caller: Caller, offset: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + offset
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self._stops:
                return
            due = max(due + self._every, loop.time())
            try:
                self.outcomes.append(await caller.call())
            except ConnectionRefusedError:
                self.refused += 1
                return

    def in_flight(self) -> set[int]:
        """The ports of the calls that are unanswered now."""
        return {each.in_flight for each in self._callers if each.in_flight is not None}

    def sent_in(self, window: Window) -> list[Outcome]:
        """What became of the calls that were sent in it."""
        return [each for each in self.outcomes if window.since <= each.sent < window.until]


async def a_while(seconds: float) -> Window:
    began = perf_counter()
    await asyncio.sleep(seconds)
    return Window(began, perf_counter())


def statuses(outcomes: Sequence[Outcome]) -> Counter[int | None]:
    return Counter(each.status for each in outcomes)


def p99(outcomes: Sequence[Outcome]) -> float:
    """In seconds."""
    return statistics.quantiles([each.seconds for each in outcomes], n=100)[98]


def run(test: Coroutine[Any, Any, T], within: float = DEADLINE) -> T:
    """A coroutine's result, on uvloop, in so many seconds; what reaches the loop's exception handler is a failure."""
    unhandled: list[dict[str, Any]] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        async with asyncio.timeout(within):
            return await test

    result = uvloop.run(bounded())
    assert not unhandled
    return result
