"""One Exchange, and what Prometheus and the log line make of it."""

import asyncio
import contextlib
import json
import logging
import os
import re
import select
from collections.abc import Iterator

import pytest

from proxy.policy.credentials import Credential, digest
from proxy.policy.manufacturers import Manufacturers
from proxy.telemetry import MAX_WAITING_LINES, Exchange, LineWriter, Telemetry
from tests.processes import Proxy, Simulator, Wire, call
from tests.test_admission import GOOD, JSON

KEY = Credential(b"k", "authorization", digest(b"k"))


def exposed(telemetry: Telemetry) -> list[str]:
    text = telemetry.exposition("")[0].decode()
    return [
        line for line in text.splitlines() if not line.startswith("#") and "bucket" not in line and "sum" not in line
    ]


def test_an_exchange_is_crashed_until_it_becomes_another() -> None:
    lines: list[bytes] = []
    telemetry = Telemetry(Manufacturers({}), lines.append)
    telemetry.begin()
    telemetry.finish(Exchange(b"id-1"))
    (line,) = map(json.loads, lines)
    assert (line["error_code"], line["status"]) == ("crashed", 500)


def test_the_series_of_one_call() -> None:
    telemetry = Telemetry(Manufacturers({"acme": [KEY.digest]}), None)
    telemetry.begin()
    exchange = Exchange(b"id-1", endpoint="connect_nox_user", credential=KEY, key_accepted=True, upstream="v2")
    exchange.upstream_seconds, exchange.upstream_failure = 0.5, "dns_error"
    exchange.unmapped, exchange.drifted = ("device_ids",), True
    exchange.status, exchange.outcome = 201, "answered"
    telemetry.finish(exchange)
    assert sorted(exposed(telemetry)) == sorted(
        [
            "nox_proxy_requests_in_progress 0.0",
            'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="acme",status="201",upstream="v2"} 1.0',
            'nox_proxy_request_duration_seconds_count{endpoint="connect_nox_user",upstream="v2"} 1.0',
            'nox_proxy_upstream_duration_seconds_count{upstream="v2"} 1.0',
            'nox_proxy_upstream_failures_total{reason="dns_error",upstream="v2"} 1.0',
            'nox_proxy_upstream_drift_total{kind="unknown_field",upstream="v2"} 1.0',
            'nox_proxy_unmapped_fields_total{endpoint="connect_nox_user",field="device_ids",manufacturer="acme"} 1.0',
            'nox_proxy_credential_scheme_total{manufacturer="acme",scheme="authorization"} 1.0',
            'nox_proxy_build_info{version="0.1.0"} 1.0',
        ]
    )


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_openmetrics_where_it_is_asked_for(accept: str, content_type: str) -> None:
    body, said = Telemetry(Manufacturers({}), None).exposition(accept)
    assert said.startswith(content_type)
    assert b"_created" not in body


def test_a_bug_is_logged_where_it_arose_and_not_in_its_words(caplog: pytest.LogCaptureFixture) -> None:
    def stumble(user: str) -> None:
        raise KeyError(user)

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError) as caught:
        stumble("-".join(["secret", "user"]))
    Telemetry(Manufacturers({}), None).crash(Exchange(b"id-1"), caught.value)
    assert "request id-1 crashed: KeyError" in caplog.text
    assert "in stumble" in caplog.text
    assert "secret-user" not in caplog.text


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def test_lines_of_one_turn_come_whole_and_in_order(pipe: tuple[int, int]) -> None:
    async def write() -> None:
        for n in range(30):
            writer(b"%d:" % n + b"x" * 300)
        await asyncio.sleep(0)

    writer = LineWriter(pipe[1])
    asyncio.run(write())
    lines = os.read(pipe[0], 65_536).split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"%d" % n for n in range(30)] + [b""]


