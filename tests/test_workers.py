"""Several worker processes: one /metrics, a replacement for each that dies, an end in order."""

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from proxy.policy.credentials import digest
from tests.processes import ROOT, Proxy, Reply, Simulator, call, eventually
from tests.test_admission import GOOD, JSON

CALLS = 'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="acme",status="201",upstream="v2"}'
CALLERS = 16


def children(proxy: Proxy) -> list[int]:
    """Its processes: the workers and the admin one."""
    return [int(pid) for pid in Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()]


def listener(address: str) -> str:
    """The inode of a listening socket."""
    port = int(address.rpartition(":")[2])
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
    return inode


def links(pid: int) -> list[str]:
    """What its descriptors are open to; what it closes meanwhile is not among them."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


def sockets(pid: int) -> set[str]:
    """The inodes of its open sockets."""
    return {link[8:-1] for link in links(pid) if link.startswith("socket:[")}


def workers(proxy: Proxy) -> list[int]:
    """The children that have the public socket, each of them alone."""
    public = listener(proxy.address)
    return [pid for pid in children(proxy) if public in sockets(pid)]


def admin(proxy: Proxy) -> int:
    """The child that has the admin socket."""
    its = listener(proxy.admin)
    (found,) = [pid for pid in children(proxy) if its in sockets(pid)]
    return found


def started(v2: Simulator, **settings: str) -> Proxy:
    """Two workers, each with its own socket alone."""
    keys = json.dumps({"acme": {"keys_sha256": [digest(b"demo-key")]}})
    proxy = Proxy(v2.url, MANUFACTURERS=keys, WORKERS="2", cwd=ROOT, **settings)
    assert settled(proxy)
    return proxy


def settled(proxy: Proxy) -> bool:
    """All run, and each closed the socket that is not its own."""
    both = {listener(proxy.address), listener(proxy.admin)}

    def is_settled() -> bool:
        try:
            held = [both & sockets(pid) for pid in children(proxy)]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False  # one of them is just ending
        return len(held) == 3 and all(len(mine) == 1 for mine in held)

    return eventually(is_settled) and eventually(lambda: call(proxy.admin, method="GET", path="/readyz").status == 200)


def kill(proxy: Proxy, pid: int) -> None:
    """Kills a child and waits for its replacement."""
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: any(f"(process {pid}) ended: SIGKILL; it is replaced" in line for line in proxy.err))
    assert settled(proxy)


@pytest.fixture(scope="module")
def proxy(v2: Simulator) -> Iterator[Proxy]:
    """One whose workers may be killed, as long as it has both in the end."""
    running = started(v2)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def _slow() -> Iterator[Simulator]:
    simulator = Simulator("v2", "--fault", "delay=1")
    yield simulator
    simulator.stop()


@pytest.fixture
def slow_v2(_slow: Simulator) -> Simulator:
    """One that takes a second for each call; none was made yet."""
    _slow.forget()
    return _slow


def test_one_metrics_speaks_for_all_and_loses_no_count_with_a_worker(proxy: Proxy) -> None:
    """Ten workers are killed one by one: every call that was answered is counted, and no series is added."""
    made = proxy.metrics().get(CALLS, 0)

    def make(calls: int) -> None:
        nonlocal made
        for _ in range(calls):
            assert call(proxy.address, GOOD, JSON).status == 201
            made += 1

    make(20)
    assert eventually(lambda: any("upstream_connections" in name for name in proxy.metrics()))
    before = set(proxy.metrics())
    for _ in range(10):
        kill(proxy, workers(proxy)[0])
        make(5)
        assert proxy.metrics()[CALLS] == made
        assert proxy.metrics()["nox_proxy_requests_in_progress"] == 0
    assert set(proxy.metrics()) == before


def test_a_worker_that_is_told_to_stop_alone_leaves_the_listener_open_for_the_others(proxy: Proxy) -> None:
    told = workers(proxy)[0]
    os.kill(told, signal.SIGTERM)
    assert eventually(lambda: told not in workers(proxy))
    assert call(proxy.address, GOOD, JSON).status == 201
    assert settled(proxy)


def test_the_admin_process_is_replaced_too_and_knows_the_counts(proxy: Proxy) -> None:
    assert call(proxy.address, GOOD, JSON).status == 201
    counted = proxy.metrics()[CALLS]
    assert counted > 0
    kill(proxy, admin(proxy))
    assert proxy.metrics()[CALLS] == counted


def test_a_replacement_that_dies_young_is_replaced_in_its_turn(proxy: Proxy) -> None:
    kill(proxy, workers(proxy)[0])
    kill(proxy, max(workers(proxy)))
    assert call(proxy.address, GOOD, JSON).status == 201


def calls_in_flight(proxy: Proxy, v2: Simulator, pool: ThreadPoolExecutor) -> list[Future[Reply]]:
    """A call of each caller, all of them at v2."""
    made = [pool.submit(call, proxy.address, GOOD, JSON) for _ in range(CALLERS)]
    assert eventually(lambda: len(v2.calls()) == CALLERS)
    return made


def test_a_killed_worker_takes_its_own_calls_along_and_no_other(slow_v2: Simulator) -> None:
    proxy = started(slow_v2)
    try:
        with ThreadPoolExecutor(CALLERS) as pool:
            made = calls_in_flight(proxy, slow_v2, pool)
            victim = workers(proxy)[0]
            its_own = connections(victim, proxy)
            kill(proxy, victim)
            lost = [each for each in made if isinstance(each.exception(), HTTPException | ConnectionError)]
            kept = [each.result().status for each in made if each not in lost]
        assert len(lost) == its_own
        assert kept == [201] * (CALLERS - its_own)
        assert call(proxy.address, GOOD, JSON).status == 201
    finally:
        assert proxy.stop() == 0


def connections(pid: int, proxy: Proxy) -> int:
    """How many callers' connections a process has."""
    port = int(proxy.address.rpartition(":")[2])
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    callers = {row[9] for row in rows if row[3] == "01" and int(row[1].rpartition(":")[2], 16) == port}
    return len(callers & sockets(pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True], ids=["to the supervisor", "to the whole group"])
