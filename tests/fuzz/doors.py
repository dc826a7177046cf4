"""The two doors beside each other: what comes in the same pieces gets the same answers, whatever was known before."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from proxy.policy.credentials import digest
from proxy.policy.deprecation import Brownout, Deprecation
from tests.fuzz.callers import BODY, WORDS, Callers, read_answers
from tests.fuzz.inputs import Check, Target, splits
from tests.ruled import rules_of

HEAD_END = b"\r\n\r\n"
LISTED, UNLISTED = b"k", b"l"
"""Keys. A brownout refuses the latter, without their bodies."""
RULES = rules_of(
    Deprecation("http://docs", "http://v2", brownouts=(Brownout(-1.0, 1.0, exempt=frozenset({"listed"})),)),
    digests={"listed": [digest(LISTED)]},
)
NEXT = b"GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
"""Shows whether the connection goes on."""

PATIENCE = 20
"""Turns of the event loop in which either door has answered: who closes before may miss what is said of garbage."""

_ID = re.compile(rb"x-request-id: [0-9a-f]{8}-[0-9a-f-]{27}\r\n")


class Doors:
    """Two servers alike, but that only one of them has a direct door."""

    def __init__(self) -> None:
        direct, asgi = (Callers(direct=door, rules=RULES, patience=PATIENCE) for door in (True, False))
        self._servers = direct, asgi

    async def start(self) -> None:
        for server in self._servers:
            await server.start()

    async def stop(self) -> None:
        for server in self._servers:
            await server.stop()

    async def judge(self, data: bytes, every: bool) -> str:
        """To the byte the same, but for the IDs that we give. Returns what came of the whole."""
        heard = [await self._compare(pieces) for pieces in _ways(data, every)]
        *before, last = read_answers(heard[0])
        code = before[0].code if before else "nothing" if last.code == "not_found" else last.code
        return f"{code}, then {'the next' if last.code == 'not_found' else 'closed'}"

    async def _compare(self, pieces: list[bytes]) -> bytes:
        direct, asgi = [_ID.sub(b"", await server.hear([*pieces, NEXT])) for server in self._servers]
        if direct != asgi:
            assert _kept_after_a_410(direct, asgi), (pieces, direct, asgi)
        return asgi


def _kept_after_a_410(direct: bytes, asgi: bytes) -> bool:
    """The one difference: whose body came in its head's packet keeps its connection, for all of it was taken."""
    (one, *_), (*others, last) = read_answers(direct), read_answers(asgi)
    return (one.code, one.last, others, last.code, last.last) == ("endpoint_brownout", False, [], one.code, True)


def _ways(data: bytes, every: bool) -> Iterator[list[bytes]]:
    """At once, and again with its head known; with a body apart; and some of the others, which each take long."""
    yield from ([data], [data])
    end = data.find(HEAD_END) + len(HEAD_END)
    yield from ([data[:end], data[end:]], [data[:end], data[end:]])
    _, _, *others = splits(data, every)
    yield from others[::9] if every else others


@contextmanager
def open_check() -> Iterator[Check]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        doors = Doors()
        runner.run(doors.start())
        try:
            yield lambda data, every: runner.run(doors.judge(data, every))
        finally:
            runner.run(doors.stop())


DOORS = Target(
    "doors", (*WORDS, b"Content-Length: 27\r\n", b"Content-Length: 29\r\n", b"\x00", b"}", BODY[:-1]), open_check
)
