"""The demo's processes, nox-proxy commands of their own, and a plain HTTP client."""

import re
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from os import environ, pread
from typing import IO, NamedTuple, Self

START_SECONDS = 20.0


class Process:
    """A nox-proxy command, its output in files that go with it."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        own = {name: value for name, value in environ.items() if not name.startswith("NOX_PROXY_")}
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "proxy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**own, **variables},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listening(self, pattern: str) -> tuple[str, ...]:
        """Waits for the line that says where it listens. Raises RuntimeError."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            said = _said(self._err)
            if found := re.search(rf"listening on {pattern}", said):
                return tuple(found.groups())
            time.sleep(0.02)
        said = _said(self._err)
        self.close()
        raise RuntimeError(f"nox-proxy did not start: {said}")

    def output(self) -> list[str]:
        """What it wrote to standard output."""
        return _said(self._out).splitlines()

    def close(self) -> None:
        """Ends it by SIGTERM."""
        self._process.terminate()
        self._process.wait()
        self._out.close()
        self._err.close()


def _said(file: IO[bytes]) -> str:
    """A file that the process is writing to, from its start: pread leaves the shared offset alone."""
    return pread(file.fileno(), 1 << 20, 0).decode()


class Answer(NamedTuple):
    """Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: str


def fetch(address: str, path: str, method: str, headers: dict[str, str] | None = None, body: str = "") -> Answer:
    """One request on a connection of its own."""
    connection = HTTPConnection(address, timeout=START_SECONDS)
    try:
        connection.request(method, path, body.encode() or None, headers or {})
        answer = connection.getresponse()
        lines = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, lines, answer.read().decode())
    finally:
        connection.close()
