"""A worker's numbers in memory that outlives it.

The memory is shared with the processes forked after it was made. A worker that takes over another's block goes
on counting where that one was killed, so no count is lost, none is reset, and nothing grows with restarts.
"""

import logging
import mmap
from collections.abc import Iterator

import msgspec

_log = logging.getLogger(__name__)

SIZE = 16 * 2**20
"""Bytes of address space, some 100,000 series; pages that no series reaches take no memory."""
WORD = 8
SCRAP = 64
"""Words at the end, for series that find no room."""

Key = tuple[str, tuple[str, ...]]
"""A series' name and the values of its labels."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Key).decode


class Block:
    """Series one after another, each as words of 8 bytes: its key's length, its width, its key, its cells.

    `cells` are all words as floats; the first holds how many are in use. One process writes, any may read.
    """

    def __init__(self, size: int = SIZE) -> None:
        self._bytes = memoryview(mmap.mmap(-1, size))
        self.cells = self._bytes.cast("d")
        self._room = len(self.cells) - SCRAP
        self._read_up_to = 1
        self._places: dict[Key, tuple[int, int]] = {}

    def place(self, key: Key, width: int = 1) -> int:
        """The index of a series' first cell; a new series begins at 0.

        A full block gives out its scrap, so that a call is answered whatever can be counted.
        """
        self.series()
        if key in self._places:
            return self._places[key][0]
        text = _encode(key)
        start = self._read_up_to
        first = start + 2 + -(-len(text) // WORD)
        if first + width > self._room:
            _log.error("metrics: no room for another series, %s is not counted", key[0])
            self._places[key] = (self._room, 0)
            return self._room
        self.cells[start], self.cells[start + 1] = len(text), width
        self._bytes[(start + 2) * WORD : (start + 2) * WORD + len(text)] = text
        for cell in range(first, first + width):
            self.cells[cell] = 0
        self.cells[0] = first + width  # last, so that a reader sees whole series only
        return self.series()[key][0]

    def series(self) -> dict[Key, tuple[int, int]]:
        """Each series' first cell and width. What was read once is not read again."""
        used = int(self.cells[0])
        while self._read_up_to < used:
            start = self._read_up_to
            length, width = int(self.cells[start]), int(self.cells[start + 1])
            first = start + 2 + -(-length // WORD)
            key = _decode(self._bytes[(start + 2) * WORD : (start + 2) * WORD + length])
            self._places[key] = (first, width)
            self._read_up_to = first + width
        return self._places

    def value(self, key: Key) -> float:
        """What the first cell of a series holds; 0 where there is no such series."""
        place = self.series().get(key)
        return self.cells[place[0]] if place else 0.0

    def values(self) -> Iterator[tuple[Key, list[float]]]:
        """Each series with what its cells hold now."""
        for key, (first, width) in self.series().items():
            if width:
                yield key, [self.cells[first]] if width == 1 else list(self.cells[first : first + width])
