"""Faults of v2 and of callers, under way: nothing is lost, nothing leaks, and the next call succeeds.

It is long for the processes that make the faults real, each beside its tests.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.processes import DOORS, Proxy, Reply, Simulator, Wire, call, eventually
from tests.test_admission import GOOD, JSON, KEY, failed, succeeded
from tests.test_from_v2 import EACH


def connect(proxy: Proxy) -> Reply:
    return call(proxy.address, GOOD, JSON)


def counter(manufacturer: str, status: int, upstream: str) -> str:
    labels = f'manufacturer="{manufacturer}",status="{status}",upstream="{upstream}"'
    return f'nox_proxy_requests_total{{endpoint="connect_nox_user",{labels}}}'


def request(body: bytes = GOOD) -> bytes:
    return b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


@pytest.fixture(scope="module", params=EACH, ids=" ".join)
def its_own(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str]]:
    """A proxy, and the address of its v2, at which nobody listens."""
    v2 = Simulator()
    transport, door = request.param
    proxy = Proxy(v2.url, door=door, UPSTREAMS__V2__TRANSPORT=transport, UPSTREAMS__V2__TIMEOUT="2")
    v2.stop()
    yield proxy, v2.address
    assert proxy.stop() == 0


@pytest.fixture
def proxy(by_each_door: Proxy) -> Proxy:
    return by_each_door


@pytest.fixture
def pair(its_own: tuple[Proxy, str]) -> Iterator[tuple[Proxy, Simulator]]:
    """A proxy and its v2, which a test may kill."""
    proxy, address = its_own
    v2 = Simulator(listen=address)
    yield proxy, v2
    v2.stop()


def test_v2_killed_between_calls(pair: tuple[Proxy, Simulator]) -> None:
    proxy, v2 = pair
    assert succeeded(connect(proxy))
    v2.popen.kill()
    v2.popen.wait()
    assert failed(connect(proxy), 502, "upstream_unavailable")
    back = Simulator(listen=v2.address)
    try:
        assert succeeded(connect(proxy))
    finally:
        back.stop()


def test_v2_killed_during_calls(pair: tuple[Proxy, Simulator]) -> None:
    """Those in flight are told that their outcome is not known; none is sent again."""
    proxy, v2 = pair
    v2.order("hang")
    with ThreadPoolExecutor(16) as callers:
        under_way = [callers.submit(connect, proxy) for _ in range(16)]
        assert eventually(lambda: len(v2.calls()) == 16)
        assert proxy.metrics()["nox_proxy_requests_in_progress"] == 16
        v2.popen.kill()
        v2.popen.wait()
        for reply in under_way:
            assert failed(reply.result(), 502, "upstream_disconnected")
    back = Simulator(listen=v2.address)
    try:
        assert back.calls() == []
        assert succeeded(connect(proxy))
    finally:
        back.stop()


def test_v2_hangs_and_returns(pair: tuple[Proxy, Simulator]) -> None:
    proxy, v2 = pair
    with v2.fault("hang"):
        assert failed(connect(proxy), 504, "upstream_timeout")
    assert succeeded(connect(proxy))
    assert proxy.metrics()["nox_proxy_requests_in_progress"] == 0


def test_no_connection_free_in_time(v2: Simulator) -> None:
    proxy = Proxy(
        v2.url,
        UPSTREAMS__V2__MAX_CONNECTIONS="2",
        UPSTREAMS__V2__CONNECT_TIMEOUT="0.2",
        UPSTREAMS__V2__TIMEOUT="3",
    )
    try:
        v2.forget()
        with ThreadPoolExecutor(2) as callers, v2.fault("hang"):
            busy = [callers.submit(connect, proxy) for _ in range(2)]
            assert eventually(lambda: len(v2.calls()) == 2)
            reply = connect(proxy)
            assert failed(reply, 503, "upstream_overloaded")
            assert int(reply.headers["retry-after"]) >= 1
            assert [one.result().status for one in busy] == [504, 504]
        assert len(v2.calls()) == 2
        assert succeeded(connect(proxy))
    finally:
        assert proxy.stop() == 0


def test_256_connections_at_once(v2: Simulator, need: Callable[[str], str], tmp_path: Path) -> None:
    """No error, every call counted once, and the file descriptors as before."""
    script = tmp_path / "call.lua"
    headers = "".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}\n" for name, value in JSON.items())
    script.write_text(f"wrk.method = 'POST'\nwrk.body = {json.dumps(GOOD.decode())}\n{headers}")
    proxy = Proxy(v2.url, UPSTREAMS__V2__KEEPALIVE_EXPIRY="1")
    try:
        assert succeeded(connect(proxy))
        assert eventually(lambda: proxy.open_files() == idle_files(proxy))
        before = proxy.open_files()
        wrk = [
            need("wrk"),
            "-t1",
            "-c256",
            "-d3s",
            "--timeout",
            "20s",
            "-s",
            str(script),
            f"http://{proxy.address}/manufacturers/nox",
        ]
        report = subprocess.run(wrk, check=True, capture_output=True, text=True).stdout
        assert "Non-2xx" not in report
        assert "Socket errors" not in report
        counted = {n: v for n, v in proxy.metrics().items() if n.startswith("nox_proxy_requests_total")}
        assert list(counted) == [n for n in counted if 'status="201"' in n]
        assert len(counted) == 1
        assert eventually(lambda: proxy.open_files() <= before)
        assert proxy.metrics()["nox_proxy_requests_in_progress"] == 0
    finally:
        assert proxy.stop() == 0


def idle_files(proxy: Proxy) -> int:
    """How many files are open once every connection to v2 has expired."""
    seen = proxy.open_files()
    eventually(lambda: proxy.open_files() != seen, within=1.5)
    return proxy.open_files()


def test_a_caller_that_leaves_in_its_body(proxy: Proxy, v2: Simulator) -> None:
    v2.forget()
    series = counter("unauthenticated", 499, "none")
    before = proxy.metrics().get(series, 0)
    with Wire(proxy.address) as wire:
        wire.send(request()[:-5])
    assert eventually(lambda: proxy.metrics().get(series, 0) == before + 1)
    assert v2.calls() == []


def test_a_caller_that_leaves_before_its_answer(proxy: Proxy, v2: Simulator) -> None:
    """The call is made to its end and counted: v2 has it."""
    v2.forget()
    series = (
        'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="unregistered",status="201",upstream="v2"}'
    )
    before = proxy.metrics().get(series, 0)
    with v2.fault("delay=0.2"), Wire(proxy.address) as wire:
        wire.send(request())
        assert eventually(lambda: len(v2.calls()) == 1)
    assert eventually(lambda: proxy.metrics().get(series, 0) == before + 1)


def test_pipelined_calls_are_answered_in_their_order(proxy: Proxy) -> None:
    bodies = [b'{"manufacturer_user_id": "u-%d"}' % n for n in range(20)]
    with Wire(proxy.address) as wire:
        wire.send(b"".join(map(request, bodies)))
        for n in range(20):
            assert succeeded(wire.answer(), f"u-{n}", ())


@pytest.mark.parametrize("door", DOORS)
def test_a_pipelining_caller_that_leaves_is_no_error(v2: Simulator, door: str) -> None:
    """uvicorn tells only the newest of its requests, and would log a traceback for the one that runs."""
    proxy = Proxy(v2.url, door=door)
    with v2.fault("delay=0.2"):
        v2.forget()
        with Wire(proxy.address) as wire:
            wire.send(request() * 2)
            assert eventually(lambda: len(v2.calls()) == 1)
        assert eventually(lambda: len(proxy.log()) == 1)
    assert proxy.stop() == 0
    assert "Traceback" not in "\n".join(proxy.err)


def test_a_drain_does_not_wait_for_what_is_thrown_away(v2: Simulator) -> None:
    """A refused caller that is still sending: its answer is out, and the process ends in time without a word."""
    proxy = Proxy(v2.url, DRAIN_SECONDS="1")
    with Wire(proxy.address) as wire:
        wire.send(b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf")
        assert failed(wire.answer(), 401, "missing_api_key")
        assert proxy.stop() == 0
    assert "Traceback" not in "\n".join(proxy.err)


def test_an_upstream_is_reached_without_the_environments_proxies(v2: Simulator) -> None:
    for transport in ("keepalive", "httpx"):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
                patch.setenv(name, "http://127.0.0.1:1")
            proxy = Proxy(v2.url, UPSTREAMS__V2__TRANSPORT=transport)
        try:
            assert succeeded(connect(proxy))
        finally:
            assert proxy.stop() == 0


def test_a_process_without_standard_output_serves(v2: Simulator) -> None:
    """Its number would go to the first socket, and the log would be written there."""
    env = {"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "127.0.0.1:0", "UPSTREAMS__V2__URL": v2.url}
    proxy = subprocess.Popen(
        ["bash", "-c", f"exec {sys.executable} -m proxy serve >&- <&-"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **{f"NOX_PROXY_{name}": value for name, value in env.items()}},
    )
    assert proxy.stderr is not None
    try:
        address = re.findall(r"listening on http://(\S+),", proxy.stderr.readline())[0]
        for _ in range(3):
            assert succeeded(call(address, GOOD, JSON))
    finally:
        proxy.terminate()
        assert proxy.wait(20) == 0
        proxy.stderr.close()


@pytest.mark.parametrize("door", DOORS)
def test_a_drain_finishes_what_runs(v2: Simulator, door: str) -> None:
    """SIGTERM: not ready, no new connections, the call in flight answered, exit 0."""
    proxy = Proxy(v2.url, door=door)
    with v2.fault("delay=1"), ThreadPoolExecutor(1) as caller:
        v2.forget()
        reply = caller.submit(connect, proxy)
        assert eventually(lambda: len(v2.calls()) == 1)
        assert call(proxy.admin, method="GET", path="/readyz").status == 200
        proxy.popen.terminate()
        assert eventually(lambda: call(proxy.admin, method="GET", path="/readyz").status == 503)
        assert call(proxy.admin, method="GET", path="/livez").status == 200
        answer = reply.result()
    assert succeeded(answer)
    assert proxy.stop() == 0
    assert [line["status"] for line in proxy.log()] == [201]


@pytest.mark.parametrize("door", DOORS)
def test_a_drain_that_runs_out_of_time_still_answers(v2: Simulator, door: str) -> None:
    proxy = Proxy(v2.url, door=door, DRAIN_SECONDS="1")
    with v2.fault("hang"), ThreadPoolExecutor(1) as caller, Wire(proxy.address) as half_sent:
        v2.forget()
        half_sent.send(request()[:-5])
        reply = caller.submit(connect, proxy)
        assert eventually(lambda: len(v2.calls()) == 1)
        proxy.popen.terminate()
        answer = reply.result()
        assert failed(answer, 503, "service_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert proxy.stop() == 0
    assert "Traceback" not in "\n".join(proxy.err)


@pytest.mark.parametrize("door", DOORS)
def test_a_second_signal_ends_at_once(v2: Simulator, door: str) -> None:
    proxy = Proxy(v2.url, door=door, UPSTREAMS__V2__TIMEOUT="30")
    with v2.fault("hang"), Wire(proxy.address) as caller:
        v2.forget()
        caller.send(request())
        assert eventually(lambda: len(v2.calls()) == 1)
        proxy.popen.send_signal(signal.SIGINT)
        assert eventually(lambda: call(proxy.admin, method="GET", path="/readyz").status == 503)
        proxy.popen.send_signal(signal.SIGINT)
        proxy.popen.wait(5)
    assert proxy.stop() == 0


def test_a_log_that_nobody_reads_holds_up_no_call(v2: Simulator) -> None:
    class Unread(Proxy):
        reads_log = False

    proxy = Unread(v2.url)
    try:
        for n in range(300):
            assert call(proxy.address, GOOD, {**JSON, "x-request-id": f"{n:0128}"}).status == 201
    finally:
        assert proxy.stop() == 0
        assert proxy.popen.stdout is not None
        read = proxy.popen.stdout.read()
        proxy.popen.stdout.close()
    lines = read.splitlines()
    assert 0 < len(lines) < 300
    assert [int(json.loads(line)["request_id"]) for line in lines] == list(range(len(lines)))


def test_a_key_is_in_no_log(proxy: Proxy) -> None:
    """Whatever has gone wrong in this run so far: keys, users and devices stay out of every line."""
    call(proxy.address, GOOD, {"x-api-key": "secret-key-1", "authorization": "ApiKey secret-key-2"})
    call(proxy.address, b'{"manufacturer_user_id": "secret-user"', {**KEY})
    body = b'{"manufacturer_user_id": "secret-user", "device_ids": ["secret-device"]}'
    call(proxy.address, body, {**KEY, "x-request-id": "the-last-one"})
    assert proxy.lines("the-last-one")
    said = "\n".join([*proxy.out, *proxy.err])
    assert not any(secret in said for secret in ("demo-key", "secret-"))
