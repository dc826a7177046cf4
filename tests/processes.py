"""Real processes for the tests: nox-proxy's own commands on free loopback ports.

It is long because both of a proxy's ends are here: an upstream that says anything, and a caller that sends anything.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.sent import note_secrets

ROOT = Path(__file__).parent.parent
DEADLINE = 60.0
"""Seconds until a test gives up, on a machine that is busy with others."""
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}
"""The variables of a process whose lines coverage need not count: it is a third faster without."""
DOORS = ("direct", "asgi")
"""Those of a proxy: whole requests take the direct one, or that is shut and all go by ASGI's."""
ASGI_ALONE = "from proxy import direct; direct.DirectDoor.learn = lambda *_: None; from proxy.cli import main; main()"


proxies: "list[Proxy]" = []
"""Every proxy that was started; `tests/conftest.py` looks through what they said at the end."""


class Reply(NamedTuple):
    """A whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    address: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    path: str = "/manufacturers/nox",
) -> Reply:
    """One request on a connection of its own."""
    connection = HTTPConnection(address, timeout=DEADLINE)
    note_secrets(body or b"", headers or {})
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Reply(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def eventually(holds: Callable[[], bool], within: float = DEADLINE) -> bool:
    """Whether something comes to hold; for what another process does in its own time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


class Process:
    """A running nox-proxy command, with all it said; with `reads_log` off nobody reads its standard output."""

    reads_log = True
    measured = True
    command: tuple[str, ...] = (sys.executable, "-m", "proxy")

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.popen = subprocess.Popen(
            [*self.command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **({} if self.measured else UNMEASURED), **(env or {})},
            cwd=cwd,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=pipe, daemon=True)
            for pipe in ((self.popen.stdout, self.out), (self.popen.stderr, self.err))
            if self.reads_log or pipe[1] is self.err
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, lines: list[str]) -> None:
        lines.extend(line.decode().rstrip("\n") for line in pipe)
        pipe.close()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def find(self, pattern: str) -> tuple[str, ...]:
        """The groups of the first line on standard error that matches; waits for it."""
        regex = re.compile(pattern)

        def matched() -> re.Match[str] | None:
            return next((m for line in list(self.err) if (m := regex.search(line))), None)

        alive = eventually(lambda: matched() is not None or self.popen.poll() is not None)
        found = matched()
        assert found, f"{'ended' if alive else 'silent'}: {self.err}"
        return tuple(found.groups())

    def log(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(line) for line in list(self.out)]

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        """The log's lines of one request; waits for the first."""
        found: list[dict[str, Any]] = []

        def came() -> bool:
            found[:] = [line for line in self.log() if line["request_id"] == request_id]
            return bool(found)

        assert eventually(came), request_id
        return found

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
        return self.ended()

    def ended(self) -> int:
        """Waits for the end of one that was told to stop; a second signal would cut it short. The exit status."""
        try:
            status = self.popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            status = self.popen.wait()
        for reader in self._readers:
            reader.join(DEADLINE)
        return status


