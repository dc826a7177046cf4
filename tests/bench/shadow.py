"""What callers notice of the shadow: their p50 and p99 at a fixed rate, with the shadow on and off in turns.

python -m tests.bench.shadow

Calls come whether or not earlier ones are answered: a proxy that stalls is charged for all that it keeps waiting. Off
is measured twice, to show how much of a difference is noise.
"""

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from random import Random
from statistics import median, quantiles
from time import perf_counter
from urllib.parse import urlsplit

import uvloop

from tests.processes import Proxy

RATE = 200
"""Calls a second: far from what a proxy can take on a core."""
SECONDS = 2.0
"""Of one turn."""
ROUNDS = 30
SHARES = {"off": 0, "off, too": 0, "5 %": 5, "100 %": 100}
MOST_CONNECTIONS = 64

IDS = {"manufacturer_user_id": "u", "nox_user_id": "n"}
V1 = {"success": True, "timestamp": 1, "data": {**IDS, "device_ids": ["heat-pump-1"]}}


class Callers:
    """Keep-alive connections to one proxy. Each call takes a free one or opens another."""

    def __init__(self, address: str) -> None:
        self._address = urlsplit(f"//{address}")
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)
        self._users = 0

    async def turn(self, gaps: Random) -> list[float]:
        """Calls at the fixed rate for the time of a turn; how long each took, in milliseconds."""
        loop = asyncio.get_running_loop()
        due, calls = loop.time(), []
        for _ in range(int(RATE * SECONDS)):
            due += gaps.expovariate(RATE)  # callers know nothing of each other, so calls come close together too
            await asyncio.sleep(due - loop.time())
            calls.append(asyncio.create_task(self._call(perf_counter())))  # the loop's own clock is too coarse
        return [seconds * 1_000 for seconds in await asyncio.gather(*calls)]

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()

    async def _call(self, began: float) -> float:
        self._users += 1
        body = json.dumps({"manufacturer_user_id": f"user-{self._users}", "device_ids": ["heat-pump-1"]}).encode()
        head = "POST /manufacturers/nox HTTP/1.1\r\nhost: bench\r\nx-api-key: demo-key\r\ncontent-length: {}\r\n\r\n"
        async with self._room:
            reader, writer = self._free.pop() if self._free else await self._connect()
            writer.write(head.format(len(body)).encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201 "), answer
            await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].split()[0]))
            self._free.append((reader, writer))
        return perf_counter() - began

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._address.hostname
        return await asyncio.open_connection(self._address.hostname, self._address.port)


class Parrot(asyncio.Protocol):
    """An upstream that costs next to nothing, for it shares the cores: the same answer to each request, unread."""

    def __init__(self, said: object) -> None:
        body = json.dumps(said).encode()
        self._answer = b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined]  # uvloop's is no asyncio.Transport

    def data_received(self, _: bytes) -> None:
        self._write(self._answer)


def answer_all(ports: Connection) -> None:
    """A process that is both v1 and v2."""

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(partial(Parrot, said), "127.0.0.1", 0) for said in (V1, IDS)]
        ports.send([server.sockets[0].getsockname()[1] for server in servers])
        await asyncio.gather(*(server.serve_forever() for server in servers))

    uvloop.run(listen())


@contextlib.contextmanager
def upstreams() -> Iterator[tuple[str, str]]:
    """The URLs of v1 and v2."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer_all, args=(theirs,), daemon=True)
    process.start()
    try:
        v1, v2 = ours.recv()
        yield f"http://127.0.0.1:{v1}", f"http://127.0.0.1:{v2}"
    finally:
        process.terminate()
        process.join()


def start(v1: str, v2: str, percent: float) -> Proxy:
    rollout = {"v2_percent": 0, "shadow": {"percent": percent, "accept_side_effects": True}}
    return Proxy(
        v2,
        UPSTREAMS__V1__URL=v1,
        CHANGES__CONNECT_NOX_USER__ROLLOUT=json.dumps(rollout),
        ACCESS_LOG="false",  # it is read by the process that measures
        KEEPALIVE_TIMEOUT="600",  # longer than the whole run
    )


async def measure(proxies: dict[str, Proxy]) -> dict[str, list[list[float]]]:
    """The times of each turn, by share.

    All shares of a round get their calls at the same intervals, and each is first as often as last. The first round
    only warms up.
    """
    callers = {share: Callers(proxy.address) for share, proxy in proxies.items()}
    turns: dict[str, list[list[float]]] = {share: [] for share in callers}
    shares = list(callers)
    for number in range(ROUNDS + 1):
        for share in shares:
            times = await callers[share].turn(Random(number))
            if number:
                turns[share].append(times)
        shares = shares[1:] + shares[:1]
    for each in callers.values():
        each.close()
    return turns


def percentile(times: list[float], number: int) -> float:
    return quantiles(times, n=100)[number - 1]


def report(turns: dict[str, list[list[float]]], proxies: dict[str, Proxy]) -> None:
    """The medians of the turns, which one that something else on the machine disturbed does not move."""
    print(f"{RATE} calls a second, {ROUNDS} turns of {SECONDS:g} s each; medians of the turns, in ms")
    off = [percentile(times, 99) for times in turns["off"]]
    for share, rounds in turns.items():
        p50s, p99s = ([percentile(times, number) for times in rounds] for number in (50, 99))
        against = median(p99 / other for p99, other in zip(p99s, off, strict=True))
        verdicts = {
            name.split('verdict="')[1][:-2]: int(value)
            for name, value in proxies[share].metrics().items()
            if "shadow_comparisons" in name
        }
        print(
            f"shadow {share:>8}: p50 {median(p50s):.2f}, p99 {median(p99s):.2f} "
            f"(from {min(p99s):.2f} to {max(p99s):.2f}), p99 to off {against:.2f}  {verdicts}"
        )


def main() -> None:
    with upstreams() as (v1, v2), contextlib.ExitStack() as started:
        proxies = {share: start(v1, v2, percent) for share, percent in SHARES.items()}
        for proxy in proxies.values():
            started.callback(proxy.stop)
        report(uvloop.run(measure(proxies)), proxies)


if __name__ == "__main__":
    main()
