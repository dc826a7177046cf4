"""A deadline that moves with each call."""

import asyncio
from collections.abc import Callable
from math import inf

GRAIN = 0.002
"""Seconds. The event loop counts milliseconds, and may be early by one."""


class Alarm:
    """Rings when the moment set last has come. Moments are in the event loop's seconds.

    A timer made and taken back for each call would cost more than the call's JSON. This one is left to run, looks at
    the moment that counts by then, and waits on. `ring` has to see for itself whether there is still anything to end.
    """

    __slots__ = ("_looks_at", "_loop", "_moment", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._moment = self._looks_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, moment: float) -> None:
        """The only moment that counts from now on."""
        self._moment = moment
        if moment < self._looks_at:
            self._look_at(moment)

    def end(self) -> None:
        """It rings no more, and holds on to nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._moment = self._looks_at = inf
        self._ring = _nobody

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = moment
        self._timer = self._loop.call_at(moment, self._look)

    def _look(self) -> None:
        self._timer, self._looks_at = None, inf
        if self._moment > self._loop.time() + GRAIN:
            self._look_at(self._moment)
        else:
            self._ring()


def _nobody() -> None: ...
