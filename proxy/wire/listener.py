"""The socket that callers connect to: how it is bound, and how it closes without the loss of one who got in.

Closing it resets whoever waits to be accepted, and there is always one more who just connects. So it first takes
nobody new, then in who waits.
"""

import contextlib
import socket
import struct
from array import array
from mmap import mmap

from proxy.wire.address import authority

STALL_SECONDS = 20.0
"""How long a caller may take nothing of its answer before the kernel gives the connection up (RFC 5482)."""
BACKLOG = 2048
"""How many callers may wait to be accepted, if the kernel allows it."""

_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; Python does not name it
_NO_SYN = (
    (0x30, 0, 0, 13),  # the flags of the TCP header
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # dropped
    (0x06, 0, 0, 0xFFFF_FFFF),  # let through
)
"""A program of Berkeley's packet filter (bpf(4), socket(7)): code, jumps if true and if false, operand."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALL_SECONDS * 1000))
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """`host:port` as bound."""
    return authority(*listener.getsockname()[:2])


def turn_away_newcomers(listener: socket.socket) -> None:
    """Has the kernel take no further connection; those that have begun go on. For all processes that share the socket.

    To newcomers it is as if their first packet were lost. They send it again, a second later, and find it closed.
    """
    program = array("B", b"".join(struct.pack("=HBBI", *step) for step in _NO_SYN))
    place, _ = program.buffer_info()
    with contextlib.suppress(OSError):  # a kernel without it resets a few
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), place))


def accept_waiting(listener: socket.socket, most: int = BACKLOG) -> list[socket.socket]:
    """Those who wait now, so many at most. Others are left where no file is free for them."""
    waiting: list[socket.socket] = []
    with contextlib.suppress(OSError):  # nobody waits any more
        while len(waiting) < most:
            connection, _ = listener.accept()
            connection.setblocking(False)
            waiting.append(connection)
    return waiting


class Door:
    """Who of several processes still takes callers from the socket that they share; each of them sees it."""

    def __init__(self, processes: int) -> None:
        self._left = mmap(-1, processes + 1)  # the last byte: no process comes in another's place

    def enter(self, process: int) -> None:
        """It is counted from 0, and may come in the place of one that left."""
        self._left[process] = 0

    def leave(self, process: int) -> bool:
        """It takes no more callers; whether it was the last for good. One that left alone is replaced."""
        self._left[process] = 1
        return all(self._left[:])

    def close(self) -> None:
        """All are about to leave."""
        self._left[-1] = 1