def test_a_drain_answers_what_runs(slow_v2: Simulator, number: signal.Signals, to_all: bool) -> None:
    """As sent by `kill`, by a terminal's Ctrl-C and by a service manager, which tells every process."""
    proxy = started(slow_v2)
    with ThreadPoolExecutor(CALLERS) as pool:
        made = calls_in_flight(proxy, slow_v2, pool)
        for pid in [*(children(proxy) if to_all else []), proxy.pid]:
            os.kill(pid, number)
        assert eventually(lambda: refuses(proxy.address))
        assert call(proxy.admin, method="GET", path="/readyz").status == 503
        assert call(proxy.admin, method="GET", path="/metrics").status == 200
        assert [each.result().status for each in made] == [201] * CALLERS
    assert proxy.popen.wait(10) == 0
    assert not [line for line in proxy.err if "replaced" in line or "Traceback" in line]
    proxy.stop()


def refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.2)  # while it closes the kernel takes no notice
        return probe.connect_ex((host, int(port))) == errno.ECONNREFUSED


def test_a_second_signal_ends_at_once() -> None:
    hanging = Simulator("v2", "--fault", "hang")
    proxy = started(hanging)
    with ThreadPoolExecutor(CALLERS) as pool:
        made = calls_in_flight(proxy, hanging, pool)
        proxy.popen.terminate()
        assert eventually(lambda: refuses(proxy.address))
        proxy.popen.terminate()
        proxy.popen.wait(5)
        assert all(each.exception() is not None or each.result().status >= 500 for each in made)
    proxy.stop()
    hanging.stop()


@pytest.mark.parametrize("who", [workers, lambda proxy: [admin(proxy)]], ids=["workers", "admin"])
def test_a_process_that_does_not_hear_is_waited_for_no_longer_than_a_drain(
    v2: Simulator, who: Callable[[Proxy], list[int]]
) -> None:
    """A process that is stopped hears nothing; no second signal is needed."""
    proxy = started(v2, DRAIN_SECONDS="1")
    deaf = who(proxy)
    for pid in deaf:
        os.kill(pid, signal.SIGSTOP)
    proxy.popen.terminate()
    assert proxy.popen.wait(10) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in deaf)
    proxy.stop()


def test_a_second_signal_ends_a_process_that_does_not_hear(v2: Simulator) -> None:
    proxy = started(v2, DRAIN_SECONDS="600")
    for pid in workers(proxy):
        os.kill(pid, signal.SIGSTOP)
    inode = listener(proxy.address)
    proxy.popen.terminate()
    assert eventually(lambda: inode not in sockets(proxy.pid))
    proxy.popen.terminate()
    assert proxy.popen.wait(10) == 0
    proxy.stop()


def test_no_worker_is_ready_while_none_runs(proxy: Proxy) -> None:
    """Each dies, and so does its replacement before it has come up: for a second there is none."""
    first = set(workers(proxy))
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: len(set(workers(proxy)) - first) == 2)
    for pid in workers(proxy):
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: call(proxy.admin, method="GET", path="/readyz").status == 503)
    assert settled(proxy)


def test_workers_whose_supervisor_is_gone_answer_what_runs_and_end(slow_v2: Simulator) -> None:
    """All at once: none of them waits for another to end first."""
    proxy = started(slow_v2)
    orphans = children(proxy)
    with ThreadPoolExecutor(CALLERS) as pool:
        made = calls_in_flight(proxy, slow_v2, pool)
        proxy.popen.kill()
        assert eventually(lambda: refuses(proxy.address))
        assert not any(each.done() for each in made)
        assert [each.result().status for each in made] == [201] * CALLERS
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    proxy.stop()


class ForkFailsOnce(Proxy):
    """One whose fifth fork, the first after those of its start and of one replacement, finds no memory."""

    command = (
        sys.executable,
        "-c",
        """
import errno, os
from proxy.cli import main
real, made = os.fork, 0
def fork():
    global made
    made += 1
    if made == 5:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return real()
os.fork = fork
main()
""",
    )


def test_a_worker_that_cannot_be_started_is_tried_again(v2: Simulator) -> None:
    proxy = ForkFailsOnce(v2.url, WORKERS="2")
    assert settled(proxy)
    kill(proxy, workers(proxy)[0])
    kill(proxy, workers(proxy)[0])
    assert any("cannot be started: Cannot allocate memory; it is tried again" in line for line in proxy.err)
    assert call(proxy.address, GOOD, JSON).status == 201
    assert proxy.stop() == 0
