"""The answer parser, fed with anything in any pieces: what it promises of each input."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, NamedTuple

import h11
import httpx

from proxy.contract.errors import UpstreamError
from proxy.wire.answer import Answer, AnswerHeads
from proxy.wire.connection import Connection
from proxy.wire.upstream import fault_of
from tests.fuzz.inputs import Check, Target, splits

MAX_BODY = 64
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

WORDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 Early Hints\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/2.0 200 OK\r\n",
    b"ICY 200 OK\r\n",
    b"Content-Length: 2\r\n",
    b"Content-Length: 65\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"X-A: b\r\n",
    b" folded\r\n",
    b"2\r\nok\r\n",
    b"0\r\n\r\n",
    b"2;a=b\r\n",
    b"ok",
    b"x" * (MAX_BODY + 1),
    b"ffffffffffffffff",
    b"-1",
    b"+2",
    b"\0",
    b"\t",
    b" ",
    b":",
    b"\x80",
)


class Wire(asyncio.Transport):
    """Stands for the connection to an upstream that takes all it is sent."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__({"socket": end})
        self.aborted = False

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Nobody reads it."""

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True


class Seen(NamedTuple):
    """What came of an exchange. `answered_at` is how many bytes had come by then, None where the end told it."""

    answer: Answer | None
    fault: str
    answered_at: int | None
    reusable: bool


@contextmanager
def open_check() -> Iterator[Check]:
    """Within an event loop that has nothing to do: a protocol only reacts."""
    here, there = socket.socketpair()
    with here, there, asyncio.Runner() as runner:

        async def judge(data: bytes, every: bool) -> str:
            return _judge(data, every, here)

        yield lambda data, every: runner.run(judge(data, every))


def _judge(data: bytes, every: bool, end: socket.socket) -> str:
    """In any pieces the same, for a GET and for a HEAD. Returns the GET's."""
    told = [_judge_one(data, every, end, without_body) for without_body in (True, False)]
    return told[-1]


def _judge_one(data: bytes, every: bool, end: socket.socket, without_body: bool) -> str:
    known: AnswerHeads = {}
    seen = [_exchange(pieces, end, without_body, known) for pieces in splits(data, every)]
    seen.append(_exchange([data], end, without_body, known))  # by its head alone, if that was learned
    first, byte_by_byte, *_ = seen
    assert {(one.answer, one.fault) for one in seen} == {(first.answer, first.fault)}
    cut = _exchange([data], end, without_body, known, reset=True)
    if byte_by_byte.answered_at is None and first.answer is not None:
        assert (cut.answer, cut.fault) == (None, "connection_terminated")  # only a clean end can end a body
    else:
        assert (cut.answer, cut.fault) == (first.answer, first.fault)
    if byte_by_byte.answered_at != len(data):
        assert not any(one.reusable for one in seen), "kept, though a byte was left over or missing"
    if first.answer is None:
        return first.fault
    _assert_well_formed(first.answer, data, without_body)
    body, after = ("body" if first.answer.body else "no body"), ("kept" if first.reusable else "closed")
    return f"{first.answer.status // 100}xx, {body}, {after}"


def _exchange(
    pieces: list[bytes], end: socket.socket, without_body: bool, known: AnswerHeads, *, reset: bool = False
) -> Seen:
    connection, wire = Connection(MAX_BODY, known), Wire(end)
    connection.connection_made(wire)
    waiter = connection.exchange(b"GET / HTTP/1.1\r\n\r\n", inf, without_body=without_body)
    came, answered_at = 0, None
    for piece in pieces:
        if wire.aborted:
            break  # nothing is read from it any more
        connection.data_received(piece)
        came += len(piece)
        if waiter.done() and answered_at is None:
            answered_at = came
    reusable = connection.reusable
    if reusable:
        _assert_next_is_its_own(connection)
    if not (reset or wire.aborted):
        connection.eof_received()
    connection.connection_lost(ConnectionResetError() if reset else None)
    assert waiter.done(), "it waits though the connection is gone"
    assert not connection.reusable
    error = waiter.exception()
    if error is None:
        return Seen(waiter.result(), "", answered_at, reusable)
    assert isinstance(error, httpx.TransportError)
    assert not reusable
    fault = fault_of(error)
    assert isinstance(fault, UpstreamError)
    return Seen(None, fault.reason, answered_at, reusable)


def _assert_next_is_its_own(connection: Connection) -> None:
    """Nothing of one exchange is in the next."""
    waiter = connection.exchange(b"GET / HTTP/1.1\r\n\r\n", inf)
    assert not waiter.done()
    connection.data_received(OK)
    assert waiter.result() == Answer(200, ((b"content-length", b"2"),), b"ok")


def _assert_well_formed(answer: Answer, data: bytes, without_body: bool) -> None:
    """Fit to be handed on, and what h11 reads in the same bytes, where it takes them at all."""
    assert 200 <= answer.status <= 599
    assert all(name == name.lower() and name and b"\n" not in name + value for name, value in answer.fields)
    assert len(answer.body) <= MAX_BODY
    theirs = _by_h11(data, "HEAD" if without_body else "GET")
    assert theirs in (None, (answer.status, answer.body))


def _by_h11(data: bytes, method: str) -> tuple[int, bytes] | None:
    """Status and body; None where h11 is stricter."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    status, body = 0, b""
    try:
        while True:
            match connection.next_event():
                case h11.Response(status_code=status):
                    pass
                case h11.Data(data=piece):
                    body += piece
                case h11.EndOfMessage():
                    return status, body
                case h11.InformationalResponse():
                    pass
                case _:
                    return None
    except h11.RemoteProtocolError:
        return None


ANSWERS = Target("answers", WORDS, open_check)
