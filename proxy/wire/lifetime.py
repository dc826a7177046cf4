"""How long a caller's connection lives: how many there may be, how long each is waited for, and how it ends."""

import asyncio
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from proxy.contract.errors import CallerError, MalformedMessage, Part, RequestTimeout, TooManyConnections

LINGER_SECONDS = 2.0
"""How long the rest of what a caller sends is thrown away after its last answer. Closing on unread bytes would reset
the connection, and the answer could be lost with it (RFC 9112, section 9.6)."""
LINGERERS = 500
"""Connections beyond the limit that may do so at once; further ones are told and closed."""
FIRST_WORD_SECONDS = 0.5
"""How long a drain waits for the first request of a connection that has just come."""

FAULT = "fault"
"""In a scope's `state`: the CallerError that is the answer, for the rest of the request's body will not be had."""


class _Line(NamedTuple):
    """A connection as uvicorn's requests use it, which is closed our way."""

    write: Callable[[bytes], None]
    close: Callable[[], None]
    is_closing: Callable[[], bool]


class _Flow(FlowControl):
    """uvicorn's, which does not read on while something that was read is held back."""

    holds = False

    def resume_reading(self) -> None:
        if not self.holds:
            super().resume_reading()


class LastingProtocol(HttpToolsProtocol, ABC):
    """uvicorn's HTTP/1.1 on httptools, with an end to all that could last. Times in seconds.

    A connection waits for one thing at a time, and only what does not come in one packet costs a timer: the rest of a
    head, or of a body. Between requests uvicorn's own timer runs.
    """

    max_connections = 10_000
    header_timeout = 10.0
    body_timeout = 20.0
    draining = False
    """Each answer closes its connection."""
    turned_away: ClassVar[set["LastingProtocol"]] = set()
    """Those beyond the limit that are still being told so."""
    arrived: Callable[[], None] = staticmethod(lambda: None)
    """Told of each connection."""

    _running: RequestResponseCycle | None = None
    _head_open = False
    _awaited: Part | None = None
    _timer: asyncio.TimerHandle | None = None
    _last_word = b""
    _has_ended = False
    """No byte more is taken for anything."""
    _lingers = False
    _caller_closed = False

    @abstractmethod
    def refusal(self, error: CallerError) -> bytes:
        """The answer to a message that is no request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.arrived()
        self._wire = transport
        self.flow: _Flow = _Flow(transport)
        self.transport = cast(asyncio.Transport, _Line(transport.write, self._close, self._is_closing))
        if len(self.connections) - len(self.turned_away) <= self.max_connections:
            self._await("header")
        elif len(self.turned_away) < LINGERERS:
            self.turned_away.add(self)
            self._end(TooManyConnections())
        else:
            transport.write(self.refusal(TooManyConnections()))
            transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio.Protocol has it
        """Whether the connection stays open to answer: a caller may close its side after its last request.

        RFC 9112, section 9.6.
        """
        self._caller_closed = True
        if self._lingers or not self._is_busy():
            return False
        if self._is_in_body() and not self._has_ended:
            if self._running is self.cycle:
                return False
            self._end(MalformedMessage())  # those before it are answered
        self.cycle.keep_alive = False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.turned_away.discard(self)
        self._await(None)
        if self._timer is not None:
            self._timer.cancel()
        self._unset_keepalive_if_required()  # uvicorn leaves it where the connection was reset
        # uvicorn tells the newest request only; with pipelining an earlier one may be running.
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._let_go()

    def _let_go(self) -> None:
        """Of all that refers back to this connection: it has ended, and is not left to the garbage collector."""
        self.transport = self._wire
        self.cycle = self._running = None  # type: ignore[assignment]  # as uvicorn has it
        self.pipeline.clear()

    def drain(self) -> None:
        """The answer that is owed last closes the connection."""
        if self._is_busy():
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection with what it is at, if it is at anything. One that lingers does not for long."""
        self.drain()
        if self.cycle is None or self._has_unread():
            self.loop.call_later(FIRST_WORD_SECONDS, self._close_idle)
        else:
            self._close_idle()

    def _close_idle(self) -> None:
        if not (self._is_busy() or self._head_open or self._is_closing()):
            self._wire.close()

    # One thing is waited for at a time

    def _await(self, part: Part | None) -> None:
        """Has the part be whole in time; the time of one that is awaited already runs on."""
        if part == self._awaited:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited = part
        if part is not None:
            seconds = self.header_timeout if part == "header" else self.body_timeout
            self._timer = self.loop.call_later(seconds, self._time_out, part)

    def _await_rest(self) -> None:
        """A packet was read to its end. Empty lines before a head buy no time."""
        if self._is_in_body():
            self._await("body")
        elif self._head_open:
            self._await("header")

    def _time_out(self, part: Part) -> None:
        self._timer, self._awaited = None, None
        if self.flow.read_paused:  # by us, for an earlier request is not answered yet
            self._await(part)
        elif self._head_open or self._is_in_body():
            self._end(RequestTimeout(part))
        else:
            self._wire.close()  # of a request not a byte came, or its body was not wanted

    # uvicorn's requests, one at a time

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if self._awaited == "body":  # of this one, and it was not read until now
            self._await(None)
            self._await("body")
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._await(None)
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._await(None)
        super().on_headers_complete()
        if self.draining:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._awaited == "header":  # the next one has begun
            self._unset_keepalive_if_required()
        if self._last_word and not self._is_busy() and not self.transport.is_closing():
            self._say_last_word()

    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _is_in_body(self) -> bool:
        """Whether the newest request's body is not whole yet, and still wanted."""
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete

    # The end

    def _end(self, error: CallerError) -> None:
        """Takes no further request from this connection. Those before the error are answered first."""
        if self._has_ended or self._is_closing():
            return
        self._has_ended = True
        self.flow.pause_reading()
        self._await(None)
        if self._is_in_body():
            self.cycle.scope["state"][FAULT] = error
            self.cycle.message_event.set()
            return
        self._last_word = self.refusal(error)
        if not self._is_busy():
            self._say_last_word()

    def _say_last_word(self) -> None:
        self.transport.write(self._last_word)
        self._linger()

    def _is_closing(self) -> bool:
        return self._lingers or self._wire.is_closing()

    def _close(self) -> None:
        """At once, unless the caller is still sending."""
        if self._is_closing():
            return
        if not self._caller_closed and (self.cycle.more_body or self._has_unread()):
            self._linger()
        else:
            self._wire.close()

    def _linger(self) -> None:
        """Says that nothing more will be said, and throws away what comes until the caller has closed too."""
        self._has_ended = self._lingers = True
        if self._wire.can_write_eof():
            self._wire.write_eof()
        self.flow.resume_reading()
        self._await(None)
        self._timer = self.loop.call_later(LINGER_SECONDS, self._linger_no_longer)

    def _linger_no_longer(self) -> None:
        if self._wire.get_write_buffer_size():  # it is still being told; TCP_USER_TIMEOUT bounds that
            self._timer = self.loop.call_later(LINGER_SECONDS, self._linger_no_longer)
        else:
            self._wire.abort()

    def _has_unread(self) -> bool:
        """Whether the kernel has bytes that the event loop has not come round to."""
        readable = select.poll()
        readable.register(self._wire.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(readable.poll(0))
