"""Pipelining: requests in any cut of packets are answered in their order, each once, and in bounded memory."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator

import pytest

from tests.faults.honest import Crowd, Outcome, read_answer, run, statuses
from tests.faults.watching import MIB, Unmeasured, counted, forget_peak, in_progress, resident
from tests.processes import DOORS, Proxy, Simulator, eventually
from tests.sent import sent

USER = "a-pipelined-user"
CALL = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n"
FLOOD_SECONDS = 3.0


@pytest.fixture(scope="module", params=DOORS)
def proxy(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Proxy]:
    sent.add(USER)
    running = Unmeasured(v2.url, door=request.param, UPSTREAMS__V2__KEEPALIVE_EXPIRY="600")
    yield running
    assert running.stop() == 0
    assert [line for line in running.err if " ERROR " in line or "Traceback" in line] == []


def call(number: int) -> bytes:
    """A call of a user of its own; every third is chunked."""
    body = json.dumps({"manufacturer_user_id": f"{USER}-{number}"}).encode()
    if number % 3:
        return CALL + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:7], body[7:]))
    return CALL + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


async def exchange(proxy: Proxy, packets: list[bytes], answers: int) -> list[tuple[int, str]]:
    """Sends each packet by itself; status and user, or error code, of as many answers, after which there is none."""
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for packet in packets:
            writer.write(packet)
            await asyncio.sleep(0)
        writer.write_eof()
        found = []
        for _ in range(answers):
            status, _, body = await read_answer(reader)
            told = json.loads(body)
            found.append((status, told["data"]["manufacturer_user_id"] if told["success"] else told["error_code"]))
        assert await reader.read() == b""
        return found
    finally:
        writer.close()


def test_two_calls_cut_at_every_byte(proxy: Proxy, v2: Simulator) -> None:
    """Wherever the one packet ends and the other begins: in a line, in a size, in a body, between the calls."""
    stream = call(0) + call(1)
    v2.forget()

    async def cut_everywhere() -> None:
        for place in range(1, len(stream)):
            told = await exchange(proxy, [stream[:place], stream[place:]], 2)
            assert told == [(201, f"{USER}-0"), (201, f"{USER}-1")], place

    run(cut_everywhere())
    assert users(v2) == [f"{USER}-{n}" for _ in range(1, len(stream)) for n in range(2)]


def test_a_hundred_requests_cut_at_random(proxy: Proxy, v2: Simulator) -> None:
    """Calls among requests for what there is not, byte by byte at the one extreme, all at once at the other."""
    chance = random.Random(5)
    numbers = range(100)
    nothing = b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n"
    stream = b"".join(call(n) if n % 5 else nothing for n in numbers)
    wanted = [(201, f"{USER}-{n}") if n % 5 else (404, "not_found") for n in numbers]
    for longest in (1, 3, 50, 1_000, len(stream)):
        v2.forget()
        before = counted(proxy)
        assert run(exchange(proxy, cut(stream, longest, chance), len(wanted))) == wanted
        assert users(v2) == [user for status, user in wanted if status == 201]
        assert counted(proxy) - before == {201: 80, 404: 20}


def cut(stream: bytes, longest: int, chance: random.Random) -> list[bytes]:
    packets = []
    while stream:
        length = chance.randint(1, longest)
        packets.append(stream[:length])
        stream = stream[length:]
    return packets


def users(v2: Simulator) -> list[str]:
    return [json.loads(came["body"])["user_id"] for came in v2.calls()]


def test_a_flood_of_requests_is_taken_in_no_faster_than_it_is_answered(proxy: Proxy) -> None:
    """A caller that pipelines all it can: what waits of it is bounded, and it keeps nobody else from an answer."""
    forget_peak(proxy)
    before = resident(proxy)
    outcomes = run(_flood(proxy))
    assert set(statuses(outcomes)) == {201}
    assert resident(proxy, "VmHWM") - before < 16 * MIB
    assert eventually(lambda: in_progress(proxy) == 0)


async def _flood(proxy: Proxy) -> list[Outcome]:
    """What became of the honest callers' calls meanwhile; answers are read, so that nothing holds the flood up."""
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    requests = b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n" * 1_000

    async def send() -> None:
        while True:
            writer.write(requests)
            await writer.drain()

    async def read() -> None:
        while await reader.read(65_536):
            pass

    async with Crowd(proxy.address, 8, 0.1) as crowd:
        flood = asyncio.gather(send(), read())
        await asyncio.sleep(FLOOD_SECONDS)
        flood.cancel()
        writer.transport.abort()
        with contextlib.suppress(asyncio.CancelledError):
            await flood
    assert len(crowd.outcomes) > 8 * FLOOD_SECONDS
    return crowd.outcomes
