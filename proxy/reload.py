"""New settings while the proxy runs: when they are read, what of them is taken over, and what is said of it.

One process reads. It hears SIGHUP, looks at the settings file each second, judges what it reads, and says how that
went. Each process that answers callers or the admin port takes the file's very bytes from it, and puts the same rules
in force in one assignment. Where one process does all, it hands the bytes to itself.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

from proxy.news import Take
from proxy.parts import make_rules
from proxy.rules import Rules
from proxy.settings import Settings, SettingsFault, load, load_text, read_file, reloaded
from proxy.telemetry import series as names
from proxy.telemetry.block import Block

LOOK_SECONDS = 1.0

Apply = Callable[[Rules], None]
"""Puts rules in force in a part of the process."""

_log = logging.getLogger(__name__)


class SettingsFile:
    """A settings file that may change: in its place, by another of its name, or by a link to another.

    The last is how a Kubernetes ConfigMap changes; what is looked at is the file at the end of all links.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = self._seen = self._state()
        self._next_look = 0.0

    def has_changed(self, now: float) -> bool:
        """Looks once a second. Says once that there was a change: when the next look found no further one."""
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        before, self._seen = self._seen, self._state()
        if self._seen == self._known or self._seen != before:
            return False
        self._known = self._seen
        return True

    def read(self) -> bytes:
        """What stands in it now. Raises SettingsFault."""
        self._known = self._seen = self._state()
        if self._is_used_up():
            raise SettingsFault(f"{self._path}: not a file that can be read again")
        written = read_file(self._path)
        if not written.strip():  # what a full disk leaves of a file; it would undo every setting
            raise SettingsFault(f"{self._path}: nothing stands in it")
        return written

    def _is_used_up(self) -> bool:
        """Whether it is a pipe or the like, out of which the start has read what there was."""
        with contextlib.suppress(OSError):
            return not stat.S_ISREG(self._path.stat().st_mode)
        return False

    def _state(self) -> tuple[int, ...] | None:
        """None where there is no file; a pipe's changes are of no interest."""
        with contextlib.suppress(OSError):
            found = self._path.stat()
            if stat.S_ISREG(found.st_mode):
                return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        return None


class Hangups:
    """SIGHUP, as a socket that is readable once it came."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        signal.signal(signal.SIGHUP, self._note)

    def fileno(self) -> int:
        return self._here.fileno()

    def heard(self) -> bool:
        """Whether it came since this was last asked."""
        with contextlib.suppress(BlockingIOError):
            return self._here.recv(65_536) != b""
        return False

    def close(self) -> None:
        """It is ignored from now on: the default would be to be killed, at the end of a drain."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._here.close()
        self._there.close()

    def _note(self, _number: int, _frame: object) -> None:
        with contextlib.suppress(BlockingIOError):  # so many of them wait to be heard
            self._there.send(b"!")


class Reloader:
    """The settings as they are in force, for the process that reads them: its News (`news.py`).

    Raises SettingsFault where they are at fault from the start. `warn` says what an operator should know of them.
    """

    def __init__(self, file: Path | None, warn: Callable[[Settings], None]) -> None:
        self._hangups = Hangups()
        self._name = str(file)
        self._file = SettingsFile(file) if file else None  # before it is read, so that no change is missed
        self.settings = load(file)
        self._warn = warn
        self._changed = False
        self._sound = True
        self.block = Block(1024)
        """How it went, for the admin port."""
        self._ok = self.block.place((names.RELOAD_OK.name, ()))
        self._at = self.block.place((names.RELOAD_AT.name, ()))
        self._note_success()

    def close(self) -> None:
        self._hangups.close()

    def fileno(self) -> int:
        return self._hangups.fileno()

    def fetch(self) -> bytes | None:
        """The file's bytes where they were asked for or changed, and no fault is in them."""
        changed = self._file is not None and self._file.has_changed(time.monotonic())
        if not self._hangups.heard() and not changed:
            return None
        try:
            return self._read()
        except SettingsFault as fault:
            self._fail(*fault.lines)
        except Exception as bug:  # of ours: the proxy goes on with what it has
            self._fail(type(bug).__name__)
        return None

    def taken(self) -> None:
        if self._sound:
            self._note_success()
        _log.info("settings reloaded%s", "" if self._changed else ": nothing has changed")
        self._changed = False
        try:
            self._warn(self.settings)
        except Exception as bug:  # of ours: it is not to end the process that watches over all others
            _log.error("settings that no warning can be given of: %s", type(bug).__name__)

    def late(self, who: list[str]) -> None:
        self.block.cells[self._ok] = 0
        _log.error("settings not reloaded everywhere: %s did not take them", ", ".join(who))

    def hand_to(self, take: Take) -> None:
        """For the one process that does all: has the running loop do what a supervisor does."""
        self._handing = asyncio.create_task(self._hand_to(take))

    async def _hand_to(self, take: Take) -> None:
        while True:
            await _readable(self.fileno(), LOOK_SECONDS)
            news = await asyncio.to_thread(self.fetch)
            if news is not None and await take(news):
                self.taken()
            elif news is not None:
                self.late(["the one worker"])

    def _read(self) -> bytes:
        written = self._file.read() if self._file else b""
        settings, left = reloaded(self.settings, load_text(written, self._name))
        if left:
            _log.warning("only a restart changes %s", ", ".join(left))
        self._changed = self._changed or settings != self.settings
        self._sound, self.settings = True, settings
        return written

    def _fail(self, *faults: str) -> None:
        self._sound = False
        self.block.cells[self._ok] = 0
        for fault in faults:
            _log.error("settings not reloaded: %s", fault)

    def _note_success(self) -> None:
        self.block.cells[self._ok], self.block.cells[self._at] = 1, time.time()


def taker(running: Settings, *parts: Apply) -> Take:
    """Has a process put a file's bytes in force. They are read in a thread, so that calls are answered meanwhile."""

    def make(written: bytes) -> Rules:
        settings, _ = reloaded(running, load_text(written, "settings"))
        return make_rules(settings)

    async def take(written: bytes) -> bool:
        try:
            rules = await asyncio.to_thread(make, written)
            for apply in parts:
                apply(rules)
        except Exception as error:  # whatever it is: calls go on being answered by what is in force
            _log.error("settings cannot be put in force: %s", type(error).__name__)
            return False
        return True

    return take


async def _readable(descriptor: int, seconds: float) -> None:
    """Returns once there is something to read, or after some seconds."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, came.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(came.wait(), seconds)
    finally:
        loop.remove_reader(descriptor)
