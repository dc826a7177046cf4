"""Slow callers (slowloris): honest ones do not feel them, and each is told in time and let go."""

import asyncio
import statistics
from collections.abc import Iterator

import pytest

from tests.faults.dribbling import BEGINNINGS, Dribbler, dribbling
from tests.faults.honest import Crowd, Outcome, a_while, p99, run, statuses
from tests.faults.watching import Unmeasured, callers_of, in_progress, processor_time
from tests.processes import Proxy, Reply, Simulator, eventually
from tests.test_admission import failed

SLOW_OF_EACH = 500
HONEST = 32
EVERY = 0.25
"""Seconds from an honest caller's call to its next."""
ALLOWED = 2
ALLOWED_LOAD = 0.25
"""Of a processor core. A twentieth is seen, for a thousand bytes a second that come one by one."""
WINDOWS = 9
WINDOW_SECONDS = 1.5
TIMEOUT = 2.0


@pytest.fixture
def alike(v2: Simulator) -> Iterator[tuple[Proxy, Proxy]]:
    """Two proxies alike, which close no slow caller's connection in the time of the test."""
    pair = [Unmeasured(v2.url, HEADER_TIMEOUT="600", BODY_TIMEOUT="600") for _ in range(2)]
    yield pair[0], pair[1]
    for running in pair:
        assert running.stop() == 0
        assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


def test_honest_callers_do_not_feel_a_thousand_slow_ones(alike: tuple[Proxy, Proxy]) -> None:
    """Their p99 is at most twice that of as many callers of another proxy, which has no slow ones, in the same seconds.

    So whatever else the machine does falls to both, and nothing that comes and goes is taken for the slow callers'
    doing. A burst that hits the one alone spoils the window it falls into: the middle one of the ratios counts.
    What the slow callers cost the machine falls to both, and is judged by itself, in processor time.
    """
    ratios, load = run(_measure(*alike))
    assert statistics.median(ratios) <= ALLOWED, ratios
    assert load < ALLOWED_LOAD
    assert all(eventually(lambda each=each: in_progress(each) == 0) for each in alike)  # type: ignore[misc]


async def _measure(attacked: Proxy, other: Proxy) -> tuple[list[float], float]:
    """In each window, the one's p99 in the other's while it alone has slow callers; and what these cost it in cores."""
    async with (
        Crowd(other.address, HONEST, EVERY) as calm,
        Crowd(attacked.address, HONEST, EVERY) as slow,
        dribbling(attacked.address, SLOW_OF_EACH) as callers,
    ):
        everybody = HONEST + len(callers)
        assert await asyncio.to_thread(eventually, lambda: len(callers_of(attacked.pid, attacked)) == everybody)
        before = processor_time(attacked) - processor_time(other)
        windows = [await a_while(WINDOW_SECONDS) for _ in range(WINDOWS)]
        spent = processor_time(attacked) - processor_time(other) - before
        assert not any(caller.ended.is_set() for caller in callers)
    assert set(statuses([*calm.outcomes, *slow.outcomes])) == {201}
    ratios = [p99(slow.sent_in(window)) / p99(calm.sent_in(window)) for window in windows]
    return ratios, spent / (windows[-1].until - windows[0].since)


@pytest.fixture
def hasty(v2: Simulator) -> Iterator[Proxy]:
    running = Unmeasured(
        v2.url, HEADER_TIMEOUT=str(TIMEOUT), BODY_TIMEOUT=str(TIMEOUT), UPSTREAMS__V2__KEEPALIVE_EXPIRY="1"
    )
    yield running
    assert running.stop() == 0


def test_slow_callers_are_told_in_time_and_counted(hasty: Proxy) -> None:
    """In a second after the timeout, and what the machine holds up an honest answer meanwhile."""
    before = hasty.metrics()
    files = hasty.open_files()
    outcomes, callers = run(_wait_for_the_slow(hasty))
    assert set(statuses(outcomes)) == {201}
    latest = TIMEOUT + 1 + max(each.seconds for each in outcomes)
    for caller in callers:
        assert TIMEOUT - 0.1 <= caller.answered - caller.began <= latest, caller.part
        reply = _reply(caller)
        assert failed(reply, 408, "request_timeout")
        assert reply.headers["connection"] == "close"
    after = hasty.metrics()
    for part in BEGINNINGS:
        series = f'nox_proxy_caller_timeouts_total{{kind="{part}"}}'
        assert after[series] - before.get(series, 0) == SLOW_OF_EACH
    assert eventually(lambda: hasty.metrics()["nox_proxy_requests_in_progress"] == 0)
    assert eventually(lambda: hasty.open_files() <= files)
    assert "Traceback" not in "\n".join(hasty.err)


async def _wait_for_the_slow(proxy: Proxy) -> tuple[list[Outcome], list[Dribbler]]:
    """Until each has been told and its connection has ended."""
    async with Crowd(proxy.address, HONEST, EVERY) as crowd, dribbling(proxy.address, SLOW_OF_EACH) as callers:
        await asyncio.gather(*(caller.ended.wait() for caller in callers))
    return crowd.outcomes, callers


def _reply(caller: Dribbler) -> Reply:
    head, _, body = caller.answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Reply(int(status.split()[1]), {name.lower(): value for name, value in pairs}, body)
