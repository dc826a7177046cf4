"""The direct way of a whole request: from its packet into its answer's coroutine and back, without ASGI.

A request takes it that came alone, on a connection where nothing else is under way: in one packet, or its head in one
and its body in the next, as many clients write them. All others take ASGI's way, which knows more: bodies in parts,
pipelining, Expect. A head that was judged once needs no parser when it comes again, byte for byte: to the parser and to
whoever judges it, it would be the same.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import NamedTuple, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.contract.errors import CallerError, Part
from proxy.contract.messages import Request, Response, gather
from proxy.wire.alarm import Alarm
from proxy.wire.driver import Drive, Stage
from proxy.wire.protocol import ServerProtocol
from proxy.wire.syntax import HEAD_END


class Known(NamedTuple):
    """A head that was judged, of a body of `length` bytes."""

    length: int
    answer: Callable[[bytes], Coroutine[object, None, Response]]
    """Answers a request that has this body."""
    needs_body: Callable[[], bool]
    """Whether the body has to be had now for an answer."""


class Heads(Protocol):
    """The heads that are known."""

    @property
    def known(self) -> Mapping[tuple[str | None, bytes], Known]:
        """By the caller's address and their bytes."""

    def learn(self, head: bytes, request: Request, length: int) -> Known | None:
        """None for a request that has to go ASGI's way."""

    def settle(self) -> None:
        """The requests of one stage have gone as far as they could; their answers have not left yet."""


class _Exchange:
    """In the place of uvicorn's request, which a connection has one of at a time."""

    class _Event:
        def set(self) -> None: ...

    message_event = _Event()
    more_body = False
    disconnected = False
    response_complete = True
    keep_alive = True


