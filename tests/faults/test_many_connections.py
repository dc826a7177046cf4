"""Many connections: idle ones cost little and hold nobody up, and those beyond the limit are told at once."""

import asyncio
import resource
import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.faults.honest import Crowd, Outcome, run, statuses
from tests.faults.watching import Unmeasured, in_progress, resident
from tests.processes import DEADLINE, Proxy, Reply, Simulator, Wire, call, eventually, read_message
from tests.test_admission import GOOD, JSON, failed, succeeded

IDLE = 9_900
"""And the honest ones: together not yet the 10,000 that are allowed by default."""
KEPT = 500
HONEST = 32
EVERY = 0.25
BATCH = 500

CONNECTION_BYTES = 8 * 1024
"""Resident memory that an idle connection may cost: about 5 KiB are seen."""
KEPT_BYTES = 12 * 1024
"""The same of one that has made a call and is kept for its next."""

LIMIT = 20
REFUSED = "nox_proxy_connections_refused_total"

HEAD = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\ncontent-length: %d\r\n\r\n"
CALL = HEAD % len(GOOD) + GOOD


@pytest.fixture
def patient(v2: Simulator) -> Iterator[Proxy]:
    """One that closes no idle connection in the time of a test."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    running = Unmeasured(v2.url, HEADER_TIMEOUT="600", KEEPALIVE_TIMEOUT="600", UPSTREAMS__V2__KEEPALIVE_EXPIRY="1")
    yield running
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


def test_ten_thousand_idle_connections(patient: Proxy) -> None:
    files = patient.open_files()
    assert succeeded(call(patient.address, GOOD, JSON))
    assert eventually(lambda: patient.open_files() <= files)
    before = resident(patient)
    with ExitStack() as connections:
        idle = open_connections(patient, IDLE, connections)
        opened = resident(patient)
        assert (opened - before) / IDLE < CONNECTION_BYTES
        for caller in idle[:KEPT]:
            caller.sendall(CALL)
            assert caller.recv(4_096).startswith(b"HTTP/1.1 201 ")
        assert (resident(patient) - opened) / KEPT < KEPT_BYTES - CONNECTION_BYTES

        outcomes, answers = run(_serve_beside(patient))
        assert set(statuses(outcomes)) == {201}
        assert len(outcomes) > HONEST / EVERY
        assert set(answers) == {("/livez", 200), ("/readyz", 200), ("/metrics", 200)}
        assert eventually(lambda: patient.metrics()["nox_proxy_connections"] == IDLE)
    assert eventually(lambda: patient.open_files() <= files), (patient.open_files(), files)
    assert eventually(lambda: in_progress(patient) == 0)
    assert patient.metrics()[REFUSED] == 0


def open_connections(proxy: Proxy, number: int, connections: ExitStack) -> list[socket.socket]:
    """So many, all of them accepted; in batches that the listener's queue holds."""
    batches = [min(BATCH, number - made) for made in range(0, number, BATCH)]
    return [each for size in batches for each in open_batch(proxy, size, connections)]


def open_batch(proxy: Proxy, size: int, connections: ExitStack) -> list[socket.socket]:
    host, _, port = proxy.address.rpartition(":")
    before = proxy.open_files()
    made = [socket.create_connection((host, int(port)), DEADLINE) for _ in range(size)]
    assert eventually(lambda: proxy.open_files() >= before + size)
    return [connections.enter_context(each) for each in made]


async def _serve_beside(proxy: Proxy) -> tuple[list[Outcome], Counter[tuple[str, int]]]:
    """Honest callers, and a platform that asks the admin side meanwhile."""
    answers: Counter[tuple[str, int]] = Counter()
    async with Crowd(proxy.address, HONEST, EVERY) as crowd:
        for _ in range(8):
            for path in ("/livez", "/readyz", "/metrics"):
                reply = await asyncio.to_thread(call, proxy.admin, method="GET", path=path)
                answers[path, reply.status] += 1
            await asyncio.sleep(EVERY)
    return crowd.outcomes, answers


class Limited(NamedTuple):
    """A proxy each worker of which takes LIMIT connections; `allowed` are all of them together."""

    proxy: Proxy
    allowed: int


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def limited(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Limited]:
    workers: int = request.param
    running = Proxy(v2.url, MAX_CONNECTIONS=str(LIMIT), WORKERS=str(workers))
    assert eventually(lambda: running.metrics().get("nox_proxy_connections_limit") == workers * LIMIT)
    yield Limited(running, workers * LIMIT)
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


def test_a_connection_beyond_the_limit_is_told_at_once(limited: Limited) -> None:
    """Those that were let in are served on; once some have left, others are let in."""
    proxy, allowed = limited
    before = proxy.metrics()[REFUSED]
    with ExitStack() as connections:
        callers = [connections.enter_context(Wire(proxy.address)) for _ in range(allowed + LIMIT)]
        replies = [ask(caller) for caller in callers]
        served = [caller for caller, reply in zip(callers, replies, strict=True) if reply.status == 201]
        refused = [reply for reply in replies if reply.status != 201]
        assert LIMIT <= len(served) <= allowed
        for reply in refused:
            assert failed(reply, 503, "too_many_connections")
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.headers["connection"] == "close"
        assert proxy.metrics()[REFUSED] - before == len(refused)
        assert eventually(lambda: proxy.metrics()["nox_proxy_connections"] == len(served))

        assert all(succeeded(ask(caller)) for caller in served)
        for path in ("/livez", "/readyz", "/metrics"):
            assert call(proxy.admin, method="GET", path=path).status == 200
        for caller in served[:5]:
            caller.close()
        assert eventually(lambda: is_served(proxy))
    assert eventually(lambda: in_progress(proxy) == 0)


def ask(caller: Wire) -> Reply:
    caller.send(CALL)
    return caller.answer()


def is_served(proxy: Proxy) -> bool:
    with Wire(proxy.address) as caller:
        return ask(caller).status == 201


def test_the_refusal_waits_for_no_request(limited: Limited) -> None:
    """It comes unasked, and the connection ends with it."""
    proxy, allowed = limited
    host, _, port = proxy.address.rpartition(":")
    assert eventually(lambda: proxy.metrics()["nox_proxy_connections"] == 0)
    with ExitStack() as connections:
        callers = [
            connections.enter_context(socket.create_connection((host, int(port)), DEADLINE))
            for _ in range(allowed + LIMIT)
        ]
        assert eventually(lambda: len(readable(callers)) >= LIMIT, within=3)
        for caller in readable(callers):
            message, rest = read_message(caller)
            assert message.startswith(b"HTTP/1.1 503 ")
            assert rest + caller.recv(1) == b""


def readable(callers: list[socket.socket]) -> list[socket.socket]:
    return select.select(callers, [], [], 0)[0]
