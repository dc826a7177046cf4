"""Runs faults, each while callers are active, and takes down what the callers, v2 and the proxy saw of it."""

import fcntl
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, TypeVar

import uvloop

from tests.faults.callers import Call, Callers
from tests.faults.table import CREATED, DEADLINE, NAMED, WELL, Fault, Place
from tests.faults.v2 import V2, Background, Taken
from tests.processes import ROOT, Proxy
from tests.told import told
from tests.wire.servers import Authority

T = TypeVar("T")

SETTINGS = {
    "UPSTREAMS__V2__TIMEOUT": str(DEADLINE),
    "UPSTREAMS__V2__CONNECT_TIMEOUT": "1.5",
    "UPSTREAMS__V2__KEEPALIVE_EXPIRY": "0.5",
}
SETTLING = 10.0
"""Seconds in which idle connections expire and the gauges are looked at, many times over."""
NOWHERE = f"http://{'.'.join(['nowhere' * 9] * 4)}.invalid/v2"
"""No resolver asks a network for a name of more than 253 characters, so the answer does not hang on one."""


class Lane(NamedTuple):
    """Faults at one place by their names, one after the other behind one proxy. Times in seconds."""

    name: str
    faults: Sequence[str]
    settings: Mapping[str, str]
    callers: int
    lasting: float
    """That each fault is there."""
    pace: float = 2.0
    """From one call of a caller to its next: a load that leaves the deadlines to the proxy, not to the machine."""
    recovery: float = 0.0
    """After a fault, until calls succeed again."""
    door: str = "direct"

    @property
    def place(self) -> Place:
        return NAMED[self.faults[0]].place


class Rest(NamedTuple):
    """What a proxy holds."""

    files: int
    in_progress: float
    connections: float

    def is_within(self, other: "Rest") -> bool:
        """Whether nothing of it is more."""
        return all(mine <= its for mine, its in zip(self, other, strict=True))


class Observation(NamedTuple):
    """One fault as it was seen from everywhere."""

    fault: str
    lane: Lane
    calls: list[Call]
    taken: Taken
    counted: Counter[int]
    """Answers by status, on the proxy's metrics."""
    growth: int
    """Bytes of memory, at most."""
    next_call: Call
    """The first one after the fault."""
    before: Rest
    after: Rest


class UnmeasuredProxy(Proxy):
    """As fast as in earnest."""

    measured = False


def observe_all(lanes: Sequence[Lane], directory: Path) -> dict[tuple[str, str], Observation]:
    """All lanes beside each other; by the names of lane and fault. `directory` is for their files.

    Each is a process, so that the work for one holds up no other's callers and no other's v2.
    """
    with ProcessPoolExecutor(len(lanes), multiprocessing.get_context("spawn")) as processes:
        each = processes.map(_observe_lane, lanes, repeat(directory))
        return {(seen.lane.name, seen.fault): seen for lane in each for seen in lane}


def _observe_lane(lane: Lane, directory: Path) -> list[Observation]:
    authority = Authority()
    ca_file = authority.write(directory / f"{os.getpid()}.pem")
    with (
        Background(uvloop.new_event_loop()) as v2s,
        Background(uvloop.new_event_loop()) as home,
        closing(V2(v2s, WELL, authority.server if lane.place == "tls" else None)) as v2,
    ):
        settings = {**SETTINGS, "UPSTREAMS__V2__CA_FILE": ca_file, **lane.settings}
        with _alone(directory):
            proxy = UnmeasuredProxy(
                NOWHERE if lane.place == "nowhere" else v2.url, cwd=ROOT, door=lane.door, **settings
            )
        try:
            threads = (v2s.directory, home.directory, Path(f"/proc/{proxy.pid}"))
            house = House(lane, proxy, v2, home, Callers(proxy.address, threads))
            return [house.observe(name, NAMED[name]) for name in lane.faults]
        finally:
            assert proxy.stop() == 0
            assert told([proxy]) == []


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One process at a time: on a machine of two cores all that start at once would take too long."""
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class House(NamedTuple):
    """A lane with its proxy, its v2, and its callers in their thread."""

    lane: Lane
    proxy: Proxy
    v2: V2
    home: Background
    callers: Callers

    def observe(self, name: str, fault: Fault) -> Observation:
        """What is seen while v2 has the fault, and when it is over."""
        self._call()
        before = _when(lambda rest: rest.connections == 0, self._rest)
        counted, growth = self._counted(), Growth(self.proxy.pid)
        self.v2.behave(fault.manner)
        pace = min(self.lane.pace * fault.weight, self.lane.lasting)
        calls = self.home.do(self.callers.call_for(self.lane.lasting, self.lane.callers, pace, fault.padding))
        counted, grown = self._counted() - counted, growth.bytes()
        taken = self.v2.behave(WELL)
        next_call = _when(lambda call: call.answer == CREATED, self._call, self.lane.recovery)
        after = _when(lambda rest: rest.is_within(before), self._rest)
        return Observation(name, self.lane, calls, taken, counted, grown, next_call, before, after)

    def _call(self) -> Call:
        return self.home.do(self.callers.call_once())

    def _counted(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for name, value in self.proxy.metrics().items():
            if status := re.match(r'nox_proxy_requests_total\{.*status="(\d+)"', name):
                found[int(status[1])] += int(value)
        return found

    def _rest(self) -> Rest:
        files = self.proxy.open_files()
        metrics = self.proxy.metrics()
        connections = sum(n for name, n in metrics.items() if name.startswith("nox_proxy_upstream_connections{"))
        return Rest(files, metrics["nox_proxy_requests_in_progress"], connections)


def _when(good: Callable[[T], bool], look: Callable[[], T], within: float = SETTLING) -> T:
    """The first sight that is good, or the last one within the time."""
    end = time.monotonic() + within
    while not good(seen := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return seen


class Growth:
    """Of a process's resident memory since now."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        (self._process / "clear_refs").write_text("5")  # proc(5): the peak begins anew
        self._before = self._read("VmRSS")

    def bytes(self) -> int:
        """At most."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", (self._process / "status").read_text())
        assert found
        return int(found[1]) * 1024
