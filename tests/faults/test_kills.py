"""Processes that are killed or told to stop under load: what is lost is what must be, and all of it is counted."""

import asyncio
import os
import signal
from collections.abc import Iterator
from time import perf_counter

import pytest

from tests.faults.honest import Crowd, Outcome, run, statuses
from tests.faults.watching import callers_of, counted, in_progress
from tests.processes import Proxy, Simulator, eventually
from tests.test_workers import started, workers

CALLERS = 32


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
        while not its_callers <= crowd.in_flight():  # noqa: ASYNC110  # what the callers do in their own time
            await asyncio.sleep(0.01)
        killed = perf_counter()
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(1)
    return crowd.outcomes, its_callers, killed
