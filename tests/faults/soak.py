"""A soak: half load for a while, with faults of v2 and of callers coming and going, and an account of every call.

    python -m tests.faults.soak --seconds 3600

It ends with its figures, and with exit status 1 where one of them is not as it must be.
"""

import argparse
import asyncio
import itertools
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from proxy.policy.credentials import digest
from tests.faults.honest import HEAD, Crowd, run
from tests.faults.honest import statuses as statuses_of
from tests.faults.watching import MIB, Unmeasured, in_progress, resident
from tests.processes import DEADLINE, Proxy, Simulator, eventually
from tests.sent import sent

CALLERS = 32
SATURATING_SECONDS = 3.0
"""For so long the callers call as fast as they are answered; half of what comes of it is the load."""

FAULTS = ("status=503", "close", "delay=0.3", "cut", "hang", "garbage", "odd", "html")
CALM_SECONDS, FAULT_SECONDS = 2.0, 1.0
SAMPLE_SECONDS = 0.5

LEAVING_KEY, LEAVING_USER = "a-leaving-callers-key", "a-leaving-user"
LEAVE_SECONDS = 0.05
"""From one caller that leaves to the next."""

GROWTH = MIB
"""What the resident memory of the last quarter may be above that of the third, by their medians. A tenth of it is seen;
a leak of a kilobyte a call is twice as much, in the minute that CI gives it."""

_CALLS = re.compile(r'nox_proxy_requests_total\{.*manufacturer="(\w+)",status="(\d+)".*\}')


class Report(NamedTuple):
    """What a soak has found."""

    per_second: float
    """The load, in calls."""
    honest: Counter[int | None]
    """What became of their calls: by the answers' status, None where there was none."""
    honest_counted: Counter[int | None]
    """The same as the proxy has counted it."""
    left: Counter[str]
    """Where callers left."""
    left_counted: Counter[int | None]
    logged: int
    files: tuple[int, int]
    """Open descriptors before and after."""
    in_progress: float
    resident: list[int]
    """In bytes, at even intervals."""
    errors: list[str]
    """On the proxy's standard error."""

    @property
    def growth(self) -> float:
        """Of the resident memory in its second half, in bytes."""
        quarter = len(self.resident) // 4
        third, last = self.resident[-2 * quarter : -quarter], self.resident[-quarter:]
        return statistics.median(last) - statistics.median(third)

    def broken(self) -> list[str]:
        """What is not as it must be."""
        requests_left = self.left.total() - self.left["in the head"]
        holds = {
            "every call is answered": self.honest[None] == 0,
            "the counters add up to the calls": self.honest_counted == self.honest,
            "and to those of the callers that left": self.left_counted.total() == requests_left,
            "of which those in the body reached nobody": self.left_counted[499] == self.left["in the body"],
            "each is logged": self.logged == self.honest_counted.total() + self.left_counted.total(),
            "memory is flat": self.growth < GROWTH,
            "descriptors are as before": self.files[1] <= self.files[0],
            "nothing is left in progress": self.in_progress == 0,
            "no error is logged": not self.errors,
        }
        return [what for what, it_holds in holds.items() if not it_holds]

    def __str__(self) -> str:
        low, high = min(self.resident) / MIB, max(self.resident) / MIB
        return "\n".join(
            (
                f"{self.honest.total()} calls, {self.per_second:.0f} a second: {dict(self.honest)}",
                f"counted: {dict(self.honest_counted)}",
                f"callers that left: {dict(self.left)}; counted: {dict(self.left_counted)}",
                f"logged: {self.logged}; descriptors: {self.files[0]}, then {self.files[1]}",
                f"resident: {low:.1f} to {high:.1f} MiB, {self.growth / MIB:+.2f} MiB in the second half",
                *self.errors,
            )
        )


def soak(seconds: float) -> Report:
    """Runs one, with a proxy and a v2 of its own."""
    with services() as (proxy, v2):
        return run(_soak(proxy, v2, seconds), within=seconds + 2 * DEADLINE)


