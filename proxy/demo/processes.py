"""The demo's processes, nox-proxy commands of their own, a plain HTTP client, and a reader of `/metrics`."""

import re
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from os import environ, pread
from typing import IO, NamedTuple, Self

START_SECONDS = 20.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the demo, each as a KeyboardInterrupt."""


class Process:
    """A nox-proxy command, its output in files that go with it."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        own = {name: value for name, value in environ.items() if not name.startswith("NOX_PROXY_")}
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # one in between would leave a child that nobody knows
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "proxy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**own, **variables},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS),
        )
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        except KeyboardInterrupt:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listening(self, pattern: str) -> tuple[str, ...]:
        """Waits for the line that says where it listens. Raises RuntimeError."""
        return tuple(self._await(rf"listening on {pattern}", "start").groups())

    def reload(self) -> None:
        """SIGHUP, and waits until it says that it took its settings. Raises RuntimeError."""
        before = len(_said(self._err))
        self._process.send_signal(signal.SIGHUP)
        self._await("settings reloaded", "reload", before)

    def output(self) -> list[str]:
        """What it wrote to standard output."""
        return _said(self._out).splitlines()

    def _await(self, pattern: str, what: str, begin: int = 0) -> re.Match[str]:
        """What it comes to say from a place on. Raises RuntimeError."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if found := re.compile(pattern).search(_said(self._err), begin):
                return found
            time.sleep(0.02)
        said = _said(self._err)
        self.close()
        raise RuntimeError(f"nox-proxy did not {what}: {said}")

    def close(self) -> None:
        """Ends it by SIGTERM."""
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._err.close()


def _said(file: IO[bytes]) -> str:
    """A file that the process is writing to, from its start: pread leaves the shared offset alone."""
    return pread(file.fileno(), 1 << 20, 0).decode()


class Stage(ABC):
    """Processes that play together; a context manager that ends them. Raises RuntimeError where one does not start."""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._set(undo)
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @abstractmethod
    def _set(self, undo: ExitStack) -> None:
        """Starts them; `undo` gets how each is ended."""


class Answer(NamedTuple):
    """Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: str


def connect(address: str) -> closing[HTTPConnection]:
    """A connection, to be closed by `with`."""
    return closing(HTTPConnection(address, timeout=START_SECONDS))


def ask(
    connection: HTTPConnection, path: str, method: str, headers: dict[str, str] | None = None, body: str = ""
) -> Answer:
    """One request of several on a connection."""
    connection.request(method, path, body.encode() or None, headers or {})
    answer = connection.getresponse()
    lines = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, lines, answer.read().decode())


def fetch(address: str, path: str, method: str, headers: dict[str, str] | None = None, body: str = "") -> Answer:
    """One request on a connection of its own."""
    with connect(address) as connection:
        return ask(connection, path, method, headers, body)


class Metrics:
    """What `/metrics` says now."""

    def __init__(self, admin: str) -> None:
        lines = fetch(admin, "/metrics", "GET").body.splitlines()
        self._samples = [_sample(line) for line in lines if line[0] != "#"]

    def total(self, name: str, **labels: str) -> int:
        """Of all series that have these labels."""
        wanted = labels.items()
        return int(sum(value for its, found, value in self._samples if its == name and wanted <= found.items()))

    def by(self, name: str, label: str) -> dict[str, int]:
        """The totals by a label's values."""
        values = {labels[label] for its, labels, _ in self._samples if its == name}
        return {value: self.total(name, **{label: value}) for value in values}


def _sample(line: str) -> tuple[str, dict[str, str], float]:
    """A line of `/metrics`: name, labels, value."""
    series, _, value = line.rpartition(" ")
    name, _, labels = series.partition("{")
    return name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)
