"""Callers that leave at every stage of a call, politely or not: nothing leaks, and what reached v2 is counted."""

import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Literal, NamedTuple

import pytest

from tests.faults.watching import counted, in_progress
from tests.processes import DEADLINE, DOORS, Proxy, Simulator, call, eventually, unread
from tests.sent import note_secrets
from tests.test_admission import GOOD, JSON, succeeded

Manner = Literal["FIN", "RST"]

LEAVERS = 8
"""They come at once, so that what is lost with one of them shows."""

LINE = b"POST /manufacturers/nox HTTP/1.1\r\n"
FIELDS = LINE + b"host: a\r\nx-api-key: demo-key\r\n"
WITH_LENGTH = FIELDS + b"content-length: %d\r\n\r\n" % len(GOOD)
CHUNKED = FIELDS + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = WITH_LENGTH + GOOD

DEVICES = [f"device-{n:06000}" for n in range(100)]
LARGE = json.dumps({"manufacturer_user_id": "u-1", "device_ids": DEVICES}).encode()
"""Its answer repeats the devices: most of it is still on its way when its first bytes are read."""


class Stage(NamedTuple):
    """How far a call has come when its caller leaves, and how it is counted."""

    sends: bytes
    counts: int | None = None
    """The status; None where there was no request yet."""
    awaits: Literal["nothing", "its reader", "the request", "v2", "an answer"] = "nothing"


STAGES = {
    "after connecting": Stage(b""),
    "in the request line": Stage(LINE[:20]),
    "in the headers": Stage(FIELDS[:-4]),
    "after the head": Stage(WITH_LENGTH, 499, "its reader"),  # it counts as a request only with its body, or its end
    "in the body": Stage(WHOLE[:-5], 499, "the request"),
    "before the first chunk": Stage(CHUNKED, 499, "the request"),
    "in a chunk's size": Stage(CHUNKED + b"5\r\n     \r\n1", 499, "the request"),
    "in a chunk": Stage(CHUNKED + b"5\r\n   ", 499, "the request"),
    "before the last chunk": Stage(CHUNKED + b"5\r\n     \r\n", 499, "the request"),
    "before the answer": Stage(WHOLE, 201, "v2"),
    "before the answers, pipelining": Stage(WHOLE + WHOLE[:-5], 201, "v2"),
    "in the answer": Stage(FIELDS + b"content-length: %d\r\n\r\n%s" % (len(LARGE), LARGE), 201, "an answer"),
    "after the answer": Stage(WHOLE, 201, "an answer"),
    "in the next head": Stage(WHOLE + FIELDS, 201, "an answer"),
}


@pytest.fixture(scope="module", params=DOORS)
def proxy(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Proxy]:
    """One that keeps as many connections to v2 as there will be, so that descriptors can be compared."""
    running = Proxy(v2.url, door=request.param, UPSTREAMS__V2__KEEPALIVE_EXPIRY="600")
    v2.forget()
    with v2.fault("delay=0.2"), ThreadPoolExecutor(LEAVERS) as callers:
        made = [callers.submit(call, running.address, GOOD, JSON) for _ in range(LEAVERS)]
        assert eventually(lambda: len(v2.calls()) == LEAVERS)
        assert all(succeeded(each.result()) for each in made)
    yield running
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


@pytest.mark.parametrize("manner", ["FIN", "RST"])
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_caller_that_leaves(proxy: Proxy, v2: Simulator, stage: Stage, manner: Manner) -> None:
    v2.forget()
    before, files, said = counted(proxy), proxy.open_files(), len(proxy.err)
    with v2.fault("delay=0.2" if stage.awaits == "v2" else "delay=0"), ExitStack() as connections:
        leavers = [connections.enter_context(arrive(proxy, stage)) for _ in range(LEAVERS)]
        if stage.awaits == "its reader":
            assert eventually(lambda: not any(map(unread, leavers)))
        if stage.awaits == "the request":
            assert eventually(lambda: in_progress(proxy) == LEAVERS)
        if stage.awaits == "v2":
            assert eventually(lambda: len(v2.calls()) == LEAVERS)
        for leaver in leavers:
            leave(leaver, manner)
    told = Counter({stage.counts: LEAVERS} if stage.counts else {})
    assert eventually(lambda: counted(proxy) - before == told), counted(proxy) - before
    assert len(v2.calls()) == (LEAVERS if stage.counts == 201 else 0)
    assert eventually(lambda: in_progress(proxy) == 0)
    assert eventually(lambda: proxy.open_files() <= files), (proxy.open_files(), files)
    assert succeeded(call(proxy.address, GOOD, JSON))
    assert counted(proxy) - before == told + Counter({201: 1})
    assert proxy.err[said:] == []


def arrive(proxy: Proxy, stage: Stage) -> socket.socket:
    """A caller's connection once it has come so far. It takes in little at a time, or it would take a whole answer."""
    host, _, port = proxy.address.rpartition(":")
    caller = socket.socket()
    caller.settimeout(DEADLINE)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    caller.connect((host, int(port)))
    note_secrets(stage.sends)
    caller.sendall(stage.sends)
    if stage.awaits == "an answer":
        assert caller.recv(1_000).startswith(b"HTTP/1.1 201 ")
    return caller


def leave(caller: socket.socket, manner: Manner) -> None:
    """With an RST, or with a FIN first where something was left unread."""
    if manner == "RST":
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        caller.shutdown(socket.SHUT_WR)
    caller.close()
