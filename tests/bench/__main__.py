"""What a call costs, beside who else could take it: the whole run, or what the arguments leave of it.

./tests/bench/run
"""

import argparse
import contextlib
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.bench import chart, forms, tables
from tests.bench.candidates import CANDIDATES, Candidate, start_stub
from tests.bench.figures import Results
from tests.bench.long_runs import BURST_SECONDS, CALLS, compare_workers, watch_memory
from tests.bench.machine import look
from tests.bench.paced import take_paced_turns
from tests.bench.running import Place
from tests.bench.scenarios import SCENARIOS, TYPICAL, Scenario
from tests.bench.turns import Entrant, Turn, take_turns

RESULTS = Path(__file__).parent / "results"
FILES = 16_384
"""1,024 connections need more than the usual 1,024 files."""


class Options(argparse.Namespace):
    """The arguments."""

    rounds: int
    seconds: float
    only: list[str]
    scenario: list[str]
    short: bool
    calls: int
    out: Path


def read_arguments(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="What a call costs, beside its peers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--only", type=_names, default=[], help=",".join(each.name for each in CANDIDATES))
    parser.add_argument("--scenario", type=_names, default=[], help=",".join(each.name for each in SCENARIOS))
    parser.add_argument("--short", action="store_true", help="without half rates, memory and two workers")
    parser.add_argument("--calls", type=int, default=CALLS, help="over which memory is watched")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results' directory")
    return parser.parse_args(arguments, Options())


def _names(text: str) -> list[str]:
    return text.split(",")


@contextlib.contextmanager
def entered(candidates: Sequence[Candidate]) -> Iterator[tuple[Place, list[Entrant]]]:
    """All of them up, beside a stub v2, and their answers looked at."""
    with tempfile.TemporaryDirectory(prefix="nox-bench-") as directory, contextlib.ExitStack() as started:
        stub = start_stub(Place(Path(directory)))
        started.callback(stub.stop)
        place = Place(Path(directory), stub.address)
        entrants = []
        for candidate in candidates:
            process = candidate.start(place) if candidate.start else None
            if process:
                started.callback(process.stop)
            entrants.append(Entrant(candidate, process, process.address if process else stub.address))
            forms.check(candidate, entrants[-1].address)
        yield place, entrants


def measure(options: Options) -> Results:
    """The whole run, as far as the arguments want it."""
    candidates = [each for each in CANDIDATES if not options.only or each.name in options.only]
    scenarios = [each for each in SCENARIOS if not options.scenario or each.name in options.scenario]
    with entered(candidates) as (place, entrants):
        turns = _take_all(scenarios, entrants, options, place.directory)
        results = Results(look(), options.rounds, options.seconds, turns)
        if options.short:
            return results
        rates = results.rates(TYPICAL.name)
        _say("at half rates")
        at_half = take_paced_turns(TYPICAL, entrants, rates, options.rounds, options.seconds, place.directory)
        _say(f"memory over {options.calls:,} calls")
        memory = watch_memory(place, options.calls, min(BURST_SECONDS, options.seconds))
        _say("two workers")
        workers = compare_workers(place, options.rounds, options.seconds)
    return msgspec.structs.replace(results, paced=at_half, memory=memory, workers=workers)


def _take_all(
    scenarios: Sequence[Scenario], entrants: Sequence[Entrant], options: Options, directory: Path
) -> list[Turn]:
    turns: list[Turn] = []
    for scenario in scenarios:
        _say(scenario.title)
        turns += take_turns(scenario, entrants, options.rounds, options.seconds, directory)
    return turns


def _say(what: str) -> None:
    print(f"measuring: {what} …", file=sys.stderr, flush=True)


def write(results: Results, directory: Path) -> None:
    """bench.json, bench.txt, bench.md and bench.png."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    (directory / "bench.txt").write_text(tables.whole(results))
    (directory / "bench.md").write_text(tables.readme(results))
    chart.draw(results, directory / "bench.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where a turn had faults."""
    options = read_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all that runs is stopped
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most), most))
    results = measure(options)
    write(results, options.out)
    print(tables.whole(results))
    return 1 if results.faults else 0


if __name__ == "__main__":
    sys.exit(main())
