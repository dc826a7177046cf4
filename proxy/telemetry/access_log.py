"""The access log: an exchange as a JSON line, and lines to a file descriptor."""

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import stat
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from proxy.telemetry.exchange import Comparison, Exchange

_log = logging.getLogger(__name__)

MAX_WAITING_LINES = 10_000
BATCH_SECONDS = 0.01
"""How long a line may wait for others: each write costs more than many lines."""
FILE_BYTES = 65_536
"""In one write to a file, which takes what it is given."""
RETRY_SECONDS = 0.05
CLOSE_SECONDS = 1.0


class _Line(msgspec.Struct, frozen=True, gc=False):
    """The access log's line. `key` is a fingerprint, `fallback` why v1 answered in v2's place."""

    time: str
    request_id: str
    endpoint: str
    manufacturer: str
    key: str | None
    upstream: str
    fallback: str | None
    status: int
    error_code: str | None
    seconds: float
    upstream_seconds: float | None


class _Compared(msgspec.Struct, frozen=True, gc=False):
    """The access log's line of what the shadow found. `fields` are names and kinds of difference, never values."""

    time: str
    request_id: str
    endpoint: str
    shadow: str
    reason: str | None
    fields: dict[str, str]


_encode = msgspec.json.Encoder().encode


def write_line(exchange: Exchange, seconds: float, now: float) -> bytes:
    """An exchange that took `seconds`, as JSON. `now` in Unix seconds."""
    spent = None
    for attempt in exchange.attempts:
        spent = (spent or 0.0) + attempt.seconds
    return _encode(
        _Line(
            _written(int(now * 1000)),
            exchange.request_id.decode(),
            exchange.endpoint,
            exchange.manufacturer,
            exchange.credential.fingerprint if exchange.credential else None,
            exchange.upstream,
            exchange.fallback,
            exchange.status,
            None if exchange.outcome == "answered" else exchange.outcome,
            int(seconds * 1e6) / 1e6,  # round() takes five times as long
            None if spent is None else int(spent * 1e6) / 1e6,
        )
    )


def write_comparison(comparison: Comparison, now: float) -> bytes:
    """What the shadow found of an exchange, as JSON. `now` in Unix seconds."""
    return _encode(
        _Compared(
            time=_written(int(now * 1000)),
            request_id=comparison.request_id.decode(),
            endpoint=comparison.endpoint,
            shadow=comparison.verdict,
            reason=comparison.reason,
            fields=dict(comparison.differences),
        )
    )


@lru_cache(maxsize=2)
def _written(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


class LineWriter:
    """Lines to a file descriptor, those of a moment together, and never a wait for its reader.

    A ready pipe or socket takes PIPE_BUF bytes at once (poll(2), pipe(7)), so no write is larger, but to a file. What
    a slow reader leaves is kept up to MAX_WAITING_LINES; beyond that lines are lost, never calls.

    Processes that share the descriptor take turns, or one would take the room that another has just seen. `turns`
    is a file whose lock goes from one to the next; a process that is killed gives it up.
    """

    def __init__(self, descriptor: int, turns: int | None = None) -> None:
        self._descriptor = descriptor
        self._most_bytes = FILE_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
        self._turns = turns
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._flushes = False
        self._lost = 0
        self._fails = False

    def __call__(self, line: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING_LINES:
            self._lost += 1
            return
        self._waiting.append(line)
        if not self._flushes:
            self._flushes = True
            asyncio.get_running_loop().call_later(BATCH_SECONDS, self._flush_and_retry)

    def flush(self) -> bool:
        """Writes what its reader takes now. False where another process has the turn."""
        try:
            with self._turn():
                while self._waiting and self._writable.poll(0):
                    os.write(self._descriptor, self._next_write())
                    self._fails = False
        except BlockingIOError:
            return False
        except OSError as error:
            self._waiting.clear()
            if not self._fails:
                _log.warning("access log: %s; lines are lost", error.strerror)
            self._fails = True
        if not self._waiting:
            self._report()
        return True

    def close(self) -> None:
        """Writes what its reader takes now, for the last time."""
        end = time.monotonic() + CLOSE_SECONDS
        while not self.flush() and time.monotonic() < end:
            time.sleep(RETRY_SECONDS / 50)
        self._lost += len(self._waiting)
        self._waiting.clear()
        self._report()

    def _report(self) -> None:
        if self._lost:
            _log.warning("access log: its reader was too slow, %d lines are lost", self._lost)
            self._lost = 0

    def _flush_and_retry(self) -> None:
        self.flush()
        self._flushes = bool(self._waiting)
        if self._flushes:
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._flush_and_retry)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Raises BlockingIOError where another process has it."""
        if self._turns is None:
            yield
            return
        fcntl.lockf(self._turns, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.lockf(self._turns, fcntl.LOCK_UN)

    def _next_write(self) -> bytes:
        """The lines that fit into one write; one that never would is cut."""
        waiting, lines = self._waiting, [self._waiting.popleft()[: self._most_bytes - 1]]
        room = self._most_bytes - len(lines[0]) - 1
        while waiting and len(waiting[0]) < room:
            lines.append(waiting.popleft())
            room -= len(lines[-1]) + 1
        return b"\n".join((*lines, b""))
