"""How a supervisor hands news to the processes it forked: bytes of any length, one thing at a time to each.

A link is a pair of sockets. Over it goes a descriptor to memory and an answer of one byte, so that neither side ever
waits for the other to read or write.
"""

import asyncio
import contextlib
import errno
import logging
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long news may take to all; a process that was just forked may need two before it hears."""
RETRY_SECONDS = 1.0
"""After which a process that could not take them is told them again."""
TAKEN, REFUSED = b"+", b"-"

Take = Callable[[bytes], Awaitable[bool]]
"""Has a process take news, and says whether it did."""


class News(Protocol):
    """Where a supervisor has its news from, and where it says what became of them."""

    def fileno(self) -> int:
        """Readable where there is something to be fetched at once."""
        ...

    def fetch(self) -> bytes | None:
        """What all are to take, where there is something new. A process that is forked after this has it already."""
        ...

    def taken(self) -> None:
        """All have taken the last."""
        ...

    def late(self, who: list[str]) -> None:
        """These have not taken the last in time. They are told again and again, so `taken` may yet follow."""
        ...


def make_link() -> tuple["Sender", "Receiver"]:
    """Both ends. Raises OSError where no descriptor is free."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return Sender(ours), Receiver(theirs)


class Sender:
    """The supervisor's end: what it told a process, and what that took of it, by the numbers of the news."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._told = self.taken = 0
        self._next_telling = 0.0
        self.owes_answer = False

    def fileno(self) -> int:
        """Readable where an answer came."""
        return self._end.fileno()

    def begin(self, number: int) -> None:
        """The process knows what was new up to here, for it was forked afterwards."""
        self._told = self.taken = number

    def tell(self, number: int, news: bytes) -> None:
        """Only what it has not taken yet, and only once it has answered the last: so no link is filled up."""
        if self.owes_answer or self.taken == number:
            return
        if self._told == number and time.monotonic() < self._next_telling:
            return
        with contextlib.suppress(OSError):  # it is just ending, or no descriptor is free: then the next call does it
            self._hand_over(news)
            self._told, self.owes_answer = number, True

    def hear(self) -> None:
        """Takes up its answer, if it came."""
        with contextlib.suppress(OSError):
            if answer := self._end.recv(1):
                self.owes_answer = False
                if answer == TAKEN:
                    self.taken = self._told
                else:
                    self._next_telling = time.monotonic() + RETRY_SECONDS

    def close(self) -> None:
        self._end.close()

    def _hand_over(self, news: bytes) -> None:
        memory = os.memfd_create("news")
        try:
            os.pwrite(memory, news, 0)
            socket.send_fds(self._end, [b"!"], [memory])
        finally:
            os.close(memory)


class Spreading:
    """How far the news has come: for the supervisor, who asks again and again."""

    def __init__(self, news: News) -> None:
        self._news = news
        self._latest = b""
        self._number = self._taken = 0
        self._deadline = math.inf

    def fileno(self) -> int:
        """Readable where it should ask at once."""
        return self._news.fileno()

    def begin(self, link: Sender) -> None:
        """For a process about to be forked."""
        link.begin(self._number)

    def spread(self, links: Mapping[str, Sender]) -> None:
        """Tells those at the links what is new, and its source once how that went: all took it, or some are late."""
        if (latest := self._news.fetch()) is not None:
            self._number, self._latest = self._number + 1, latest
            self._deadline = time.monotonic() + PATIENCE_SECONDS
        for link in links.values():
            link.hear()
            link.tell(self._number, self._latest)
        behind = [name for name, link in links.items() if link.taken < self._number]
        if not behind and self._taken < self._number:
            self._taken, self._deadline = self._number, math.inf
            self._news.taken()
        elif time.monotonic() > self._deadline:
            self._deadline = math.inf
            self._news.late(behind)


class Receiver:
    """A process' end. Its other one is closed by the supervisor's end alone."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def follow(self, take: Take, orphaned: Callable[[], None]) -> None:
        """Has the running loop take what comes; `orphaned` is called once the supervisor is gone."""
        loop = asyncio.get_running_loop()

        def hear() -> None:
            try:
                news = self._receive()
            except ConnectionError:
                loop.remove_reader(self._end)
                orphaned()
            except OSError as error:
                _log.error("news that cannot be heard: %s", error.strerror)
                self._answer(REFUSED)
            else:
                self._taking = loop.create_task(self._take(take, news))  # the next comes after the answer to this

        loop.add_reader(self._end, hear)

    def close(self) -> None:
        self._end.close()

    def _receive(self) -> bytes:
        """Raises ConnectionError where the supervisor is gone, OSError where no descriptor is free."""
        message, descriptors, _, _ = socket.recv_fds(self._end, 1, 1)
        if not message:
            raise ConnectionResetError
        if not descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with os.fdopen(descriptors[0], "rb") as memory:
            return memory.read()

    async def _take(self, take: Take, news: bytes) -> None:
        self._answer(TAKEN if await take(news) else REFUSED)

    def _answer(self, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone, which is heard next
            self._end.send(answer)
