"""Runs a coroutine without a task: whoever ends a wait of its goes on with it.

A task takes a turn of the event loop for each wait, which costs more than all that a call needs besides.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Wait(asyncio.Future[Result]):
    """A future that goes on with its Drive at once. To a task it is like any other.

    Only what the event loop itself calls may end it: a Drive goes on within that call.
    """

    __slots__ = ("go_on",)

    go_on: Callable[[], None] | None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.go_on = None

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

    What needs a task of its own, as `asyncio.timeout` does, has to make one: there is no current task.
    """

    __slots__ = ("_coroutine", "_done", "_wait")

    def __init__(self, coroutine: Coroutine[object, None, Result], done: Callable[[Result], None]) -> None:
        self._coroutine = coroutine
        self._done = done
        self._wait: asyncio.Future[object] | None = None

    def go_on(self, _: object = None) -> None:
        """To the next wait, or to the end."""
        try:
            wait = self._coroutine.send(None)
        except StopIteration as end:
            self._done(end.value)
            return
        if type(wait) is Wait:
            wait.go_on = self.go_on
        else:
            assert isinstance(wait, asyncio.Future)
            wait.add_done_callback(self.go_on)
        self._wait = wait

    def cancel(self, msg: str | None = None) -> None:
        """As a task's: the coroutine gets asyncio.CancelledError where it waits."""
        if self._wait is not None and self._wait.cancel(msg) and type(self._wait) is Wait:
            self._wait.get_loop().call_soon(self.go_on)
