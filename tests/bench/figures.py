"""A run's figures: medians and spreads of the turns, each against the same round's of another."""

from statistics import median

import msgspec

from tests.bench.long_runs import Sample
from tests.bench.machine import Machine
from tests.bench.paced import Paced
from tests.bench.turns import Turn

AGAINST = "njs"
"""Every CPU figure is told against nginx + njs's too."""


class Results(msgspec.Struct, frozen=True):
    """All that a run found; what was not looked at is empty."""

    machine: Machine
    rounds: int
    seconds: float
    turns: list[Turn]
    paced: list[Paced] = []
    memory: list[Sample] = []
    workers: dict[str, list[Turn]] = {}

    def of(self, candidate: str, scenario: str) -> list[Turn]:
        """Its turns by round."""
        return [turn for turn in self.turns if (turn.candidate, turn.scenario) == (candidate, scenario)]

    def rates(self, scenario: str) -> dict[str, float]:
        """Requests a second, of those who took part."""
        names = dict.fromkeys(turn.candidate for turn in self.turns if turn.scenario == scenario)
        return {name: median(turn.rate for turn in self.of(name, scenario)) for name in names}

    @property
    def faults(self) -> list[str]:
        """All that was not as expected."""
        all_turns = [*self.turns, *(turn for turns in self.workers.values() for turn in turns)]
        told = [f"{turn.candidate}, {turn.scenario}, round {turn.round + 1}" for turn in all_turns for _ in turn.faults]
        said = [fault for turn in all_turns for fault in turn.faults]
        at_rate = [f"{each.candidate} at half rate: {fault}" for each in self.paced for fault in each.faults]
        return [f"{where}: {what}" for where, what in zip(told, said, strict=True)] + at_rate


class Spread(msgspec.Struct, frozen=True):
    """A median over the rounds, the least and the most."""

    median: float
    least: float
    most: float


def spread(values: list[float]) -> Spread | None:
    return Spread(median(values), min(values), max(values)) if values else None


def cpu_of(results: Results, candidate: str, scenario: str) -> Spread | None:
    """CPU microseconds a request."""
    return spread([turn.cpu_us for turn in results.of(candidate, scenario) if turn.cpu_us is not None])


def ratio_of(results: Results, candidate: str, scenario: str, against: str = AGAINST) -> Spread | None:
    """A candidate's CPU a request over another's, round by round."""
    ours = {turn.round: turn.cpu_us for turn in results.of(candidate, scenario)}
    theirs = {turn.round: turn.cpu_us for turn in results.of(against, scenario)}
    pairs = [(ours[number], theirs[number]) for number in ours if number in theirs]
    return spread([one / other for one, other in pairs if one is not None and other])


def paced_p99_ratio(results: Results, candidate: str, against: str = AGAINST) -> Spread | None:
    """p99 at half of each one's saturating rate, round by round."""
    p99s = {(each.candidate, each.round): each.p99_ms for each in results.paced}
    numbers = sorted({each.round for each in results.paced})
    pairs = [(p99s.get((candidate, number)), p99s.get((against, number))) for number in numbers]
    return spread([one / other for one, other in pairs if one is not None and other])