class Simulator(Process):
    """`nox-proxy simulate`. Its own tests alone are measured."""

    measured = False

    def __init__(self, version: str = "v2", *options: str, listen: str = "127.0.0.1:0") -> None:
        super().__init__("simulate", version, "--listen", listen, *options)
        self.address, self.path = self.find(r"listening on http://([^/]+)(/\S+)")
        self.url = f"http://{self.address}/v2"

    def calls(self) -> list[dict[str, Any]]:
        """What came; each call's `headers` as a list of pairs and `body` as Latin-1 text."""
        found: list[dict[str, Any]] = call(self.address, method="GET", path="/_simulator/calls").json()
        return found

    def forget(self) -> None:
        call(self.address, method="DELETE", path="/_simulator/calls")

    def order(self, fault: str) -> None:
        """Has every call to come meet a fault."""
        assert call(self.address, fault.encode(), method="PUT", path="/_simulator/fault").status == 204

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Has every call meet a fault, for a while."""
        self.order(name)
        try:
            yield
        finally:
            call(self.address, method="DELETE", path="/_simulator/fault")


class Proxy(Process):
    """`nox-proxy serve` in front of a URL. Settings as NOX_PROXY_* variables, without the prefix.

    Its drain is short, for a share of it passes at every end. `door` is one of DOORS.
    """

    def __init__(self, v2_url: str, *arguments: str, cwd: Path = ROOT, door: str = "direct", **settings: str) -> None:
        if door == "asgi":
            self.command = (sys.executable, "-c", ASGI_ALONE)
        own = {"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0", "DRAIN_SECONDS": "4"}
        own |= {"UPSTREAMS__V2__URL": v2_url, **settings}
        env = {f"NOX_PROXY_{name}": value for name, value in own.items()}
        super().__init__("serve", *arguments, env=env, cwd=cwd)
        self.address, self.admin = self.find(r"listening on http://(\S+), admin on http://(\S+),")
        self.last_exposition = ""
        proxies.append(self)

    def stop(self) -> int:
        """SIGTERM, after a last look at the metrics; returns the exit status."""
        with contextlib.suppress(OSError, HTTPException):
            self.last_exposition = self.exposition()
        return super().stop()

    def said(self) -> str:
        """Both its logs, and its metrics as they are or were at the end."""
        if self.popen.poll() is None:
            self.last_exposition = self.exposition()
        return "\n".join((*self.out, *self.err, self.last_exposition))

    def exposition(self) -> str:
        """The metrics as text."""
        return call(self.admin, method="GET", path="/metrics").body.decode()

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as written."""
        lines = (line.rsplit(" ", 1) for line in self.exposition().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}


class Canned:
    """An upstream that gives every request the same bytes, then closes; for answers no sane service gives.

    What is HTTP says so: else the next call might be on the connection in the moment of its end.
    """

    def __init__(self) -> None:
        self.answer = b""
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v2"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(DEADLINE)
                self.requests.append(read_message(connection)[0])
                connection.sendall(_closing(self.answer))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE)


def _closing(answer: bytes) -> bytes:
    says_so = b"\r\nconnection:" in answer.lower()
    return answer if says_so else re.sub(rb"\A(HTTP/1\.1 .*\r\n)", rb"\1Connection: close\r\n", answer)


def read_message(connection: socket.socket, rest: bytes = b"") -> tuple[bytes, bytes]:
    """One HTTP message with a Content-Length, or what came of it before the end; and what came after it."""
    data = rest
    while b"\r\n\r\n" not in data and (piece := connection.recv(65_536)):
        data += piece
    head, _, _ = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: *(\d+)", head)
    whole = len(head) + 4 + (int(found[1]) if found else 0)
    while len(data) < whole and (piece := connection.recv(65_536)):
        data += piece
    return data[:whole], data[whole:]


def unread(caller: socket.socket) -> bool:
    """Whether the proxy's kernel still holds what was sent (proc_net_tcp.txt: local, remote, state, tx:rx queue)."""
    _, port = caller.getsockname()
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(remote.endswith(f":{port:04X}") and int(queues[9:], 16) for _, _, remote, _, queues, *_ in lines)


class Wire:
    """A raw connection to the proxy, for what no client library would send. `source`: its own address."""

    def __init__(self, address: str, source: str = "127.0.0.1") -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), DEADLINE, (source, 0))
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        note_secrets(data)
        self._socket.sendall(data)

    def send_apart(self, *packets: bytes) -> None:
        """Each is sent when the proxy has taken in the one before."""
        for place, packet in enumerate(packets):
            assert not place or eventually(lambda: not unread(self._socket))
            self.send(packet)

    def half_close(self) -> None:
        """Says that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self) -> Reply:
        """The next answer on the connection."""
        message, self._rest = read_message(self._socket, self._rest)
        head, _, body = message.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return Reply(int(status.split()[1]), {name.lower(): value for name, value in pairs}, body)

    def rest(self) -> bytes:
        """All that comes until the end."""
        data = self._rest
        while piece := self._socket.recv(65_536):
            data += piece
        return data

    def close(self) -> None:
        self._socket.close()

    def is_closed(self) -> bool:
        """Whether the proxy closes the connection, with nothing more said."""
        try:
            return self._socket.recv(65_536) == b""
        except ConnectionResetError:
            return True
