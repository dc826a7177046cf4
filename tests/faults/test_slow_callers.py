"""Slow callers (slowloris): honest ones do not feel them, and each is told in time and let go."""

import asyncio
import contextlib
import json
import socket
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic
from typing import NamedTuple

import pytest

from tests.faults.dribbling import BEGINNINGS, Dribbler, dribbling
from tests.faults.honest import HEAD, Crowd, Outcome, a_while, p99, run, statuses
from tests.faults.watching import MIB, Unmeasured, callers_of, counted, in_progress, processor_time, resident
from tests.processes import Proxy, Reply, Simulator, call, eventually
from tests.test_admission import GOOD, JSON, failed, succeeded

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

UNREAD_OF_EACH = 4
UNREAD_SECONDS = 20.0
"""How long the proxy waits for a caller to take its answer."""
UNREAD_BYTES = 2 * MIB
"""What one of them may cost in memory: its answer, its request and the buffers."""
LARGE = json.dumps({"manufacturer_user_id": "u-1", "device_ids": [f"device-{n:050}" for n in range(10_000)]}).encode()
SMALL = b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n" * 100
FLOOD_PACKETS = 10_000
"""Of those: 35 MB."""


class Unread(NamedTuple):
    """A proxy whose callers never read their answers, as it was when it would take no more of them."""

    proxy: Proxy
    callers: set[int]
    grown: int
    """Its resident memory since it had none, in bytes."""
    since: float


@pytest.fixture(scope="module", autouse=True)
def unread(v2: Simulator) -> Iterator[Unread]:
    """They wait beside the other tests, from the first one on.

    Half of them ask for one large answer, half pipeline small requests for as long as they are taken.
    """
    running = Unmeasured(v2.url)
    before = resident(running)
    with ExitStack() as connections, ThreadPoolExecutor(UNREAD_OF_EACH) as senders:
        deaf = [connections.enter_context(_connect(running)) for _ in range(2 * UNREAD_OF_EACH)]
        for caller in deaf[:UNREAD_OF_EACH]:
            caller.sendall(HEAD % (b"demo-key", len(LARGE)) + LARGE)
        assert eventually(lambda: counted(running)[201] == UNREAD_OF_EACH)
        list(senders.map(_send_while_it_is_taken, deaf[UNREAD_OF_EACH:]))
        yield Unread(running, callers_of(running.pid, running), resident(running) - before, monotonic())
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


def _connect(proxy: Proxy) -> socket.socket:
    """It takes in little of an answer."""
    host, _, port = proxy.address.rpartition(":")
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    caller.settimeout(1.0)
    caller.connect((host, int(port)))
    return caller


def _send_while_it_is_taken(caller: socket.socket) -> None:
    """Small requests, until none is taken for a second."""
    with contextlib.suppress(TimeoutError):
        for _ in range(FLOOD_PACKETS):
            caller.sendall(SMALL)
        pytest.fail("more was taken than there are buffers")


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
    """In a second after the timeout, and what the machine holds up honest answers meanwhile, at either end of it."""
    before = hasty.metrics()
    files = hasty.open_files()
    outcomes, callers = run(_wait_for_the_slow(hasty))
    assert set(statuses(outcomes)) == {201}
    latest = TIMEOUT + 1 + 2 * max(each.seconds for each in outcomes)
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


def test_callers_that_never_read_cost_no_more_than_buffers_and_are_given_up(unread: Unread) -> None:
    """Last in this file, for it takes its time."""
    proxy = unread.proxy
    assert len(unread.callers) == 2 * UNREAD_OF_EACH
    assert unread.grown < 2 * UNREAD_OF_EACH * UNREAD_BYTES
    left = max(unread.since + UNREAD_SECONDS - monotonic(), 0)
    assert eventually(lambda: not callers_of(proxy.pid, proxy), within=left + 5)
    assert eventually(lambda: in_progress(proxy) == 0)
    assert succeeded(call(proxy.address, GOOD, JSON))
