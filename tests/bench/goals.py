"""The goals of a call's cost, as data, and what a run found of each."""

from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from tests.bench.figures import Results, paced_p99_ratio, ratio_of
from tests.bench.long_runs import CALLS, Sample

Find = Callable[[Results], float | None]
"""The figure that a run gives; None where it did not look."""


class Goal(msgspec.Struct, frozen=True):
    """What `find` gives is to be `limit` at most; without a limit it is measured and said."""

    text: str
    find: Find
    limit: float | None
    unit: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """A goal in words, with its figure."""

    goal: str
    limit: str
    figure: str
    verdict: str


def cpu(scenario: str, against: str, ours: str = "ours") -> Find:
    """CPU a request against another's in the same round, in the median."""

    def find(results: Results) -> float | None:
        found = ratio_of(results, ours, scenario, against)
        return found.median if found else None

    return find


def growth_beyond_njs(results: Results) -> float | None:
    """How CPU a request grows from 32 to 1,024 connections, over how nginx + njs's does."""
    few, many = ratio_of(results, "ours", "32"), ratio_of(results, "ours", "1024")
    return many.median / few.median if few and many else None


def p99_at_half_rate(results: Results) -> float | None:
    found = paced_p99_ratio(results, "ours")
    return found.median if found else None


def memory_at_the_end(results: Results) -> float | None:
    return results.memory[-1].resident_mb if _is_whole(results.memory) else None


def _is_whole(memory: Sequence[Sample]) -> bool:
    return bool(memory) and memory[-1].calls >= CALLS


def memory_growth(results: Results) -> float | None:
    """Over the second half of the calls, in MB."""
    if not _is_whole(results.memory):
        return None
    half = results.memory[-1].calls / 2
    second = [sample.resident_mb for sample in results.memory if sample.calls >= half]
    return second[-1] - second[0]


def two_workers(results: Results) -> float | None:
    """Requests a second of two workers over one's."""
    rates = {count: [turn.rate for turn in turns] for count, turns in results.workers.items()}
    if not rates:
        return None
    return median(two / one for one, two in zip(rates["1"], rates["2"], strict=True))


GOALS = (
    Goal("CPU a request against nginx + njs, 32 connections", cpu("32", "njs"), 0.9),
    Goal("… 256 connections", cpu("256", "njs"), 0.75),
    Goal("… 100 device IDs", cpu("100_ids", "njs"), 0.35),
    Goal("… 1 connection", cpu("1", "njs"), 1.2),
    Goal("against nginx + Lua, 32 connections", cpu("32", "lua"), 1.0),
    Goal("… 256 connections", cpu("256", "lua"), 1.0),
    Goal("… 100 device IDs", cpu("100_ids", "lua"), 1.0),
    Goal("against Envoy + Lua, 32 connections", cpu("32", "envoy"), 0.6),
    Goal("… 256 connections", cpu("256", "envoy"), 0.6),
    Goal("… 100 device IDs", cpu("100_ids", "envoy"), 0.6),
    Goal("against what most would write, 32 connections", cpu("32", "naive"), 1 / 50),
    Goal("against the floor, 32 connections", cpu("32", "floor"), 1.4),
    Goal("growth from 32 to 1,024 connections, against nginx + njs's", growth_beyond_njs, 1.0),
    Goal("p99 at half of the saturating rate, against nginx + njs's", p99_at_half_rate, 1.5),
    Goal("all features against all off, 32 connections", cpu("32", "features_off"), 1.25),
    Goal("resident memory after 1,000,000 calls", memory_at_the_end, 60.0, "MB"),
    Goal("its growth over the second half", memory_growth, 0.5, "MB"),
    Goal("two workers' requests a second against one's", two_workers, None),
)


def judge(goal: Goal, results: Results) -> Verdict:
    found = goal.find(results)
    limit = "said" if goal.limit is None else f"≤ {_written(goal.limit, goal.unit)}"
    if found is None:
        return Verdict(goal.text, limit, "–", "not measured")
    return Verdict(goal.text, limit, _written(found, goal.unit), _verdict(goal, found))


def judge_all(results: Results) -> list[Verdict]:
    return [judge(goal, results) for goal in GOALS]


def _verdict(goal: Goal, found: float) -> str:
    if goal.limit is None:
        return "measured"
    if found <= goal.limit:
        return "met"
    return f"missed by {100 * (found / goal.limit - 1):.0f} %"


def _written(value: float, unit: str) -> str:
    digits = 3 if 0 < value < 0.1 else 2
    return f"{value:.1f} {unit}" if unit else f"{value:.{digits}f}"
