"""The direct door at work: heads that are known or not, with their bodies, ahead of them, or without.

What either door does alike is tested where it is promised; here is what the one must not lose by being quick.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import NamedTuple

import pytest

from proxy.policy.credentials import digest
from tests.faults.watching import MIB, Unmeasured, counted, resident
from tests.processes import DOORS, Proxy, Reply, Simulator, Wire, eventually
from tests.sent import note_secrets
from tests.test_admission import GOOD, LIMIT, failed, succeeded
from tests.test_reload import CHANGE, ECHOES, Operated
from tests.wire.test_lifetime import BODY, timed_out

HEADER, MARGIN = 10.0, 0.6
_numbers = count()


def head(*fields: str, key: str = "demo-key", length: object = len(GOOD), known: bool = False) -> bytes:
    """Of a call; no other is like it, unless it is to be known."""
    number = "one-of-many" if known else f"number-{next(_numbers)}"
    lines = ("host: a", f"x-api-key: {key}", f"x-number: {number}", *fields, f"content-length: {length}")
    return "\r\n".join(("POST /manufacturers/nox HTTP/1.1", *lines, "", "")).encode()


class Head(NamedTuple):
    """Whether it came before, in a whole call."""

    known: bool

    def make(self, proxy: Proxy, key: str = "demo-key", length: object = len(GOOD)) -> bytes:
        """Its bytes. Where they are to be known a body came with them that goes nowhere."""
        made = head(key=key, length=length)
        if self.known:
            with Wire(proxy.address) as wire:
                wire.send(made + b"!" * min(int(str(length).lstrip("0")), LIMIT))
                wire.answer()
        return made


either = pytest.mark.parametrize("its", [Head(False), Head(True)], ids=["a new head", "a known head"])


@pytest.fixture(scope="module")
def hasty(v2: Simulator) -> Iterator[Proxy]:
    """It waits long for a head, and not so for a body."""
    running = Proxy(v2.url, BODY_TIMEOUT=str(BODY), HEADER_TIMEOUT=str(HEADER))
    yield running
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


@either
@pytest.mark.parametrize("earlier", [0, 2], ids=["first", "later"])
def test_a_head_without_its_body_is_a_408_in_time(hasty: Proxy, its: Head, earlier: int) -> None:
    sent, before = its.make(hasty), timed_out(hasty, "body")
    with Wire(hasty.address) as wire:
        for _ in range(earlier):
            wire.send(head() + GOOD)
            assert succeeded(wire.answer())
        began = time.monotonic()
        wire.send(sent)
        assert failed(wire.answer(), 408, "request_timeout")
        assert BODY - 0.05 <= time.monotonic() - began <= BODY + MARGIN
        assert wire.is_closed()
    assert timed_out(hasty, "body") == before + 1


@either
def test_a_byte_of_the_body_buys_no_time(hasty: Proxy, its: Head) -> None:
    sent = its.make(hasty)
    with Wire(hasty.address) as wire:
        began = time.monotonic()
        wire.send(sent)
        time.sleep(BODY - 0.2)
        wire.send(GOOD[:1])
        assert failed(wire.answer(), 408, "request_timeout")
        assert time.monotonic() - began <= BODY + MARGIN


@either
@pytest.mark.parametrize("length", ["0" * 5_000 + str(len(GOOD)), "0" * 9 + str(len(GOOD))], ids=len)
def test_a_length_of_many_digits_ahead_of_its_body(proxy: Proxy, its: Head, length: str) -> None:
    with Wire(proxy.address) as wire:
        wire.send_apart(its.make(proxy, length=length), GOOD)
        assert succeeded(wire.answer())


@either
@pytest.mark.parametrize(
    ("key", "length", "status", "code"),
    [("", len(GOOD), 401, "missing_api_key"), ("demo-key", LIMIT + 1, 413, "payload_too_large")],
)
def test_what_its_head_refuses_is_told_without_its_body(
    proxy: Proxy, its: Head, key: str, length: int, status: int, code: str
) -> None:
    sent = its.make(proxy, key, length)
    with Wire(proxy.address) as wire:
        wire.send(sent)
        reply = wire.answer()
        assert failed(reply, status, code)
        assert reply.headers["connection"] == "close"


SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1")


def test_the_same_head_of_another_address_is_another(proxy: Proxy, v2: Simulator) -> None:
    v2.forget()
    for source in SOURCES:
        for _ in range(2):
            with Wire(proxy.address, source) as wire:
                wire.send(head(known=True) + GOOD)
                assert succeeded(wire.answer())
    told = [dict(came["headers"])["x-forwarded-for"] for came in v2.calls()]
    assert told == [source for source in SOURCES for _ in range(2)]


def test_each_of_many_heads_that_differ_is_taken_and_none_is_kept_for_long(v2: Simulator) -> None:
    """10,000, each of almost the size that is kept: together they would take more than 40 MiB."""
    proxy = Unmeasured(v2.url, ACCESS_LOG="false")
    filler = f"x-filler: {'f' * 1_700}"
    try:
        with Wire(proxy.address) as wire:
            for number in range(10_000):
                wire.send(head(filler, length=1) + b"{")
                assert wire.answer().status == 400
                if number == 100:
                    before = resident(proxy)
            assert resident(proxy) - before < 16 * MIB
            wire.send(head() + GOOD)
            assert succeeded(wire.answer())
    finally:
        assert proxy.stop() == 0


def test_a_caller_that_never_reads_is_heard_no_longer(v2: Simulator) -> None:
    """It writes one call at a time. What waits for it is bounded, and nothing of it is lost once it reads."""
    proxy = Unmeasured(v2.url)
    devices = [f"device-{n:05}" for n in range(1_000)]
    body = json.dumps({"manufacturer_user_id": "u-1", "device_ids": devices}).encode()
    sent = head(length=len(body)) + body
    note_secrets(sent)
    host, _, port = proxy.address.rpartition(":")
    try:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.connect((host, int(port)))
            deaf.settimeout(5.0)
            for answered in range(2_000):
                deaf.sendall(sent)
                if not eventually(lambda wanted=answered + 1: counted(proxy)[201] == wanted, within=1.0):  # type: ignore[misc]
                    break
            assert answered * len(body) < 8 * MIB
            deaf.shutdown(socket.SHUT_WR)
            told = b"".join(iter(lambda: deaf.recv(1 << 20), b""))
            assert told.count(b"HTTP/1.1 201 Created\r\n") == told.count(b'"device-00999"]}}') == answered + 1
    finally:
        assert proxy.stop() == 0


class House(NamedTuple):
    """A proxy whose operator changes its settings, and a connection on which one head is known."""

    proxy: Operated
    wire: Wire

    def ask(self) -> Reply:
        """One whole call, in one packet."""
        self.wire.send(head(known=True) + GOOD)
        return self.wire.answer()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, v2: Simulator) -> Iterator[House]:
    proxy = Operated(tmp_path_factory.mktemp("settings") / "nox-proxy.toml", v2)
    with Wire(proxy.address) as wire:
        yield House(proxy, wire)
    assert proxy.stop() == 0


def seen(proxy: Proxy, manufacturer: str) -> float:
    labels = f'{{endpoint="connect_nox_user",manufacturer="{manufacturer}",status="201",upstream="v2"}}'
    return proxy.metrics().get(f"nox_proxy_requests_total{labels}", 0.0)


def test_a_reload_counts_from_the_next_call_of_a_known_head(house: House) -> None:
    """Its policy, its manufacturers and its schedule, on a connection that was open before."""
    proxy = house.proxy
    for policy, devices in (("echo", ("d-1", "d-2")), ("drop", ())) * 2:
        proxy.reload(f'[{CHANGE}]\ndevice_ids = "{policy}"')
        assert all(succeeded(house.ask(), devices=devices) for _ in range(2))
    for name in ("acme", "zenith"):
        proxy.reload(f'[manufacturers.{name}]\nkeys_sha256 = ["{digest(b"demo-key")}"]')
        assert succeeded(house.ask())
        assert seen(proxy, name) == 1
    proxy.reload(DARK)
    assert failed(house.ask(), 410, "endpoint_brownout")
    proxy.reload(ECHOES)
    assert succeeded(house.ask())


DARK = f"[{CHANGE}.deprecation]\nbrownouts = [{{start = 2020-01-01T00:00:00Z, end = 2090-01-01T00:00:00Z}}]"


def test_a_brownout_refuses_a_known_head_without_its_body(house: House) -> None:
    """At once: whoever waited for the body would wait for the whole of its timeout."""
    proxy = house.proxy
    proxy.reload(ECHOES)
    sent = head(known=True)
    with Wire(proxy.address) as wire:
        wire.send_apart(sent, GOOD)
        assert succeeded(wire.answer())
    proxy.reload(DARK)
    for _ in range(3):
        with Wire(proxy.address) as wire:
            began = time.monotonic()
            wire.send(sent)
            reply = wire.answer()
            assert failed(reply, 410, "endpoint_brownout")
            assert reply.headers["connection"] == "close"
            assert time.monotonic() - began < 5


@pytest.mark.parametrize("door", DOORS)
def test_a_drain_waits_for_the_body_of_a_head_that_came(v2: Simulator, door: str) -> None:
    """It came before the drain, or at its very end, by one who has said nothing yet."""
    proxy = Proxy(v2.url, door=door, DRAIN_SECONDS="10")
    host, _, port = proxy.address.rpartition(":")

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) != 0

    with ExitStack() as opened:
        begun, late, silent = (opened.enter_context(Wire(proxy.address)) for _ in range(3))
        begun.send_apart(head(), b"")
        proxy.popen.terminate()
        assert eventually(refuses)
        late.send(head())
        assert silent.is_closed()  # as all are by then that have said nothing
        for wire in (begun, late):
            wire.send(GOOD)
            reply = wire.answer()
            assert succeeded(reply)
            assert reply.headers["connection"] == "close"
            assert wire.is_closed()
    assert proxy.ended() == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_drain_that_runs_out_of_time_answers_a_head_without_its_body(v2: Simulator, door: str) -> None:
    proxy = Proxy(v2.url, door=door, DRAIN_SECONDS="1")
    with Wire(proxy.address) as wire:
        wire.send_apart(head(), b"")
        proxy.popen.terminate()
        assert failed(wire.answer(), 503, "service_unavailable")
    assert proxy.ended() == 0
    assert "Traceback" not in "\n".join(proxy.err)
