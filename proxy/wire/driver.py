"""Runs coroutines without tasks, those that are at the same point together.

A task takes a turn of the event loop for each wait, which costs more than many steps of a call. And what many calls do
one after the other finds the processor's caches warm: it takes them less time than in between all else.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

Result = TypeVar("Result")


MOST = 32
"""Steps that are put off at most. The values of more calls than these would drive each other out of the caches."""


class Stage:
    """The steps of one kind that are due in this turn of the event loop, for the end of it.

    `settle` is called when they have been taken. What they wrote leaves after that.
    """

    def __init__(self, settle: Callable[[], None] = lambda: None) -> None:
        self._settle = settle
        self._steps: deque[Callable[[], None]] = deque()

    def add(self, step: Callable[[], None]) -> None:
        """Has a step taken when the loop has read what there was to read, or there are many. It must not raise."""
        self._steps.append(step)
        if len(self._steps) == 1:
            asyncio.get_running_loop().call_soon(self._take)
        elif len(self._steps) >= MOST:
            self._take()

    def _take(self) -> None:
        steps = self._steps
        try:
            while steps:
                steps[0]()
                steps.popleft()
        except BaseException:
            steps.popleft()
            if steps:  # one that raises is a bug, and not the others'
                asyncio.get_running_loop().call_soon(self._take)
            raise
        finally:
            self._settle()


class Wait(asyncio.Future[Result]):
    """A future that goes on with its Drive when its turn comes. To a task it is like any other."""

    go_on: Callable[[], None] | None = None

    def end(self, result: Result) -> None:
        """It has come."""
        self.set_result(result)
        if self.go_on is not None:
            self.go_on()

    def fail(self, error: Exception) -> None:
        """It will not come."""
        self.set_exception(error)
        if self.go_on is not None:
            self.go_on()


class Drive(Generic[Result]):
    """One coroutine on its way. `done` gets its result; it must not raise, nor must the coroutine.

    It begins, and goes on after each wait, with the others of the `stage` given. What needs a task of its own, as
    `asyncio.timeout` does, has to make one: there is no current task.
    """

    __slots__ = ("_coroutine", "_done", "_stage", "_wait")

    def __init__(
        self, coroutine: Coroutine[object, None, Result], done: Callable[[Result], None], stage: Stage
    ) -> None:
        self._coroutine = coroutine
        self._done = done
        self._stage = stage
        self._wait: asyncio.Future[object] | None = None

    def go_on(self) -> None:
        """To the next wait, or to the end."""
        self._wait = None  # it holds this drive, and no call is to be left to the garbage collector
        try:
            wait = self._coroutine.send(None)
        except StopIteration as end:
            self._done(end.value)
            return
        if type(wait) is Wait:
            wait.go_on = self._go_on_with_others
        else:
            assert isinstance(wait, asyncio.Future)
            wait.add_done_callback(self._go_on_with_others)
        self._wait = wait

    def cancel(self, msg: str | None = None) -> None:
        """As a task's: the coroutine gets asyncio.CancelledError where it waits."""
        if self._wait is not None and self._wait.cancel(msg) and type(self._wait) is Wait:
            self._go_on_with_others()

    def _go_on_with_others(self, _: object = None) -> None:
        self._stage.add(self.go_on)
