"""The turns: A B C … A B C …, each candidate's load and what it spent on it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.candidates import Candidate
from tests.bench.running import Running
from tests.bench.scenarios import Scenario
from tests.bench.wrk import press

WARM_UP_SECONDS = 1.0


class Turn(msgspec.Struct, frozen=True):
    """One candidate's turn. `cpu_us` is CPU microseconds a request; None where nobody stands between, or answered."""

    scenario: str
    candidate: str
    round: int
    answered: int
    seconds: float
    cpu_us: float | None
    p50_ms: float
    p99_ms: float
    resident_mb: float | None
    faults: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.answered / self.seconds


class Entrant(msgspec.Struct, frozen=True):
    """A candidate that runs; `process` is None for the load straight to the stub."""

    candidate: Candidate
    process: Running | None
    address: str

    @property
    def url(self) -> str:
        return f"http://{self.address}{self.candidate.path}"


def take_turns(
    scenario: Scenario, entrants: Sequence[Entrant], rounds: int, seconds: float, directory: Path
) -> list[Turn]:
    """Before its first turn each is warmed up."""
    turns: list[Turn] = []
    for number in range(rounds):
        for entrant in entrants:
            if scenario.has_errors and not entrant.candidate.tells_errors:
                continue
            if number == 0:
                press(scenario, entrant.url, min(WARM_UP_SECONDS, seconds), directory)
                if entrant.process:
                    entrant.process.becomes_quiet()
            turns.append(take_turn(scenario, entrant, number, seconds, directory))
    return turns


def take_turn(scenario: Scenario, entrant: Entrant, number: int, seconds: float, directory: Path) -> Turn:
    process, name = entrant.process, entrant.candidate.name
    before = process.cpu_seconds() if process else 0.0
    load = press(scenario, entrant.url, seconds, directory)
    spent = process.cpu_seconds() - before if process else 0.0
    faults = load.faults
    if process:
        process.forget_log()
        if not process.becomes_quiet():
            faults = (*faults, "still busy long after its turn")
    for fault in faults:
        print(f"FAULT: {name}, {scenario.title}, round {number + 1}: {fault}", file=sys.stderr)
    return Turn(
        scenario=scenario.name,
        candidate=name,
        round=number,
        answered=load.answered,
        seconds=load.seconds,
        cpu_us=spent * 1e6 / load.answered if process and load.answered else None,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        resident_mb=process.resident_mb() if process else None,
        faults=faults,
    )
