"""Counts of what is recent. Times are seconds on any clock that only goes forward."""

from collections import deque

SLOTS = 10
"""What is too old is forgotten a slot at a time, so a window is up to a tenth shorter than it says."""


class Window:
    """How many calls there were in the last `seconds`, and how many of them were marked."""

    def __init__(self, seconds: float) -> None:
        self._slot_seconds = seconds / SLOTS
        self._slots: deque[list[int]] = deque()  # a slot's number, its calls, and the marked ones
        self._slot_ends = 0.0
        self.calls = 0
        self.marked = 0

    def count(self, now: float, *, calls: int = 0, marked: int = 0) -> None:
        """Adds to the counts, and forgets what is too old."""
        if now >= self._slot_ends:
            self._open_slot(int(now / self._slot_seconds))
        slot = self._slots[-1]
        slot[1] += calls
        slot[2] += marked
        self.calls += calls
        self.marked += marked

    def add(self, now: float) -> None:
        """One call more: `count` for the hot path."""
        if now >= self._slot_ends:
            self._open_slot(int(now / self._slot_seconds))
        self._slots[-1][1] += 1
        self.calls += 1

    def clear(self) -> None:
        """Forgets all."""
        self._slots.clear()
        self._slot_ends = 0.0
        self.calls = self.marked = 0

    def _open_slot(self, number: int) -> None:
        if not self._slots or self._slots[-1][0] < number:
            self._forget(number - SLOTS)
            self._slots.append([number, 0, 0])
        self._slot_ends = (number + 1) * self._slot_seconds

    def _forget(self, last: int) -> None:
        while self._slots and self._slots[0][0] <= last:
            _, calls, marked = self._slots.popleft()
            self.calls -= calls
            self.marked -= marked
