"""A caller's connection as the process ends: who is still taken, what is finished, and what is not waited for."""

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

from tests.processes import Proxy, Simulator, Wire, call, eventually
from tests.test_admission import failed, succeeded
from tests.wire.test_lifetime import CALL, HALF, WHOLE


def test_a_drain_says_so_first_and_still_takes_who_comes(v2: Simulator) -> None:
    """A balancer takes a moment to hear of it: an idle connection, a new one and a half-sent head are all answered."""
    proxy = Proxy(v2.url, DRAIN_SECONDS="20")
    with Wire(proxy.address) as idle, Wire(proxy.address) as half_sent:
        idle.send(WHOLE)
        assert "connection" not in idle.answer().headers
        half_sent.send(WHOLE[:30])
        proxy.popen.terminate()
        assert eventually(lambda: call(proxy.admin, method="GET", path="/readyz").status == 503)
        with Wire(proxy.address) as late:
            for wire, rest in ((idle, WHOLE), (half_sent, WHOLE[30:]), (late, WHOLE)):
                wire.send(rest)
                reply = wire.answer()
                assert succeeded(reply)
                assert reply.headers["connection"] == "close"
                assert wire.is_closed()
    assert proxy.ended() == 0


def test_a_head_that_was_begun_is_answered_after_nobody_else_is_taken(v2: Simulator) -> None:
    proxy = Proxy(v2.url, DRAIN_SECONDS="10")
    host, _, port = proxy.address.rpartition(":")

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) != 0

    with Wire(proxy.address) as half_sent:
        half_sent.send(WHOLE[:30])
        proxy.popen.terminate()
        assert eventually(refuses)
        half_sent.send(WHOLE[30:])
        assert succeeded(half_sent.answer())
    assert proxy.ended() == 0


def test_callers_that_come_all_the_time_do_not_hold_up_the_drain(v2: Simulator) -> None:
    """There is always one more that waits to be accepted."""
    proxy = Proxy(v2.url, DRAIN_SECONDS="2")
    host, _, port = proxy.address.rpartition(":")

    def come() -> bool:
        """Again and again until nobody listens, which is said, or the drain should long be over."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                with socket.create_connection((host, int(port))) as caller:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except ConnectionError:
                return True
        return False

    with ThreadPoolExecutor(4) as callers:
        coming = [callers.submit(come) for _ in range(4)]
        proxy.popen.terminate()
        assert all(each.result() for each in coming)
    assert proxy.ended() == 0


def test_a_drain_does_not_wait_for_empty_lines(v2: Simulator) -> None:
    proxy = Proxy(v2.url, DRAIN_SECONDS="20")
    with Wire(proxy.address) as wire:
        wire.send(WHOLE)
        assert succeeded(wire.answer())
        wire.send(b"\r\n")
        began = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - began < 8


def test_half_sent_requests_do_not_outlast_the_drain(v2: Simulator) -> None:
    proxy = Proxy(v2.url, DRAIN_SECONDS="1")
    wires = [Wire(proxy.address) for _ in range(20)]
    for number, wire in enumerate(wires):
        wire.send(HALF if number % 2 else CALL)
    began = time.monotonic()
    assert proxy.stop() == 0
    assert time.monotonic() - began < 5
    assert "Traceback" not in "\n".join(proxy.err)
    for number, wire in enumerate(wires):
        if number % 2:
            assert failed(wire.answer(), 503, "service_unavailable")
        wire.close()