@contextmanager
def services() -> Iterator[tuple[Proxy, Simulator]]:
    """A proxy that soon has tried again a v2 that failed."""
    sent.update((LEAVING_KEY, LEAVING_USER))
    lists = {
        "honest": {"keys_sha256": [digest(b"demo-key")]},
        "leaving": {"keys_sha256": [digest(LEAVING_KEY.encode())]},
    }
    v2 = Simulator("v2", "--key=demo-key", f"--key={LEAVING_KEY}")
    proxy = Unmeasured(
        v2.url,
        MANUFACTURERS=json.dumps(lists),
        UPSTREAMS__V2__TIMEOUT="1",
        UPSTREAMS__V2__KEEPALIVE_EXPIRY="1",
        UPSTREAMS__V2__BREAKER__OPEN_FOR="0.3",
    )
    try:
        yield proxy, v2
    finally:
        assert proxy.stop() == 0
        v2.stop()


async def _soak(proxy: Proxy, v2: Simulator, seconds: float) -> Report:
    files = proxy.open_files()
    async with Crowd(proxy.address, CALLERS, name="eager-") as eager:
        await asyncio.sleep(SATURATING_SECONDS)
    per_second = len(eager.outcomes) / SATURATING_SECONDS / 2
    memory: list[int] = []
    left: Counter[str] = Counter()
    async with Crowd(proxy.address, CALLERS, CALLERS / per_second, name="paced-") as paced:
        await _for(seconds, _break_v2(v2), _leave(proxy, left), _sample(proxy, memory))
    honest = statuses_of([*eager.outcomes, *paced.outcomes])
    return await asyncio.to_thread(_report, proxy, files, per_second, honest, left, memory)


async def _for(seconds: float, *doings: Coroutine[Any, Any, None]) -> None:
    """Has all go on for a while; the first that fails ends them."""
    tasks = [asyncio.create_task(doing) for doing in doings]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in done:
        task.result()


async def _break_v2(v2: Simulator) -> None:
    """One fault after the other, with a calm between them."""
    for fault in itertools.cycle(FAULTS):
        await asyncio.sleep(CALM_SECONDS)
        await asyncio.to_thread(v2.order, fault)
        await asyncio.sleep(FAULT_SECONDS)
        await asyncio.to_thread(v2.order, "delay=0")


async def _leave(proxy: Proxy, left: Counter[str]) -> None:
    """One caller after the other comes and leaves, each with a FIN, so that what it sent is read before."""
    body = b'{"manufacturer_user_id": "%s"}' % LEAVING_USER.encode()
    head = HEAD % (LEAVING_KEY.encode(), len(body))
    places = {"in the head": head[:-4], "in the body": head + body[:-1], "before the answer": head + body}
    host, _, port = proxy.address.rpartition(":")
    for place, sends in itertools.cycle(places.items()):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(sends)
        writer.close()
        await writer.wait_closed()
        left[place] += 1
        await asyncio.sleep(LEAVE_SECONDS)


async def _sample(proxy: Proxy, memory: list[int]) -> None:
    while True:
        memory.append(resident(proxy))
        await asyncio.sleep(SAMPLE_SECONDS)


def _report(
    proxy: Proxy, files: int, per_second: float, honest: Counter[int | None], left: Counter[str], memory: list[int]
) -> Report:
    """Once the proxy has come to rest."""
    eventually(lambda: proxy.open_files() <= files)
    descriptors = (files, proxy.open_files())
    eventually(lambda: in_progress(proxy) == 0)
    counted, left_counted = _counted(proxy, "honest"), _counted(proxy, "leaving")
    eventually(lambda: len(proxy.out) >= counted.total() + left_counted.total())
    errors = [line for line in proxy.err if " ERROR " in line or "Traceback" in line]
    return Report(
        per_second,
        honest,
        counted,
        left,
        left_counted,
        len(proxy.out),
        descriptors,
        in_progress(proxy),
        memory,
        errors,
    )


def _counted(proxy: Proxy, manufacturer: str) -> Counter[int | None]:
    """A manufacturer's calls by status."""
    found: Counter[int | None] = Counter()
    for name, value in proxy.metrics().items():
        if (match := _CALLS.fullmatch(name)) and match[1] == manufacturer and value:
            found[int(match[2])] += int(value)
    return found


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description="Half load with faults coming and going, and an account of every call."
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    report = soak(parser.parse_args().seconds)
    print(report)
    for what in report.broken():
        print("does not hold:", what)
    return bool(report.broken())


if __name__ == "__main__":
    sys.exit(main())
