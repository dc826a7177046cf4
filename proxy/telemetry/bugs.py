"""What the log says of a bug of ours: its type and where it arose. Its own words may hold a caller's values.

So too where it is another that tells of it: uvicorn, the event loop, or Python itself.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

_log = logging.getLogger(__name__)


def described(bug: BaseException) -> str:
    """Its type and the lines of code that led to it; those of its cause, or of the group's members, below."""
    lines = "".join(traceback.format_tb(bug.__traceback__)).rstrip()
    return "\n".join((type(bug).__name__, *filter(None, (lines,)), *(f"of {described(each)}" for each in _behind(bug))))


def _behind(bug: BaseException) -> Iterable[BaseException]:
    if isinstance(bug, BaseExceptionGroup):
        return bug.exceptions
    cause = bug.__cause__ if bug.__suppress_context__ else bug.__context__
    return () if cause is None else (cause,)


Info = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
"""What sys.exc_info() gives."""


class Formatter(logging.Formatter):
    """For whatever is logged with an exception."""

    def formatException(self, ei: Info) -> str:  # noqa: N802  # logging's name for it
        return "" if ei[1] is None else described(ei[1])


def tell_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For an event loop, whose own words would be the reprs of a task, a callback's arguments and the bug."""
    bug = context.get("exception")
    _log.error("unhandled: %s", context["message"] if bug is None else described(bug))


def tell_discreetly() -> None:
    """Has Python itself tell of a bug so: one that ends a thread, and one that nobody can be told of."""
    threading.excepthook = lambda told: _tell(told.exc_value)
    sys.unraisablehook = lambda told: _tell(told.exc_value)


def _tell(bug: BaseException | None) -> None:
    if bug is not None:
        _log.error("unhandled: %s", described(bug))
