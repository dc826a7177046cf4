"""A caller's connection: how long it is waited for, how many there may be, and how it ends. On real sockets.

How it ends with the process is in test_drain.py.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.processes import DOORS, Proxy, Simulator, Wire, call, eventually
from tests.test_admission import GOOD, JSON, failed, succeeded

CALL = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n"
WHOLE = CALL + b"content-length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
HALF = WHOLE[:-5]
HEADER, BODY, KEEPALIVE = 0.5, 1.0, 2.0


@pytest.fixture(scope="module", params=DOORS)
def hasty(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Proxy]:
    """One that waits for nothing longer than a test may."""
    running = Proxy(
        v2.url, door=request.param, HEADER_TIMEOUT=str(HEADER), BODY_TIMEOUT=str(BODY), KEEPALIVE_TIMEOUT=str(KEEPALIVE)
    )
    yield running
    assert running.stop() == 0


def timed_out(proxy: Proxy, kind: str) -> float:
    return proxy.metrics().get(f'nox_proxy_caller_timeouts_total{{kind="{kind}"}}', 0.0)


@pytest.mark.parametrize(
    ("sent", "kind", "seconds"),
    [
        (b"P", "header", HEADER),
        (CALL, "header", HEADER),
        (CALL + b"x: y", "header", HEADER),
        (b"\r\n\r\nPOST", "header", HEADER),
        (HALF, "body", BODY),
        (CALL + b"transfer-encoding: chunked\r\n\r\n5\r\n", "body", BODY),
        (CALL + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n", "body", BODY),
    ],
)
def test_what_is_not_whole_in_time_is_a_408(hasty: Proxy, sent: bytes, kind: str, seconds: float) -> None:
    before, began = timed_out(hasty, kind), time.monotonic()
    with Wire(hasty.address) as wire:
        wire.send(sent)
        reply = wire.answer()
        if b"expect" in sent:
            assert reply.status == 100
            reply = wire.answer()
        assert failed(reply, 408, "request_timeout")
        assert reply.json()["message"] == f"Request {kind} was not whole in time"
        assert reply.headers["connection"] == "close"
        assert wire.is_closed()
    assert seconds <= time.monotonic() - began + 0.05
    assert timed_out(hasty, kind) == before + 1


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["the first", "a later one"])
def test_bytes_that_come_one_by_one_buy_no_time(hasty: Proxy, before: bytes) -> None:
    with Wire(hasty.address) as wire:
        if before:
            wire.send(before)
            assert succeeded(wire.answer())
        began = time.monotonic()
        for byte in CALL + b"x: " + b"y" * 1_000:
            wire.send(bytes([byte]))
            if time.monotonic() > began + HEADER + 0.2:
                break
            time.sleep(0.01)
        assert failed(wire.answer(), 408, "request_timeout")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "empty lines"])
def test_a_connection_without_a_request_is_closed_without_a_word(hasty: Proxy, sent: bytes) -> None:
    with Wire(hasty.address) as wire:
        wire.send(sent)
        assert wire.is_closed()


def test_an_idle_connection_is_kept_for_its_own_time(hasty: Proxy) -> None:
    with Wire(hasty.address) as wire:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
        time.sleep(HEADER + BODY)
        wire.send(WHOLE)
        assert succeeded(wire.answer())
        assert wire.is_closed()


def test_empty_lines_behind_a_body_neither_cost_time_nor_buy_it(hasty: Proxy) -> None:
    """Old clients send one (RFC 9112, section 2.2)."""
    with Wire(hasty.address) as wire:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
        began = time.monotonic()
        wire.send(b"\r\n")
        assert wire.is_closed()
        assert time.monotonic() - began >= KEEPALIVE - 0.1
    with Wire(hasty.address) as wire:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() < began + 2 * KEEPALIVE:
                wire.send(b"\r\n")
                time.sleep(0.1)
        assert time.monotonic() - began < 2 * KEEPALIVE


def test_time_that_v2_takes_is_not_the_callers(hasty: Proxy, v2: Simulator) -> None:
    """Neither of the request that runs nor of one that waits behind it, whose end the proxy does not read yet."""
    with v2.fault(f"delay={BODY + 0.2}"), Wire(hasty.address) as wire:
        v2.forget()
        wire.send(WHOLE + HALF)
        assert eventually(lambda: len(v2.calls()) == 1)
        wire.send(WHOLE[-5:])
        assert succeeded(wire.answer())
        assert succeeded(wire.answer())


def test_a_late_head_behind_a_call_costs_not_its_answer(hasty: Proxy, v2: Simulator) -> None:
    with v2.fault(f"delay={HEADER + 0.3}"), Wire(hasty.address) as wire:
        wire.send(WHOLE + CALL)
        assert succeeded(wire.answer())
        assert failed(wire.answer(), 408, "request_timeout")
        assert wire.is_closed()


def test_an_answer_survives_what_is_still_being_sent(proxy: Proxy) -> None:
    """Megabytes that nobody wants, behind a refusal: a reset would take the answer along."""
    body = b"x" * 8_000_000
    refused = (
        b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body),
        b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        CALL + b"transfer-encoding: chunked\r\n\r\nno size\r\n",
    )
    for head, status in zip(refused, (401, 400, 400), strict=True):
        with Wire(proxy.address) as wire:
            wire.send(head + body)
            assert wire.answer().status == status
            assert wire.is_closed()


@pytest.fixture(scope="module", params=DOORS)
def small(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Proxy]:
    running = Proxy(v2.url, door=request.param, MAX_CONNECTIONS="3")
    yield running
    assert running.stop() == 0


def test_a_connection_too_many_is_told_so_at_once(small: Proxy) -> None:
    """And the next one is served as soon as there is room."""
    wires = [Wire(small.address) for _ in range(3)]
    for wire in wires:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
    with Wire(small.address) as fourth:
        reply = fourth.answer()
        assert failed(reply, 503, "too_many_connections")
        assert reply.headers["retry-after"] == "1"
        assert reply.headers["proxy-status"] == "nox-proxy; error=connection_limit_reached"
        assert fourth.is_closed()
    assert small.metrics()["nox_proxy_connections_refused_total"] == 1
    assert call(small.admin, method="GET", path="/readyz").status == 200
    wires.pop().close()
    assert eventually(lambda: call(small.address, GOOD, JSON).status == 201)
    for wire in wires:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
        wire.close()


def test_those_that_are_turned_away_take_nobodys_place(small: Proxy) -> None:
    with ExitStack() as open_:
        wires = [open_.enter_context(Wire(small.address)) for _ in range(3)]
        for wire in wires:
            wire.send(WHOLE)
            assert succeeded(wire.answer())
        turned_away = [open_.enter_context(Wire(small.address)) for _ in range(10)]
        assert [wire.answer().status for wire in turned_away] == [503] * 10
        wires[0].close()
        assert eventually(lambda: call(small.address, GOOD, JSON).status == 201, within=1.0)


def test_what_a_refused_caller_sends_does_not_cost_it_the_answer(small: Proxy) -> None:
    wires = [Wire(small.address) for _ in range(3)]
    for wire in wires:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
    for _ in range(20):
        with Wire(small.address) as late:
            late.send(WHOLE)
            assert late.answer().status == 503
            assert late.is_closed()
    for wire in wires:
        wire.close()


def test_a_packet_full_of_requests_is_read_no_further_than_it_is_answered(proxy: Proxy, v2: Simulator) -> None:
    """10 callers with 9,000 requests each: made into requests at once they would take 200 MB, and seconds."""
    others = b"GET /else HTTP/1.1\r\nhost: a\r\n\r\n"
    before = resident_kilobytes(proxy)
    with v2.fault("delay=1"), ExitStack() as open_:
        v2.forget()
        wires = [open_.enter_context(Wire(proxy.address)) for _ in range(10)]
        for wire in wires:
            wire.send(WHOLE + others * 9_000)
        assert eventually(lambda: len(v2.calls()) == 10)
        assert call(proxy.admin, method="GET", path="/livez").status == 200
        assert resident_kilobytes(proxy) - before < 40_000
        for wire in wires:
            assert succeeded(wire.answer())
            assert [wire.answer().status for _ in range(300)] == [404] * 300


def test_a_caller_that_closes_its_side_behind_many_requests_is_answered_all(proxy: Proxy) -> None:
    with Wire(proxy.address) as wire:
        wire.send(WHOLE * 300)
        wire.half_close()
        assert [wire.answer().status for _ in range(300)] == [201] * 300
        assert wire.is_closed()


def resident_kilobytes(proxy: Proxy) -> int:
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])
