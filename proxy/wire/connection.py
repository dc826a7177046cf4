"""One HTTP/1.1 connection to an upstream, one exchange at a time, on asyncio and httptools."""

import asyncio
import select
from typing import cast

import httptools
import httpx

from proxy.contract.messages import Field
from proxy.wire.alarm import Alarm
from proxy.wire.answer import MOST_HEADS, Answer, AnswerHead, AnswerHeads
from proxy.wire.driver import Wait
from proxy.wire.syntax import HEAD_END

MAX_HEAD_BYTES = 65_536
"""Status line and header block of an answer, with all 1xx answers before it."""


class Disconnected(httpx.RemoteProtocolError):
    """The upstream closed or broke off before its answer was whole."""


class ResponseTooLarge(httpx.RemoteProtocolError):
    """The body exceeds `max_response_bytes`."""


class Connection(asyncio.Protocol):
    """Sends one request's bytes, parses one answer, and says whether it may serve another.

    It is reusable only when nothing is left over on either side: a surplus byte, an unfinished write, an
    answer without a length, a `Connection: close` or any fault ends it.
    """

    _parser: httptools.HttpResponseParser | None = None
    _status: int
    _fields: list[Field]
    _pieces: list[bytes]
    """Let go with the answer or its failure: a connection may stay for long, idle or as garbage."""
    _body_bytes: int
    _reason_bytes: int
    _interim_bytes: int
    _head_done: bool
    _delimited: bool
    _chunked: bool
    _keep_alive: bool
    _whole: bool

    def __init__(self, max_response_bytes: int, known: AnswerHeads | None = None) -> None:
        self._max_body = max_response_bytes
        self._known: AnswerHeads = {} if known is None else known
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: Wait[Answer] | None = None
        self._reusable = True
        self._is_lost = False
        self._without_body = False
        self._taken = self._unread = self._interim_bytes = 0
        self._begin_answer()
        self.idle_since = 0.0

    def exchange(self, message: bytes, deadline: float, *, without_body: bool = False) -> Wait[Answer]:
        """Writes a whole request. The future holds the answer, or fails with an httpx.TransportError.

        `deadline` is in the event loop's seconds. `without_body`: the answer to a HEAD, which has none whatever its
        length says.
        """
        assert self._transport is not None
        waiter: Wait[Answer] = Wait(loop=self._loop)
        self._waiter = waiter
        self._without_body = without_body
        self._taken = 0
        if self._is_lost:  # since it was made
            self._fail(Disconnected("closed before the request"))
        else:
            self._alarm.set(deadline)
            self._transport.write(message)
        return waiter

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow the last one."""
        return self._reusable and self._waiter is None

    def is_quiet(self) -> bool:
        """Whether the upstream has neither closed nor sent a thing, looked up in the kernel's own buffer.

        The event loop may not have come round to it yet, and a call written to a closed connection is lost.
        """
        return self._reusable and not self._readable.poll(0)

    def close(self) -> None:
        """Gives the connection up, whatever is under way on it."""
        self._reusable = False
        self._waiter = None
        self._pieces = []
        if self._transport is not None:
            self._alarm.end()
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._parser = httptools.HttpResponseParser(self)
        self._alarm = Alarm(self._loop, self._expire)
        self._readable = select.poll()
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            self.close()  # a byte that answers nothing
            return
        if self._taken == 0:
            end = data.find(HEAD_END) + len(HEAD_END)
            known = self._known.get(data[:end])
            if known is not None and len(data) == end + known.length and not self._without_body:
                self._deliver(Answer(known.status, known.fields, data[end:]))
                return
            self._unread = self._interim_bytes = 0
            self._begin_answer()
        assert self._parser is not None
        body_bytes = self._body_bytes
        self._taken += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self._whole:
                self._fail(_cause(error))
        if self._whole:
            self._judge_end(data)
        elif self._body_bytes == body_bytes:  # a head, a trailer or a chunk extension that goes on and on
            self._unread += len(data)
            if self._unread > MAX_HEAD_BYTES:
                self._fail(httpx.RemoteProtocolError("header block too large"))

    def eof_received(self) -> None:
        self._reusable = False
        if self._head_done and not self._delimited:
            self._whole = True  # RFC 9112, section 6.3: the end of the connection is the end of the body
            self._judge_end(b"")

    def connection_lost(self, _: Exception | None) -> None:
        self._alarm.end()
        self._is_lost = True
        self._reusable = False
        self._fail(Disconnected("closed before the whole answer"))
        self._parser = None  # it refers back: what has ended is not left to the garbage collector

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self._whole:
            self._reusable = False  # the upstream began an answer that nobody asked for

    def on_status(self, reason: bytes) -> None:
        self._reason_bytes = len(reason)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # RFC 9110, section 6.5.1: a trailer is no header; or an answer that nobody asked for
        name = name.lower()
        if name == b"content-length":
            self._delimited = True
        elif name == b"transfer-encoding":
            self._delimited = True
            if value.rstrip(b" ").lower() != b"chunked":
                raise httpx.RemoteProtocolError("a transfer coding that was not asked for")
            self._chunked = True
        self._fields.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._whole:
            return
        if self._taken > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            raise httpx.RemoteProtocolError("header block too large")
        assert self._parser is not None
        self._status = self._parser.get_status_code()
        if not 100 <= self._status <= 599 or self._status == 101:
            raise httpx.RemoteProtocolError("not a status that can be handed on")
        self._keep_alive = self._parser.should_keep_alive()
        if self._status >= 200:
            self._head_done = True
            if self._without_body:
                # httptools waits for the body that the length announces; this connection goes with it.
                self._keep_alive = False
                self._whole = True

    def on_body(self, piece: bytes) -> None:
        if self._whole:
            return
        self._body_bytes += len(piece)
        if self._body_bytes > self._max_body:
            raise ResponseTooLarge("larger than max_response_bytes")
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._whole:
            return
        if self._status < 200:
            self._interim_bytes = self._head_bytes()
            self._begin_answer()  # RFC 9110, section 15.2: an interim answer, the real one follows
        else:
            self._whole = True

    # the one answer under way

    def _begin_answer(self) -> None:
        self._status = 0
        self._fields = []
        self._pieces = []
        self._body_bytes = self._reason_bytes = 0
        self._head_done = self._delimited = self._chunked = self._keep_alive = self._whole = False

    def _head_bytes(self) -> int:
        """Of this answer's head, with those of the interim ones before it."""
        lines = sum(len(name) + len(value) + len(": \r\n") for name, value in self._fields)
        return self._interim_bytes + len("HTTP/1.1 200 \r\n\r\n") + self._reason_bytes + lines

    def _expire(self) -> None:
        if self._waiter is not None:
            self._fail(httpx.ReadTimeout("no whole answer within the deadline"))

    def _judge_end(self, data: bytes) -> None:
        """The answer is whole with this packet."""
        if not self._keep_alive or not _ends_with_answer(data, self._pieces, self._chunked):
            self._reusable = False
        pieces, self._pieces = self._pieces, []
        answer = Answer(self._status, tuple(self._fields), pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._reusable and self._taken == len(data) and not self._chunked and not self._without_body:
            self._learn(data, answer)
        self._deliver(answer)

    def _learn(self, data: bytes, answer: Answer) -> None:
        end = data.find(HEAD_END) + len(HEAD_END)
        if len(data) == end + len(answer.body) and answer.body:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[data[:end]] = AnswerHead(answer.status, answer.fields, len(answer.body))

    def _deliver(self, answer: Answer) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            self._reusable = False  # cancelled in the moment that the answer came
            return
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            self._reusable = False  # it answered before it had all of the request
        waiter.end(answer)

    def _fail(self, error: httpx.TransportError) -> None:
        waiter, self._waiter = self._waiter, None
        self._reusable = False
        self._pieces = []
        if self._transport is not None:
            self._transport.abort()
        if waiter is not None and not waiter.done():
            waiter.fail(error)


def _ends_with_answer(data: bytes, pieces: list[bytes], chunked: bool) -> bool:
    """False where line ends follow an answer: the parser skips them, and a clean upstream sends none.

    So too where that cannot be told, for what came last is nothing but line ends.
    """
    if pieces and not chunked:
        last = pieces[-1]
        return data == last or (data.endswith(b"\r\n\r\n" + last) and last.strip(b"\r\n") != b"")
    return data.endswith(b"\r\n\r\n") and data[-5:-4] not in (b"", b"\r", b"\n")


def _cause(error: Exception) -> httpx.TransportError:
    """What a callback raised, or that this was not HTTP."""
    if isinstance(error.__context__, httpx.TransportError):
        return error.__context__
    return httpx.RemoteProtocolError("not HTTP")
