"""How long calls take at a fixed rate: half of what each candidate was seen to answer in this run.

h2load sends them. It holds a rate by timers and makes good what it missed; wrk's delay() counts whole milliseconds
between an answer and the next request, which is coarser than the calls and holds no rate. Its 32 clients' timers go off
close together, so that calls come in small heaps: the same for all.
"""

import re
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

import msgspec

from tests.bench.machine import LOADS_CORE, pinned
from tests.bench.scenarios import HEADERS, KEY, body
from tests.bench.turns import Entrant

CONNECTIONS = 32
WARM_UP_SECONDS = 0.5


class Paced(msgspec.Struct, frozen=True):
    """One candidate's turn at half of its saturating rate; `rate` is what was held, calls a second."""

    candidate: str
    round: int
    asked_rate: float
    rate: float
    p50_ms: float
    p99_ms: float
    faults: tuple[str, ...] = ()


def take_paced_turns(
    entrants: list[Entrant], rates: dict[str, float], rounds: int, seconds: float, directory: Path
) -> list[Paced]:
    """`rates`: the saturating ones."""
    return [
        take_paced_turn(entrant, number, rates[entrant.candidate.name] / 2, seconds, directory)
        for number in range(rounds)
        for entrant in entrants
    ]


def take_paced_turn(entrant: Entrant, number: int, rate: float, seconds: float, directory: Path) -> Paced:
    sent, log = directory / "paced.json", directory / "paced.log"
    sent.write_text(body(2))
    log.unlink(missing_ok=True)
    headers = [f"-H{name}: {value}" for name, value in {**HEADERS, "x-api-key": KEY}.items()]
    pace = (f"--rps={rate / CONNECTIONS:.3f}", f"--duration={round(1_000 * seconds)}ms")
    options = ("--h1", "-t1", f"-c{CONNECTIONS}", *pace, f"--log-file={log}", f"-d{sent}", *headers)
    command = pinned(str(LOADS_CORE), "h2load", *options, entrant.url)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if not log.exists():
        raise RuntimeError(f"h2load said: {done.stdout}{done.stderr}")
    if entrant.process:
        entrant.process.forget_log()
    paced = _read(entrant.candidate.name, number, rate, log, done.stdout)
    for fault in paced.faults:
        print(f"FAULT: {paced.candidate}, at {rate:.0f} a second, round {number + 1}: {fault}", file=sys.stderr)
    return paced


def _read(name: str, number: int, rate: float, log: Path, said: str) -> Paced:
    """From the log's lines: when a call began, its status, how long it took; both times in microseconds."""
    calls = [tuple(map(int, line.split("\t")[:3])) for line in log.read_text().splitlines()]
    began = min(start for start, _, _ in calls)
    rest = [call for call in calls if call[0] - began >= WARM_UP_SECONDS * 1e6] or calls
    took = [microseconds / 1_000 for _, _, microseconds in rest]
    span = (max(start for start, _, _ in rest) - min(start for start, _, _ in rest)) / 1e6
    others = sum(status != 201 for _, status, _ in calls)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
    faults = [f"{others} answers of another status"] if others else []
    if failed and int(failed[2]) + int(failed[3]):
        faults.append(failed[0])
    held = len(rest) / max(span, 1e-6)
    cuts = quantiles(took, n=100)
    return Paced(name, number, rate, held, cuts[49], cuts[98], tuple(faults))