class DirectProtocol(ServerProtocol):
    """Takes a request the direct way where it can."""

    heads: Heads
    requests: Stage
    answers: Stage

    _rests = False
    """Nothing is under way, begun or owed."""
    _alone = b""
    """The packet that is being read, where it came to a connection at rest."""
    _postponed: list[bytes] | None = None
    """The body of a request that may yet be whole with its packet; ASGI has not heard of it."""
    _is_whole = False
    _begun: tuple[Known, bytes] | None = None
    """A head that came without its body, which is to be the next packet. The parser has not heard of it."""
    _has_more = False
    """Something came behind the request that is being answered."""
    _drive: Drive[Response] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._known = self.heads.known
        self._peer = self.client[0] if self.client else None
        self._own = cast(RequestResponseCycle, _Exchange())
        self._idle = Alarm(self.loop, self._close_at_rest)
        self._rests = not self._has_ended

    def data_received(self, data: bytes) -> None:
        if self._rests and not self.flow.write_paused:
            end = data.find(HEAD_END) + len(HEAD_END)
            known = self._known.get((self._peer, data[:end]))
            if known is not None and len(data) == end + known.length:
                self._answer(known, data[end:])
                return
            if known is not None and len(data) == end and known.needs_body():
                self._begin(known, data)
                return
            self._alone = data
        elif self._begun is not None:
            (known, head), self._begun = self._begun, None
            if len(data) == known.length:
                self._answer(known, data)
                return
            self._parse_begun(head + data)
            return
        self._parse(data)

    def _parse_begun(self, data: bytes) -> None:
        """Its body has no more time for that."""
        until = self._timer.when() if self._timer is not None else 0.0
        self._parse(data)
        if self._timer is not None and self._awaited == "body" and self._running is self.cycle:
            self._timer.cancel()
            self._timer = self.loop.call_at(until, self._time_out, "body")

    def _parse(self, data: bytes) -> None:
        self._rests, self._has_more = False, True
        super().data_received(data)
        self._alone = b""
        self._rests = self._is_at_rest()

    # The direct way

    def _answer(self, known: Known, body: bytes) -> None:
        self._rests = False
        if self._awaited is not None:
            self._await(None)
        self._has_more = False
        self._own.response_complete, self._own.keep_alive = False, True
        self.cycle = self._running = self._own
        self._drive = drive = Drive(known.answer(body), self._finish, self.answers)
        if self.draining:
            self._have_awaited()
        self.requests.add(drive.go_on)

    def _begin(self, known: Known, head: bytes) -> None:
        self._rests = False
        self._begun = known, head
        self._await("body")

    def _finish(self, response: Response) -> None:
        if self.tasks:
            self.tasks.discard(cast("asyncio.Task[None]", self._drive))
        self._drive, own = None, self._own
        own.response_complete = True
        if self._lingers or self._wire.is_closing():
            return
        start = STATUS_LINE[response.status]
        if response.close or self.draining or not own.keep_alive:
            self._wire.write(b"%b%bconnection: close\r\n\r\n%b" % (start, response.lines, response.body))
            self.transport.close()
            return
        self._wire.write(b"%b%b\r\n%b" % (start, response.lines, response.body))
        if self._has_more:
            self.on_response_complete()
        else:
            self._rest()

    def _have_awaited(self) -> None:
        """The process ends only after what is under way, which is cancelled when its time is over."""
        if self._drive is not None:
            self.tasks.add(cast("asyncio.Task[None]", self._drive))

    def _rest(self) -> None:
        self._rests = True
        self._idle.set(self.loop.time() + self.timeout_keep_alive)

    def _is_at_rest(self) -> bool:
        begun = self._head_open or self._begun is not None or self._held
        return not (begun or self._is_busy() or self._has_ended or self._is_closing())

    def _close_at_rest(self) -> None:
        if self._rests and not self._is_closing():
            self._wire.close()

    # From the parser, for a head that is not known

    def _start_request(self) -> None:
        if self._alone and self._postponed is None and self._may_be_direct():
            self._postponed, self._is_whole = [], False
        else:
            super()._start_request()

    def _may_be_direct(self) -> bool:
        """What cannot be told from the request itself."""
        is_framed_by_length = not self._judged[b"transfer-encoding"]
        stays = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        return self.parser.get_method() == b"POST" and is_framed_by_length and stays and not self.expect_100_continue

    def on_message_begin(self) -> None:
        self._postpone_no_longer()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        if self._postponed is None:
            super().on_body(body)
        else:
            self._postponed.append(body)

    def on_message_complete(self) -> None:
        if self._postponed is None:
            super().on_message_complete()
        else:
            self._is_whole = True

    def _end_packet(self) -> None:
        """The request that came alone is whole, or lacks its body alone, or goes ASGI's way."""
        if self._postponed is None:
            return
        body, end = b"".join(self._postponed), self._alone.find(HEAD_END) + len(HEAD_END)
        is_whole = self._is_whole and len(self._alone) == end + len(body)
        known = None
        if is_whole or len(self._alone) == end:
            known = self._learn(self._alone[:end], len(body) if is_whole else self._announced_length())
        if known is not None and is_whole:
            self._postponed = None
            self._answer(known, body)
        elif known is not None and known.needs_body():
            self._postponed = None
            self._renew_parser()
            self._begin(known, self._alone)
        else:
            self._postpone_no_longer()

    def _learn(self, head: bytes, length: int) -> Known | None:
        request = Request("POST", self.url, gather(self.headers), self._peer, self.scheme or "http")
        return self.heads.learn(head, request, length)

    def _announced_length(self) -> int:
        """It may have more digits than Python reads, but they are zeros: the parser has seen to it."""
        digits = next((value for name, value in self.headers if name == b"content-length"), b"").lstrip(b"0")
        return int(digits or b"0")

    def _postpone_no_longer(self) -> None:
        """The request goes ASGI's way after all."""
        if self._begun is not None:
            (_, head), self._begun = self._begun, None
            self._parse_begun(head)
        if self._postponed is None:
            return
        pieces, self._postponed = self._postponed, None
        super()._start_request()
        for piece in pieces:
            super().on_body(piece)
        if self._is_whole:
            super().on_message_complete()

    # What may come in between

    def connection_lost(self, exc: Exception | None) -> None:
        self._postpone_no_longer()
        self._idle.end()
        self._have_awaited()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio.Protocol has it
        self._postpone_no_longer()
        return super().eof_received()

    def drain(self) -> None:
        self._postpone_no_longer()
        self._have_awaited()
        super().drain()

    def _close_idle(self) -> None:
        self._postpone_no_longer()
        super()._close_idle()

    def _time_out(self, part: Part) -> None:
        self._postpone_no_longer()
        self._await(None)  # its time is over, whatever the parser has just begun to wait for
        super()._time_out(part)

    def _end(self, error: CallerError) -> None:
        self._postpone_no_longer()
        super()._end(error)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()
        if self._is_at_rest():
            self._rest()