def test_a_reader_that_stalls_is_waited_for_by_nobody(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    """The pipe fills, then what waits; the rest is lost and said to be. When the reader returns, so do lines."""

    async def write() -> None:
        for n in range(MAX_WAITING_LINES + 1_000):
            writer(b"%d:" % n + b"x" * 300)
            if n % 100 == 0:
                await asyncio.sleep(0)
        read = bytearray()
        while not caplog.text:
            with contextlib.suppress(BlockingIOError):
                read += os.read(pipe[0], 1 << 20)
            await asyncio.sleep(0)
        lines = bytes(read).split(b"\n")[:-1]
        lost = int(re.findall(r"(\d+) lines are lost", caplog.text)[0])
        assert [int(line.partition(b":")[0]) for line in lines] == list(range(len(lines)))
        assert 0 < lost < 1_000
        writer(b"again")
        await asyncio.sleep(0)
        assert os.read(pipe[0], 1 << 20).endswith(b"again\n")

    os.set_blocking(pipe[0], False)
    writer = LineWriter(pipe[1])
    asyncio.run(asyncio.wait_for(write(), 20))


def test_what_still_waits_at_the_end_is_said_to_be_lost(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    async def write() -> None:
        for _ in range(1_000):
            writer(b"x" * 300)
        await asyncio.sleep(0)

    writer = LineWriter(pipe[1])
    asyncio.run(write())
    assert caplog.text == ""
    writer.close()
    lost = int(re.findall(r"(\d+) lines are lost", caplog.text)[0])
    assert os.read(pipe[0], 1 << 20).count(b"\n") == 1_000 - lost


def test_a_line_that_fits_no_write_is_cut(pipe: tuple[int, int]) -> None:
    async def write() -> None:
        writer(b"x" * 10_000)
        writer(b"next")
        await asyncio.sleep(0)

    writer = LineWriter(pipe[1])
    asyncio.run(write())
    assert os.read(pipe[0], 65_536) == b"x" * (select.PIPE_BUF - 1) + b"\nnext\n"


def test_a_reader_that_is_gone_costs_the_lines_alone(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    async def write() -> None:
        for line in (b"1", b"2", b"3"):
            writer(line)
            await asyncio.sleep(0)

    os.close(pipe[0])
    writer = LineWriter(pipe[1])
    asyncio.run(write())
    assert [record.getMessage() for record in caplog.records] == ["access log: Broken pipe; lines are lost"]


@pytest.fixture(scope="module")
def registered(v2: Simulator) -> Iterator[Proxy]:
    keys = json.dumps({"acme": {"keys_sha256": [digest(b"demo-key")]}})
    running = Proxy(v2.url, MANUFACTURERS=keys, UPSTREAMS__V2__TIMEOUT="1")
    yield running
    running.stop()


def test_the_line_of_a_call(registered: Proxy) -> None:
    call(registered.address, GOOD, {**JSON, "x-request-id": "line-1"})
    call(registered.address, GOOD, {"x-request-id": "line-2"}, path="/else")
    (first,), (second,) = registered.lines("line-1"), registered.lines("line-2")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert 0 < first.pop("upstream_seconds") < first.pop("seconds") < 10
    assert first == {
        "request_id": "line-1",
        "endpoint": "connect_nox_user",
        "manufacturer": "acme",
        "key": digest(b"demo-key")[:8],
        "upstream": "v2",
        "status": 201,
        "error_code": None,
    }
    assert (second["endpoint"], second["manufacturer"], second["key"]) == ("unmatched", "unauthenticated", None)
    assert (second["upstream"], second["upstream_seconds"]) == ("none", None)
    assert (second["status"], second["error_code"]) == (404, "not_found")


def test_no_caller_can_add_a_label(registered: Proxy) -> None:
    """Keys, paths, methods and fields from outside: the same series however many there are."""

    def intrude(n: int) -> None:
        call(registered.address, GOOD, {"x-api-key": f"key-{n}"})
        call(registered.address, GOOD, JSON, path=f"/path-{n}")
        call(registered.address, GOOD, JSON, method=("PROPFIND", "PUT", "GET", "PATCH", "LOCK")[n % 5])
        call(registered.address, GOOD, {**JSON, "authorization": f"Scheme{n} x", "host": f"h{n}"}, path="/x")
        with Wire(registered.address) as wire:
            wire.send(b"nonsense %d\r\n\r\n" % n)
            wire.answer()

    intrude(0)
    before = set(registered.metrics())
    for n in range(1, 20):
        intrude(n)
    assert set(registered.metrics()) == before


@pytest.mark.parametrize(
    ("path", "status", "body"), [("/livez", 200, b"live\n"), ("/readyz", 200, b"ready\n"), ("/else", 404, b"Not Found")]
)
def test_the_admin_side(proxy: Proxy, path: str, status: int, body: bytes) -> None:
    reply = call(proxy.admin, method="GET", path=path)
    assert (reply.status, reply.body) == (status, body)
