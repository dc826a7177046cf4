"""A candidate or the stub as a running process: started on its core, waited for, stopped with all below it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.machine import cpu_seconds, pinned, resident_mb, tree
from tests.processes import ROOT, UNMEASURED

PEERS = Path(__file__).parent / "peers"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
QUIET_SECONDS = 60.0
MODULES = "/usr/lib/nginx/modules"


class Running:
    """A process tree that listens on `address`; `log` is its access log, emptied between turns."""

    def __init__(self, name: str, command: list[str], port: int, directory: Path, env: dict[str, str]) -> None:
        self.name = name
        self.address = f"127.0.0.1:{port}"
        self.log = directory / f"{name}.log"
        self._errors = directory / f"{name}.err"
        with self.log.open("ab") as out, self._errors.open("ab") as err:
            self._popen = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, **env}
            )
        self.pid = self._popen.pid
        try:
            self._await_listener(port)
        except BaseException:
            self.stop()
            raise

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def becomes_quiet(self) -> bool:
        """Waits for what it still does for callers who are gone: the next turn is another's, on the same core."""
        end = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(0.1)
            if self.cpu_seconds() - before <= 0.01:
                return True
        return False

    def resident_mb(self) -> float:
        return resident_mb(self.pid)

    def forget_log(self) -> None:
        """Its lines are the same a million times over; each writer appends, so the file can be cut."""
        os.truncate(self.log, 0)

    def said(self) -> str:
        """The end of its standard error or error log."""
        return self._errors.read_text(errors="replace")[-2_000:]

    def stop(self) -> None:
        """SIGTERM; whoever of the tree is left after a time is killed."""
        if self._popen.poll() is not None:
            return
        family = list(tree(self.pid))
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_SECONDS)
            return
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()

    def _await_listener(self, port: int) -> None:
        end = time.monotonic() + START_SECONDS
        while self._popen.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen: {self.said()}")


class Place:
    """A run's directory and its v2: where candidates are started."""

    def __init__(self, directory: Path, v2: str = "") -> None:
        self.directory = directory
        self.v2 = v2

    def start(self, name: str, core: str, *command: str, port: int, env: dict[str, str] | None = None) -> Running:
        return Running(name, pinned(core, *command), port, self.directory, {**UNMEASURED, **(env or {})})

    def start_module(self, name: str, core: str, *, env: dict[str, str] | None = None) -> Running:
        """One of the peers in Python."""
        port = free_port()
        command = (sys.executable, "-m", f"tests.bench.peers.{name}", str(port), self.v2)
        return self.start(name, core, *command, port=port, env=env)

    def start_nginx(self, name: str, core: str) -> Running:
        """One of the peers in nginx, by its configuration."""
        port = free_port()
        configuration = self.render(f"{name}.conf", port)
        command = ("nginx", "-p", str(self.directory), "-e", f"{self.directory}/{name}.err", "-c", str(configuration))
        return self.start(name, core, *command, port=port)

    def render(self, file: str, port: int) -> Path:
        """A peer's file in the run's directory, with its placeholders filled in."""
        host, _, v2_port = self.v2.partition(":")
        stem = file.partition(".")[0]
        values = {"PORT": str(port), "V2": self.v2, "V2HOST": host, "V2PORT": v2_port, "MODULES": MODULES}
        values |= {"DIR": str(self.directory), "LOG": f"{self.directory}/{stem}.log"}
        text = (PEERS / file).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        (self.directory / file).write_text(text)
        return self.directory / file


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
