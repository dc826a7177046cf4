"""The ways of a call into the pipeline: by either door, and by the direct one in each manner that it tells apart."""

import contextlib
from collections.abc import Iterable
from http.client import HTTPConnection
from typing import Any, NamedTuple

from tests.processes import Wire


class AtOnce(HTTPConnection):
    """Writes a request in one packet, where http.client writes its head and then its body."""

    def endheaders(self, message_body: Any = None, **how: Any) -> None:
        self._pieces: list[bytes] = []
        super().endheaders(message_body, **how)
        for packet in self._packets(*self._pieces):
            super().send(packet)

    def send(self, data: Any) -> None:
        self._pieces.append(data)

    def _packets(self, head: bytes, body: bytes = b"") -> Iterable[bytes]:
        return (head + body,)

    def _make_known(self, head: bytes, length: int) -> None:
        """The same head came before, with another body, which no upstream gets: it is no JSON."""
        if head.startswith(b"POST "):
            with Wire(f"{self.host}:{self.port}") as wire, contextlib.suppress(ConnectionError):
                wire.send(head + b"!" * length)
                wire.answer()


class Known(AtOnce):
    """Has said the same head before."""

    def _packets(self, head: bytes, body: bytes = b"") -> Iterable[bytes]:
        self._make_known(head, len(body))
        return super()._packets(head, body)


class KnownThenBody(AtOnce):
    """The same, and its body is a packet of its own."""

    def _packets(self, head: bytes, body: bytes = b"") -> Iterable[bytes]:
        self._make_known(head, len(body))
        return head, body


class Way(NamedTuple):
    """By which of a proxy's doors, and what writes the request."""

    door: str
    connection: type[HTTPConnection]


WAYS = {
    "asgi": Way("asgi", HTTPConnection),
    "direct, head and then body": Way("direct", HTTPConnection),
    "direct, at once": Way("direct", AtOnce),
    "direct, known": Way("direct", Known),
    "direct, known and then body": Way("direct", KnownThenBody),
}
