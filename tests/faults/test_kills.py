"""Processes that are killed or told to stop under load: what is lost is what must be, and all of it is counted."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from time import perf_counter

import pytest

from tests.faults.honest import HEAD, Crowd, Outcome, run, statuses
from tests.faults.watching import callers_of, counted, in_progress
from tests.processes import DEADLINE, Proxy, Simulator, Wire, eventually
from tests.test_workers import settled, started, workers

CALLERS = 32
DRAINED = 96
"""As many callers that at any time some wait to be accepted."""
DRAIN_SECONDS = 3.0
END_SECONDS = 6.0
"""What the end of the processes may take besides, on a busy machine with coverage to write."""

HALVES = {
    "nothing": b"",
    "half a head": HEAD[:60],
    "half a body": HEAD % (b"demo-key", 100) + b"half",
}


@pytest.fixture
def slow_v2() -> Iterator[Simulator]:
    """Takes a moment for each call, so that at any time most callers have one in flight."""
    simulator = Simulator("v2", "--fault", "delay=0.05")
    yield simulator
    simulator.stop()


def test_a_killed_worker_loses_the_calls_it_has_in_flight_and_no_other(slow_v2: Simulator) -> None:
    proxy = started(slow_v2)
    try:
        outcomes, in_flight, killed = run(_kill_a_worker(proxy))
        lost = [each for each in outcomes if each.status is None]
        assert sorted(each.port for each in lost) == sorted(in_flight)
        assert set(statuses(outcomes)) == {201, None}
        assert len([each for each in outcomes if each.sent > killed]) > 2 * CALLERS
        assert eventually(lambda: in_progress(proxy) == 0)
        answered = statuses(outcomes)[201]
        assert answered <= counted(proxy)[201] <= answered + len(lost)
        seen = [dict(came["headers"])["x-request-id"] for came in slow_v2.calls()]
        assert len(seen) == len(set(seen)) <= len(outcomes)
    finally:
        assert proxy.stop() == 0


async def _kill_a_worker(proxy: Proxy) -> tuple[list[Outcome], set[int], float]:
    """The outcomes, what was in flight at the victim, and when it was killed.

    It is stopped first, so that what it has in flight is known to the last: every call that its callers wait for.
    """
    async with Crowd(proxy.address, CALLERS, within=0.5) as crowd:
        await asyncio.sleep(1)
        victim, its_callers = min(
            {pid: callers_of(pid, proxy) for pid in workers(proxy)}.items(), key=lambda item: len(item[1])
        )
        assert its_callers
        os.kill(victim, signal.SIGSTOP)
        while not await _wait_in_vain(crowd, its_callers):
            pass
        killed = perf_counter()
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(1)
    return crowd.outcomes, its_callers, killed


async def _wait_in_vain(crowd: Crowd, ports: set[int]) -> bool:
    """Whether each of them has a call in flight, and none is answered for a while: no answer was still on its way."""
    answered = [each for each in crowd.outcomes if each.port in ports]
    await asyncio.sleep(0.3)
    return ports <= crowd.in_flight() and answered == [each for each in crowd.outcomes if each.port in ports]


@pytest.mark.parametrize("number", ["1", "2"], ids=["one worker", "two workers"])
def test_a_drain_under_load_loses_no_call(slow_v2: Simulator, number: str) -> None:
    """Callers that call without a pause until nobody listens, and others whose requests will never be whole.

    The latter keep the drain from ending before the counters are read, and end with it, in its time.
    """
    proxy = Proxy(slow_v2.url, WORKERS=number, DRAIN_SECONDS=str(DRAIN_SECONDS))
    if number == "2":
        assert settled(proxy)
    with ExitStack() as connections:
        halves = [connections.enter_context(Wire(proxy.address)) for _ in range(5) for _ in HALVES]
        for half, sends in zip(halves, 5 * list(HALVES.values()), strict=True):
            half.send(sends)
        outcomes, told, draining = run(_drain(proxy, int(number)))
        assert set(statuses(outcomes)) == {201}
        assert all(each.closes for each in outcomes if each.sent >= draining)
        assert len([each for each in outcomes if each.closes]) >= DRAINED
        assert counted(proxy)[201] == len(outcomes)
        assert proxy.popen.wait(DEADLINE) == 0
        assert time.monotonic() - told < DRAIN_SECONDS + END_SECONDS
        assert all(ends(half) for half in halves)
    assert len([line for line in proxy.log() if line["status"] == 201]) == len(outcomes)
    assert not [line for line in proxy.err if "replaced" in line or "Traceback" in line]
    proxy.stop()


async def _drain(proxy: Proxy, processes: int) -> tuple[list[Outcome], float, float]:
    """The outcomes, when the proxy was told, and when every process of it had been."""
    async with Crowd(proxy.address, DRAINED) as crowd:
        await asyncio.sleep(0.5)
        told = time.monotonic()
        proxy.popen.terminate()
        drains = lambda: proxy.metrics()["nox_proxy_draining"] == processes  # noqa: E731
        assert await asyncio.to_thread(eventually, drains)
        draining = perf_counter()
        await crowd.gave_up()
    return crowd.outcomes, told, draining


def ends(half: Wire) -> bool:
    """Whether its connection is closed, with or without a last word."""
    with contextlib.suppress(ConnectionResetError):
        half.rest()
    return True
