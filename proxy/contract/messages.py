"""Request, Response and Body: frozen values that know no framework."""

from collections.abc import Iterable, Mapping

import msgspec

Field = tuple[bytes, bytes]
"""One header line: the name in lower case, the value."""

Fields = Mapping[bytes, tuple[bytes, ...]]
"""A header block: each name in lower case with its values, in their order."""


class Body(msgspec.Struct, frozen=True, gc=False):
    """A JSON body, v1's or v2's. Its repr shows no value: they are users' and devices'."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Request(msgspec.Struct, frozen=True, gc=False):
    """The head of a caller's request. The body is read after the head is admitted.

    `path` is the path as it was sent, still percent-encoded and without the query. `client` is the
    address of the peer, None where there is none (a Unix socket).
    """

    method: str
    path: bytes
    fields: Fields
    client: str | None = None
    scheme: str = "http"

    def __repr__(self) -> str:
        return f"Request({self.method} {len(self.fields)} fields)"  # values may be secrets


class Response(msgspec.Struct, frozen=True, gc=False):
    """An answer to the caller, whole. `close` ends the connection after it."""

    status: int
    fields: tuple[Field, ...]
    body: bytes
    close: bool = False

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


def gather(lines: Iterable[Field]) -> dict[bytes, tuple[bytes, ...]]:
    """Header lines, their names in lower case, by name."""
    gathered: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        gathered.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in gathered.items()}
