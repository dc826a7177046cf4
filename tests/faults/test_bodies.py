"""Bodies at their limit, beyond it and without end: each is answered, and memory is bounded by the bodies in flight."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

import pytest

from tests.faults.watching import MIB, Unmeasured, forget_peak, in_progress, resident
from tests.processes import DEADLINE, DOORS, Proxy, Simulator, Wire, eventually
from tests.test_admission import LIMIT, failed, succeeded

FIELDS = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n"
CHUNKED = FIELDS + b"transfer-encoding: chunked\r\n\r\n"
AT_ONCE = 64
LINGER_SECONDS = 2.0
"""How long the proxy throws away what still comes after a refusal, for the answer not to be lost."""


@pytest.fixture(scope="module", params=DOORS)
def proxy(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Proxy]:
    running = Unmeasured(v2.url, door=request.param)
    yield running
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


Framing = Callable[[bytes], list[bytes]]
"""A body as the packets of a call."""


def body_of(size: int) -> bytes:
    """A call's body of so many bytes, almost all of them in a field that goes nowhere."""
    frame = b'{"manufacturer_user_id": "u-1", "filler": "%s"}'
    return frame % (b"x" * (size - len(frame) + 2))


def with_length(body: bytes) -> list[bytes]:
    return [FIELDS + b"content-length: %d\r\n\r\n" % len(body), body]


def in_chunks(size: int) -> Framing:
    def chunked(body: bytes) -> list[bytes]:
        pieces = [body[place : place + size] for place in range(0, len(body), size)]
        return [CHUNKED, b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]

    return chunked


FRAMINGS: dict[str, Framing] = {
    "its length announced": with_length,
    "in one chunk": in_chunks(2 * LIMIT),
    "in chunks of 1,000 bytes": in_chunks(1_000),
}


@pytest.mark.parametrize("frame", FRAMINGS.values(), ids=FRAMINGS)
def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(proxy: Proxy, frame: Framing) -> None:
    with Wire(proxy.address) as wire:
        for _ in range(2):
            send(wire, frame(body_of(LIMIT)))
            assert succeeded(wire.answer(), devices=())
        send(wire, frame(body_of(LIMIT + 1)))
        reply = wire.answer()
        assert failed(reply, 413, "payload_too_large")
        if reply.headers.get("connection") == "close":
            assert wire.is_closed()
        else:  # all of it had come
            wire.send(b"".join(frame(body_of(100))))
            assert succeeded(wire.answer(), devices=())


def send(wire: Wire, packets: Iterable[bytes]) -> None:
    """As much as the proxy takes: of a body that it refuses it need not take all."""
    with contextlib.suppress(ConnectionError):
        for packet in packets:
            wire.send(packet)


ENDLESS = {
    "chunks without end": (CHUNKED, b"1000\r\n%s\r\n" % (b"x" * 0x1000) * 16),
    "tiny chunks without end": (CHUNKED, b"1\r\nx\r\n" * 10_000),
    "a chunk that is announced with 16 EiB": (CHUNKED + b"fffffffffffffff0\r\n", b"x" * 65_536),
}


@pytest.mark.parametrize(("beginning", "goes_on"), ENDLESS.values(), ids=ENDLESS)
def test_a_body_without_end_is_refused_at_the_limit(proxy: Proxy, beginning: bytes, goes_on: bytes) -> None:
    """Its caller never stops of itself; it gets its answer all the same, and its connection ends."""
    forget_peak(proxy)
    before = resident(proxy)
    with Wire(proxy.address) as wire, ThreadPoolExecutor(1) as other:
        ended = other.submit(send, wire, chain([beginning], repeat(goes_on)))
        reply = wire.answer()
        answered = time.monotonic()
        assert failed(reply, 413, "payload_too_large")
        assert reply.headers["connection"] == "close"
        ended.result(DEADLINE)
        assert time.monotonic() - answered < LINGER_SECONDS + 2
    assert resident(proxy, "VmHWM") - before < 4 * LIMIT
    assert eventually(lambda: in_progress(proxy) == 0)


def test_many_bodies_of_the_limit_at_once(proxy: Proxy, v2: Simulator) -> None:
    """All are in memory at once, each of them once, beside a copy of the one that is being read."""
    forget_peak(proxy)
    before = resident(proxy)
    body = body_of(LIMIT)
    with v2.fault("delay=0.5"), contextlib.ExitStack() as connections:
        callers = [connections.enter_context(Wire(proxy.address)) for _ in range(AT_ONCE)]
        for caller in callers:
            head, whole = with_length(body)
            caller.send(head + whole[:-1])
        assert eventually(lambda: in_progress(proxy) == AT_ONCE)
        for caller in callers:
            caller.send(body[-1:])
        for caller in callers:
            assert succeeded(caller.answer(), devices=())
    most = resident(proxy, "VmHWM") - before
    assert AT_ONCE * LIMIT * 0.9 < most < 1.5 * AT_ONCE * LIMIT, most / MIB
    assert eventually(lambda: in_progress(proxy) == 0)
