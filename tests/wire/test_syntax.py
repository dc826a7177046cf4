"""Every row of the table in `tests/wire/syntax/`, by both doors: alone, in two packets, and before a call.

And between two calls with every byte alone.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.processes import Proxy, Reply, Simulator, Wire
from tests.test_admission import failed, succeeded
from tests.wire.syntax import ROWS
from tests.wire.syntax.row import BEFORE, BEHIND, CODES, FIRST, NEXT, USER, Row

HEAD_END = b"\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.1 (?P<status>\d{3}) [^\r\n]*\r\n(?P<lines>(?:[!-9;-~]+: [^\r\n]*\r\n)*)\r\n")


class ByteByByte(Proxy):
    """A proxy whose parser gets every byte by itself."""

    command = (sys.executable, "-m", "tests.wire.byte_by_byte")


class Users:
    """Whom v2 was asked to connect. Its calls are seldom forgotten, so that one that comes late fails the next row."""

    ENOUGH = 50

    def __init__(self, v2: Simulator) -> None:
        self._v2 = v2
        self._forget()

    def new(self) -> list[str]:
        """Those since the last look."""
        calls = self._v2.calls()[self._seen :]
        self._seen += len(calls)
        if self._seen > self.ENOUGH:
            self._forget()
        return [json.loads(call["body"])["user_id"] for call in calls]

    def _forget(self) -> None:
        self._v2.forget()
        self._seen = 0


@pytest.fixture(scope="module")
def users(v2: Simulator) -> Users:
    return Users(v2)


@pytest.fixture(scope="module")
def byte_by_byte(v2: Simulator) -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as without_coverage:  # it would look at every line for every byte
        without_coverage.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        running = ByteByByte(v2.url)
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_gets_its_one_answer(
    by_door: Callable[[str], Proxy], byte_by_byte: Proxy, users: Users, row: Row
) -> None:
    """And the call behind it counts only where the connection goes on. In the second way its head may be known."""
    direct, asgi = by_door("direct").address, by_door("asgi").address
    for ask in (alone, alone, in_two_packets, followed):
        assert is_as_wanted(ask(direct, row), row)
    for ask in (alone, followed):
        assert is_as_wanted(ask(asgi, row), row)
    assert is_as_wanted(between(byte_by_byte.address, row), row)
    taken = [USER] * (row.status == 201) + [BEHIND] * (not row.closes)
    assert users.new() == [*taken * 6, BEFORE, *taken]


def is_as_wanted(replies: list[Reply], row: Row) -> bool:
    """Whether the answers are the row's own, and that to the call behind it if it is to have one."""
    assert [reply.status for reply in replies] == [100] * row.continues + [row.status] + [201] * (not row.closes)
    first, *rest = replies[row.continues :]
    assert ("close" in first.headers.get("connection", "")) == row.closes
    assert succeeded(first, USER, ()) if row.status == 201 else failed(first, row.status, CODES[row.status])
    return all(succeeded(reply, BEHIND, ()) for reply in rest)


def alone(address: str, row: Row) -> list[Reply]:
    """The answers to a row, and to a call that is sent after them where the connection goes on."""
    return one_by_one(address, row, row.message)


def in_two_packets(address: str, row: Row) -> list[Reply]:
    """The same, with what is behind the head in a packet of its own."""
    end = row.message.find(HEAD_END) + len(HEAD_END)
    return one_by_one(address, row, row.message[:end], row.message[end:])


def one_by_one(address: str, row: Row, *packets: bytes) -> list[Reply]:
    with Wire(address) as wire:
        wire.send_apart(*packets)
        if row.closes:
            return split(wire.rest())
        came = [wire.answer() for _ in range(1 + row.continues)]
        wire.send(NEXT)
        return came + split(wire.rest())


def followed(address: str, row: Row) -> list[Reply]:
    """The answers to a row and a call in one piece."""
    with Wire(address) as wire:
        wire.send(row.message + NEXT)
        return split(wire.rest())


def between(address: str, row: Row) -> list[Reply]:
    """The same behind a first call, which loses nothing by it."""
    with Wire(address) as wire:
        wire.send(FIRST + row.message + NEXT)
        first, *rest = split(wire.rest())
        assert succeeded(first, BEFORE, ())
        return rest


def split(came: bytes) -> list[Reply]:
    """All that a connection said, to its last byte, as answers."""
    found = []
    while came:
        head = _ANSWER.match(came)
        assert head, came
        pairs = (line.split(": ", 1) for line in head["lines"].decode().splitlines())
        headers = {name.lower(): value for name, value in pairs}
        end = head.end() + int(headers.get("content-length", 0))
        found.append(Reply(int(head["status"]), headers, came[head.end() : end]))
        came = came[end:]
    return found
