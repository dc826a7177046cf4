"""Request, Response and Body: frozen values that know no framework. And header lines, as fields and as written."""

from collections.abc import Collection, Iterable, Mapping

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

    `target` is the path with the query as they were sent, byte for byte; `path` is the first of them. `client` is
    the address of the peer, None where there is none (a Unix socket).
    """

    method: str
    target: bytes
    fields: Fields
    client: str | None = None
    scheme: str = "http"

    @property
    def path(self) -> bytes:
        """Still percent-encoded."""
        return self.target.partition(b"?")[0]

    def __repr__(self) -> str:
        return f"Request({self.method} {len(self.fields)} fields)"  # values may be secrets


class Response(msgspec.Struct, frozen=True, gc=False):
    """An answer to the caller, whole. `lines` are its header's, as written. `close` ends the connection after it."""

    status: int
    lines: bytes
    body: bytes
    close: bool = False

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


def write_lines(fields: Iterable[Field]) -> bytes:
    """Header lines as they go over the wire, each with its end. The fields are taken as they are: fit to be sent."""
    return b"".join(b"%b: %b\r\n" % field for field in fields)


def read_lines(lines: bytes) -> tuple[Field, ...]:
    """The fields of lines that we have written."""
    split = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return tuple((name, value) for name, _, value in split)


def gather(lines: Collection[Field]) -> dict[bytes, tuple[bytes, ...]]:
    """Header lines, their names in lower case, by name."""
    single: dict[bytes, tuple[bytes, ...]] = {name: (value,) for name, value in lines}
    if len(single) == len(lines):
        return single
    gathered: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        gathered.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in gathered.items()}
