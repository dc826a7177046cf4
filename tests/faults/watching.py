"""What a proxy's process holds and has counted, as the tests of faults compare it before and after."""

import os
import re
from collections import Counter
from pathlib import Path

from tests.processes import Process, Proxy
from tests.test_workers import sockets

MIB = 1 << 20


class Unmeasured(Proxy):
    """One for tests of time and memory, of which coverage's tracer would be a great part."""

    measured = False


_REQUESTS = re.compile(r'nox_proxy_requests_total\{.*status="(\d+)".*\}')


def resident(process: Process | int, field: str = "VmRSS") -> int:
    """A process's resident memory in bytes; `VmHWM` is the most there was since `forget_peak`."""
    pid = process if isinstance(process, int) else process.pid
    (line,) = [row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def processor_time(process: Process) -> float:
    """What a process has used so far, in seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak(process: Process) -> None:
    """`VmHWM` starts anew (proc_pid_clear_refs(5))."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def counted(proxy: Proxy) -> Counter[int]:
    """The requests that were answered so far, by status."""
    found: Counter[int] = Counter()
    for name, value in proxy.metrics().items():
        if match := _REQUESTS.fullmatch(name):
            found[int(match[1])] += int(value)
    return found


def in_progress(proxy: Proxy) -> float:
    return proxy.metrics()["nox_proxy_requests_in_progress"]


def callers_of(pid: int, proxy: Proxy) -> set[int]:
    """The ports of the callers whose connections a process has."""
    port = _port(proxy.address)
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    open_to = {row[9]: _port(row[2], 16) for row in rows if row[3] == "01" and _port(row[1], 16) == port}
    return {open_to[inode] for inode in sockets(pid) & open_to.keys()}


def _port(address: str, base: int = 10) -> int:
    return int(address.rpartition(":")[2], base)
