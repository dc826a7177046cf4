"""`nox-proxy`, to whose parser every byte comes by itself: `python -m tests.wire.byte_by_byte serve …`.

A message must not be read otherwise where the network cuts it. This cuts it everywhere, without waiting for a network.
"""

from proxy.cli import main
from proxy.wire.protocol import ServerProtocol

LARGE = 4_096
PIECE = 997
"""For what is larger: a prime, so that no two lines are cut alike."""

_whole = ServerProtocol.data_received


def _in_pieces(self: ServerProtocol, data: bytes) -> None:
    size = 1 if len(data) <= LARGE else PIECE
    for start in range(0, len(data), size):
        _whole(self, data[start : start + size])


if __name__ == "__main__":
    ServerProtocol.data_received = _in_pieces  # type: ignore[method-assign]
    main()
