"""The access log: a line an exchange, and lines to a reader of any speed."""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.contract.comparison import Difference
from proxy.policy.credentials import digest
from proxy.telemetry.access_log import MAX_WAITING_LINES, LineWriter, write_comparison, write_line
from proxy.telemetry.exchange import Attempt, Comparison, Exchange
from tests.processes import Proxy, Simulator, call
from tests.test_admission import GOOD, JSON


def test_an_exchange_is_crashed_until_it_becomes_another() -> None:
    line = json.loads(write_line(Exchange(b"id-1"), 0.5, now=1.5))
    assert (line["error_code"], line["status"], line["seconds"]) == ("crashed", 500, 0.5)
    assert line["time"] == "1970-01-01T00:00:01.500+00:00"


def test_a_fallback_says_why_and_counts_both_calls() -> None:
    attempts = [Attempt("v2", 0.25, failure="dns_error"), Attempt("v1", 0.5, 201)]
    line = json.loads(
        write_line(Exchange(b"id-1", attempts=attempts, fallback="dns_error", upstream="v1"), 1.0, now=1.5)
    )
    assert (line["upstream"], line["fallback"], line["upstream_seconds"]) == ("v1", "dns_error", 0.75)


def test_what_the_shadow_found_is_names_and_kinds() -> None:
    differences = (Difference("data.nox_user_id", "value"), Difference("error", "missing"))
    line = json.loads(write_comparison(Comparison(b"id-1", "an_endpoint", "mismatch", differences), now=1.5))
    assert line == {
        "time": "1970-01-01T00:00:01.500+00:00",
        "request_id": "id-1",
        "endpoint": "an_endpoint",
        "shadow": "mismatch",
        "reason": None,
        "fields": {"data.nox_user_id": "value", "error": "missing"},
    }


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def test_lines_of_one_moment_come_whole_and_in_order(pipe: tuple[int, int]) -> None:
    async def write() -> None:
        for n in range(30):
            writer(b"%d:" % n + b"x" * 300)
        writer.flush()

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
                writer.flush()
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
        while not read.endswith(b"again\n"):
            with contextlib.suppress(BlockingIOError):
                read += os.read(pipe[0], 1 << 20)
            await asyncio.sleep(0)

    os.set_blocking(pipe[0], False)
    writer = LineWriter(pipe[1])
    asyncio.run(asyncio.wait_for(write(), 20))


def test_what_still_waits_at_the_end_is_said_to_be_lost(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    async def write() -> None:
        for _ in range(1_000):
            writer(b"x" * 300)
        writer.flush()

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
        writer.flush()

    writer = LineWriter(pipe[1])
    asyncio.run(write())
    assert os.read(pipe[0], 65_536) == b"x" * (select.PIPE_BUF - 1) + b"\nnext\n"


def test_a_file_takes_many_lines_at_once(tmp_path: Path) -> None:
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)

    async def write() -> None:
        for _ in range(1_000):
            writer(b"x" * 300)
        writer.flush()

    writer = LineWriter(file)
    asyncio.run(write())
    os.close(file)
    assert (tmp_path / "log").read_bytes() == (b"x" * 300 + b"\n") * 1_000


def test_processes_that_share_a_reader_take_turns(pipe: tuple[int, int], tmp_path: Path) -> None:
    """While another has the turn nothing is written; its death gives the turn on, and the lines come."""
    turns = os.open(tmp_path / "turns", os.O_RDWR | os.O_CREAT)
    taken, release = os.pipe(), os.pipe()
    other = os.fork()
    if not other:
        fcntl.lockf(turns, fcntl.LOCK_EX)
        os.write(taken[1], b".")
        os.read(release[0], 1)
        os._exit(0)
    os.read(taken[0], 1)

    async def write() -> None:
        writer(b"mine")
        assert not writer.flush()

    writer = LineWriter(pipe[1], turns)
    asyncio.run(write())
    assert not select.select([pipe[0]], [], [], 0)[0]
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    writer.flush()
    assert os.read(pipe[0], 100) == b"mine\n"
    for descriptor in (turns, *taken, *release):
        os.close(descriptor)


def test_a_reader_that_is_gone_costs_the_lines_alone(pipe: tuple[int, int], caplog: pytest.LogCaptureFixture) -> None:
    async def write() -> None:
        for line in (b"1", b"2", b"3"):
            writer(line)
            writer.flush()

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
        "fallback": None,
        "status": 201,
        "error_code": None,
    }
    assert (second["endpoint"], second["manufacturer"], second["key"]) == ("unmatched", "unauthenticated", None)
    assert (second["upstream"], second["upstream_seconds"]) == ("none", None)
    assert (second["status"], second["error_code"]) == (404, "not_found")
