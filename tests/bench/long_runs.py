"""Two longer looks at nox-proxy alone: its memory over a million calls, and two workers beside one."""

import msgspec

from tests.bench.candidates import CANDIDATES, start_ours
from tests.bench.running import Place
from tests.bench.scenarios import TYPICAL
from tests.bench.turns import Entrant, Turn, take_turn

CALLS = 1_000_000
BURST_SECONDS = 2.0
MOST_BURSTS = 200
"""A machine that answers no more than 2,500 calls a second is not waited for."""

_OURS = next(candidate for candidate in CANDIDATES if candidate.name == "ours")


class Sample(msgspec.Struct, frozen=True):
    """Resident memory after so many calls."""

    calls: int
    resident_mb: float


def watch_memory(place: Place, calls: int = CALLS, seconds: float = BURST_SECONDS) -> list[Sample]:
    """One worker's, at 32 connections; each burst has connections of its own."""
    process = start_ours(place, "memory")
    entrant = Entrant(_OURS, process, process.address)
    samples = [Sample(0, process.resident_mb())]
    try:
        for number in range(MOST_BURSTS):
            turn = take_turn(TYPICAL, entrant, number, seconds, place.directory)
            samples.append(Sample(samples[-1].calls + turn.answered, process.resident_mb()))
            if samples[-1].calls >= calls:
                break
    finally:
        process.stop()
    return samples


def compare_workers(place: Place, rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """One worker and two, free on both cores, while the stub and wrk keep to theirs; in turns."""
    processes = {count: start_ours(place, f"workers_{count}", None, WORKERS=count) for count in ("1", "2")}
    turns: dict[str, list[Turn]] = {count: [] for count in processes}
    try:
        for number in range(rounds):
            for count, process in processes.items():
                entrant = Entrant(_OURS, process, process.address)
                turns[count].append(take_turn(TYPICAL, entrant, number, seconds, place.directory))
    finally:
        for process in processes.values():
            process.stop()
    return turns
