"""Worker processes: forked from one that does nothing else, watched, replaced, and ended in order.

Signals to the supervisor: the first SIGTERM or SIGINT drains, a second ends at once. What it tells its workers:
SIGTERM drains, SIGQUIT ends, and SIGKILL ends one that does neither in time. A service manager may send SIGTERM to all
of them at once, so a worker that gets it twice only drains. A child whose supervisor is gone drains too: the end of its
link tells it, for nobody else holds the other one.

While they run they are handed news: see `news.py`.
"""

import asyncio
import contextlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from typing import NamedTuple

from proxy.news import News, Receiver, Sender, Spreading, Take, make_link
from proxy.telemetry.bugs import described
from proxy.wire.server import OPERATORS

_log = logging.getLogger(__name__)

_fork = multiprocessing.get_context("fork")

RESTART_SECONDS = 1.0
"""How long a worker is waited with whose predecessor did not live that long."""
END_SECONDS = 2.0
"""How long an end may take that is no drain."""

Run = Callable[[Receiver], None]
"""What a process does until it ends. It is given its end of the link, for the functions below."""


class Worker(NamedTuple):
    """A process to be kept running. `mourn` is called in the supervisor when it has ended."""

    run: Run
    mourn: Callable[[], None] = lambda: None


class _Child(NamedTuple):
    """A process that runs, and our end of its link."""

    process: ForkProcess
    link: Sender


class Supervisor:
    """Runs `workers`, by their names, and beside them `admin`, which it ends after them; hands them all `news`."""

    def __init__(self, workers: Mapping[str, Worker], admin: Worker, news: News, *, drain_seconds: float) -> None:
        self._roles = {**workers, "admin": admin}
        self._drain_seconds = drain_seconds
        self._deadline = math.inf
        self._running: dict[str, _Child] = {}
        self._born: dict[str, float] = {}
        self._stopping = False
        self._news = Spreading(news)

    def run(self, *, on_started: Callable[[], None], on_stop: Callable[[], None]) -> None:
        """Returns when all have ended. `on_stop` is called before the workers are told.

        Raises OSError where the first processes cannot be made.
        """

        def stop(_number: int, _frame: object) -> None:
            if not self._stopping:
                on_stop()
            patience = END_SECONDS if self._stopping else self._drain_seconds + END_SECONDS
            self._deadline = time.monotonic() + patience
            self._tell(signal.SIGQUIT if self._stopping else signal.SIGTERM)
            self._stopping = True

        for number in OPERATORS:
            signal.signal(number, stop)
        for name in self._roles:
            self._start(name)
        on_started()
        while self._workers() or not self._stopping:
            # Not every handler's doings end the wait, so it is never long.
            wait(self._awaited(), RESTART_SECONDS)
            self._reap()
            self._replace()
            if not self._stopping:
                self._news.spread({name: child.link for name, child in self._running.items()})
            if time.monotonic() > self._deadline:
                self._tell(signal.SIGKILL)
        self._end_admin()

    def _awaited(self) -> list[int]:
        """Once all are to end, only their ends are of interest."""
        ends = [child.process.sentinel for child in self._running.values()]
        if self._stopping:
            return ends
        answers = [child.link.fileno() for child in self._running.values() if child.link.owes_answer]
        return [*ends, *answers, self._news.fileno()]

    def _workers(self) -> list[_Child]:
        return [child for name, child in self._running.items() if name != "admin"]

    def _tell(self, number: signal.Signals) -> None:
        for child in self._workers():
            _send(child.process, number)

    def _start(self, name: str, delay: float = 0.0) -> None:
        self._born[name] = time.monotonic() + delay
        ours, theirs = make_link()
        self._news.begin(ours)
        arguments = (self._roles[name].run, theirs, ours, delay)
        process = _fork.Process(target=self._enter, args=arguments, name=name, daemon=True)
        try:
            with _without_signals():  # until the child has let go of our handlers
                process.start()
                self._running[name] = _Child(process, ours)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._stopping:  # the signal came while this one was not yet among those that run
            _send(process, signal.SIGTERM)

    def _reap(self) -> None:
        """Takes leave of those that ended."""
        for name, child in list(self._running.items()):
            if child.process.exitcode is None:
                continue
            child.process.join()
            child.link.close()
            del self._running[name]
            self._roles[name].mourn()
            if not self._stopping:
                why = _why(child.process.exitcode)
                _log.error("%s (process %d) ended: %s; it is replaced", name, child.process.pid, why)

    def _replace(self) -> None:
        """Starts those that are missing. What cannot be started now is tried again."""
        for name in self._roles.keys() - self._running.keys() if not self._stopping else ():
            died_young = time.monotonic() - self._born[name] < RESTART_SECONDS
            try:
                self._start(name, RESTART_SECONDS if died_young else 0.0)
            except OSError as error:
                _log.error("%s cannot be started: %s; it is tried again", name, error.strerror)

    def _enter(self, run: Run, link: Receiver, ours: Sender, delay: float) -> None:
        """A child's first steps. A terminal's Ctrl-C reaches it too, but is the supervisor's to hear, as is a SIGHUP.

        It holds no end of a link but its own, or nobody would be told by them that the supervisor is gone.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OPERATORS)
        for end in (ours, *(child.link for child in self._running.values())):
            end.close()
        time.sleep(delay)
        try:
            run(link)
        except OSError as error:
            _log.error("%s cannot work: %s", multiprocessing.current_process().name, error)
            sys.exit(1)
        except Exception as bug:  # multiprocessing would tell of it in its own words
            _log.error("%s crashed: %s", multiprocessing.current_process().name, described(bug))
            sys.exit(1)

    def _end_admin(self) -> None:
        for child in self._running.values():
            _send(child.process, signal.SIGQUIT)
            child.process.join(END_SECONDS)
            _send(child.process, signal.SIGKILL)
            child.process.join()


def obey_supervisor(link: Receiver, take: Take, drain: Callable[[], None], end: Callable[[], None]) -> None:
    """For a worker."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain)
    loop.add_signal_handler(signal.SIGQUIT, end)
    link.follow(take, orphaned=drain)


def outlast_workers(link: Receiver, take: Take, drain: Callable[[], None], end: Callable[[], None]) -> None:
    """For the admin process: the supervisor ends it, after the workers."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    loop.add_signal_handler(signal.SIGQUIT, end)
    link.follow(take, orphaned=drain)


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Holds the operator's signals back for a moment."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OPERATORS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OPERATORS)


def _send(process: ForkProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _why(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):  # a real-time signal has no name
        return signal.Signals(-status).name
    return f"signal {-status}"
