"""How long calls take at half of the rate that each candidate was seen to answer in this run.

wrk sends them at random moments, independent of the answers (see `wrk.py`), as callers who know nothing of each other
do. h2load's --rps holds a rate too, but its clients' timers go off all at once: it would measure heaps of 32 calls.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.bench.scenarios import Scenario
from tests.bench.turns import Entrant
from tests.bench.wrk import press

NEAR = 0.05
"""How far from the rate that was asked a turn may be."""


class Paced(msgspec.Struct, frozen=True):
    """One candidate's turn; `rate` is what was held, calls a second."""

    candidate: str
    round: int
    asked_rate: float
    rate: float
    p50_ms: float
    p99_ms: float
    faults: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return abs(self.rate / self.asked_rate - 1) <= NEAR


def take_paced_turns(
    scenario: Scenario,
    entrants: Sequence[Entrant],
    rates: Mapping[str, float],
    rounds: int,
    seconds: float,
    directory: Path,
) -> list[Paced]:
    """`rates`: the saturating ones, a second."""
    return [
        take_paced_turn(scenario, entrant, number, rates[entrant.candidate.name] / 2, seconds, directory)
        for number in range(rounds)
        for entrant in entrants
        if rates.get(entrant.candidate.name)
    ]


def take_paced_turn(
    scenario: Scenario, entrant: Entrant, number: int, rate: float, seconds: float, directory: Path
) -> Paced:
    load = press(scenario, entrant.url, seconds, directory, rate)
    if entrant.process:
        entrant.process.forget_log()
        entrant.process.becomes_quiet()
    name = entrant.candidate.name
    for fault in load.faults:
        print(f"FAULT: {name}, at {rate:.0f} a second, round {number + 1}: {fault}", file=sys.stderr)
    return Paced(name, number, rate, load.answered / load.seconds, load.p50_ms, load.p99_ms, load.faults)
