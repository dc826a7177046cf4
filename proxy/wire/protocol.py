"""Where HTTP itself is judged (contract, admission 1), before there is a request.

What is refused here gets a v1 envelope too, and the connection is closed.
"""

from collections.abc import Callable, Sequence

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.contract.errors import CallerError, HeadersTooLarge, MalformedMessage
from proxy.contract.messages import Field, Response, write_lines
from proxy.wire.lifetime import LastingProtocol
from proxy.wire.syntax import expects_continue, judge_head, read_target

TARGET = "target"
"""In a scope's `state`: the request's path and query as they were sent, of which ASGI keeps a bare `?` to itself."""

PIECE = 4_096
"""Bytes that are parsed at a time."""

Refuse = Callable[[CallerError, bytes], Response]
"""Answers for a message that is no request, and counts it. The bytes are its path, as far as it could be told."""


def refuse_plainly(error: CallerError, _path: bytes) -> Response:
    """For servers that have no callers to count."""
    body = f"{error.text}\n".encode()
    return Response(error.status, b"content-length: %d\r\n" % len(body), body)


class ServerProtocol(LastingProtocol):
    """HTTP/1.1 on httptools, stricter by what llhttp lets pass.

    A malformed head is answered here, after the answers that earlier requests of the connection are owed. A
    malformed body is its own request's to answer, so that a request never has two answers.
    """

    max_header_bytes = 32_768
    refuse: Refuse = staticmethod(refuse_plainly)

    _held = b""
    _packet = 0
    _head_began_here = False
    _head_spilled = 0
    _bodiless = 0
    _refusal: CallerError | None = None

    def data_received(self, data: bytes) -> None:
        self._take_all(data)

    def _take_all(self, data: bytes) -> None:
        """In pieces, and no further than to a request that has to wait: a packet may hold thousands."""
        data = self._held + data
        self._held = b""
        for start in range(0, len(data), PIECE):
            if self.pipeline:
                self._held = data[start:]
                break
            if not self._has_ended:
                self._take(data[start : start + PIECE])
        self._end_packet()
        self.flow.holds = bool(self._held)
        if self._held:
            self.flow.pause_reading()
        if not self._has_ended:
            self._await_rest()

    def _end_packet(self) -> None:
        """What came was read, as far as it can be for now."""

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._held and not self.pipeline and not self.transport.is_closing():
            self._take_all(b"")
            self.flow.resume_reading()

    def _take(self, piece: bytes) -> None:
        self._packet = len(piece)
        self._bodiless += self._packet
        self._head_began_here = False
        while piece:
            piece = self._feed(piece)
        if self._head_open and not self._head_began_here:
            self._head_spilled += self._packet
            if self._head_spilled > self.max_header_bytes:
                self._end(HeadersTooLarge())
        elif self._is_in_body() and self._bodiless > self._packet + self.max_header_bytes:
            self._end(MalformedMessage())  # a trailer or a chunk extension that goes on and on

    def refusal(self, error: CallerError) -> bytes:
        return _written(self.refuse(error, self._path_of_head()), self.server_state.default_headers)

    def _feed(self, data: bytes) -> bytes:
        """Parses; returns what has to be parsed anew."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._end(self._refusal or MalformedMessage())
            self._refusal = None  # its traceback refers back to this connection
        return b""

    # httptools' callbacks; what they raise ends the parsing

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = self._head_began_here = True
        self._head_spilled = 0
        self._bodiless = self._packet
        self._judged: dict[bytes, list[bytes]] = {b"host": [], b"transfer-encoding": [], b"expect": []}

    def on_header(self, name: bytes, value: bytes) -> None:
        """In the place of uvicorn's, which meets an Expect of HTTP/1.0 too."""
        if not self._head_open:
            # RFC 9110, section 6.5.1: a trailer is no header. But behind its Connection: close llhttp reads nothing.
            self.cycle.keep_alive &= self.parser.should_keep_alive()
            return
        name = name.lower()
        value = value.rstrip(b" \t")  # RFC 9110, section 5.5: white space around a value is none of it
        self.headers.append((name, value))
        if (judged := self._judged.get(name)) is not None:
            judged.append(value)

    def on_headers_complete(self) -> None:
        try:
            self._judge_head()
        except CallerError as refusal:
            self._refusal = refusal
            raise
        if not self.parser.should_upgrade():
            self._head_open = False
            self._start_request()

    def _start_request(self) -> None:
        self.scope["state"][TARGET] = self.url
        super().on_headers_complete()

    def _judge_head(self) -> None:
        # One packet bounds the head that began and ended in it, so most heads need no counting.
        may_exceed = self._packet > self.max_header_bytes or not self._head_began_here
        if may_exceed and self._head_bytes() > self.max_header_bytes:
            raise HeadersTooLarge
        version = self.parser.get_http_version()
        hosts, codings, expectations = self._judged.values()
        judge_head(version, hosts, codings)
        if expectations:
            self.expect_100_continue = expects_continue(version, expectations)
        self.url, host = read_target(self.parser.get_method(), self.url)
        if host:  # RFC 9112, section 3.2.2: it counts, and not the field
            self.headers[:] = [(b"host", host), *(line for line in self.headers if line[0] != b"host")]

    def on_body(self, body: bytes) -> None:
        self._bodiless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline_upgrade(self, rest: bytes) -> bytes:
        """The request without its Upgrade (RFC 9110, section 7.8), for llhttp leaves the body unread.

        Java's HttpClient offers h2c on the first call of every plain connection. CONNECT has no such reading.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._end(MalformedMessage())
            return b""
        self._renew_parser()
        kept = (b"%s: %s" % line for line in self.headers if line[0] != b"upgrade")
        return b"\r\n".join([b"%s %s HTTP/%s" % (method, self.url, version), *kept, b"", rest])

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's: a close ends the reading

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _path_of_head(self) -> bytes:
        """The path of the request whose head is open, as far as it was read; empty where there is none."""
        if not self._head_open or not self.url:
            return b""
        try:
            return httptools.parse_url(self.url).path or b""
        except httptools.HttpParserInvalidURLError:
            return b""


def _written(response: Response, defaults: Sequence[Field]) -> bytes:
    lines = write_lines(defaults) + response.lines
    return b"%b%bconnection: close\r\n\r\n%b" % (STATUS_LINE[response.status], lines, response.body)
