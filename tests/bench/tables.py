"""A run in words: a table a scenario, a small one for the README, and the goals."""

from collections.abc import Iterator, Sequence
from statistics import median

from tests.bench.candidates import CANDIDATES
from tests.bench.figures import Results, Spread, cpu_of, ratio_of
from tests.bench.goals import judge_all
from tests.bench.scenarios import SCENARIOS

COLUMNS = (
    "1 to 1,024: connections, each call with two device IDs; the others at 32 connections. Errors: 10 % of the calls "
    "with a key that v2 refuses, 5 % without a user. Heads differ: each call has its own x-request-id."
)
"""What stands over the columns of the small table."""

Row = Sequence[str]
TITLES = {candidate.name: candidate.title for candidate in CANDIDATES}


def table(head: Row, rows: Sequence[Row]) -> list[str]:
    """As Markdown that is read as well without being set: first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    bars = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [_line(head, widths), f"| {' | '.join(bars)} |", *(_line(row, widths) for row in rows)]


def _line(row: Row, widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return f"| {' | '.join(cells)} |"


def whole(results: Results) -> str:
    """All of it."""
    parts = [
        f"{results.machine.label()}\ncommit {results.machine.commit}, {results.rounds} rounds of {results.seconds:g} s"
    ]
    parts += ["\n".join(part) for part in _scenarios(results)]
    parts += [
        "\n".join(part) for part in (_paced(results), _memory(results), _workers(results), goals(results)) if part
    ]
    if results.faults:
        parts.append("\n".join(("FAULTS", *results.faults)))
    return "\n\n".join(parts) + "\n"


def readme(results: Results) -> str:
    """CPU a request, and its ratio to nginx + njs's: candidates by scenarios; and the goals."""
    scenarios = [scenario for scenario in SCENARIOS if any(turn.scenario == scenario.name for turn in results.turns)]
    heads = ["CPU µs a request (× nginx + njs)", *(scenario.column for scenario in scenarios)]
    rows = [
        [TITLES[name], *(_cell(results, name, scenario.name) for scenario in scenarios)]
        for name in _taking_part(results)
        if any(cpu_of(results, name, scenario.name) for scenario in scenarios)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in results.machine.versions.items())
    told = f"{results.machine.label()}, commit {results.machine.commit}; {versions}."
    return "\n".join((told, "", *table(heads, rows), "", COLUMNS, "", *goals(results))) + "\n"


def goals(results: Results) -> list[str]:
    rows = [(each.goal, each.limit, each.figure, each.verdict) for each in judge_all(results)]
    return table(("goal", "at most", "found", "verdict"), rows)


def _cell(results: Results, name: str, scenario: str) -> str:
    cpu, ratio = cpu_of(results, name, scenario), ratio_of(results, name, scenario)
    if cpu is None:
        return "–"
    return f"{cpu.median:,.1f}" + (f" ({ratio.median:.2f})" if ratio else "")


def _taking_part(results: Results) -> list[str]:
    took_part = {turn.candidate for turn in results.turns}
    return [candidate.name for candidate in CANDIDATES if candidate.name in took_part]


def _scenarios(results: Results) -> Iterator[list[str]]:
    head = ("candidate", "CPU µs a request", "× nginx + njs", "requests/s", "p50 ms", "p99 ms", "MB")
    for scenario in SCENARIOS:
        names = [name for name in _taking_part(results) if results.of(name, scenario.name)]
        if names:
            yield [scenario.title, "", *table(head, [_row(results, name, scenario.name) for name in names])]


def _row(results: Results, name: str, scenario: str) -> Row:
    turns = results.of(name, scenario)
    resident = [turn.resident_mb for turn in turns if turn.resident_mb is not None]
    return (
        TITLES[name] + (" (faults!)" if any(turn.faults for turn in turns) else ""),
        _spread(cpu_of(results, name, scenario), 1),
        _spread(ratio_of(results, name, scenario), 2),
        f"{median(turn.rate for turn in turns):,.0f}",
        f"{median(turn.p50_ms for turn in turns):.2f}",
        f"{median(turn.p99_ms for turn in turns):.2f}",
        f"{max(resident):.0f}" if resident else "–",
    )


def _spread(found: Spread | None, digits: int) -> str:
    if found is None:
        return "–"
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f} to {found.most:,.{digits}f})"


def _paced(results: Results) -> list[str]:
    rows = []
    for name in dict.fromkeys(each.candidate for each in results.paced):
        own = [each for each in results.paced if each.candidate == name]
        figures = (median(e.asked_rate for e in own), median(e.rate for e in own))
        p50, p99 = median(e.p50_ms for e in own), median(e.p99_ms for e in own)
        title = TITLES[name] + ("" if all(each.held for each in own) else " (not held)")
        rows.append((title, *(f"{figure:,.0f}" for figure in figures), f"{p50:.2f}", f"{p99:.2f}"))
    head = ("candidate", "asked/s", "held/s", "p50 ms", "p99 ms")
    return ["32 connections, at half of each one's saturating rate", "", *table(head, rows)] if rows else []


def _memory(results: Results) -> list[str]:
    if not results.memory:
        return []
    step = max(1, len(results.memory) // 10)
    samples = [*results.memory[:-1:step], results.memory[-1]]
    rows = [(f"{sample.calls:,}", f"{sample.resident_mb:.1f}") for sample in samples]
    return ["resident memory of one worker", "", *table(("calls", "MB"), rows)]


def _workers(results: Results) -> list[str]:
    """With what bounds it: the load and the stub keep one of two cores busy."""
    rows = [
        (count, f"{median(turn.rate for turn in turns):,.0f}", f"{median(turn.cpu_us or 0 for turn in turns):.1f}")
        for count, turns in results.workers.items()
    ]
    said = (
        f"workers free on {min(2, results.machine.cores)} cores; the stub and wrk need one of them: two workers "
        "share what these leave"
    )
    return [said, "", *table(("workers", "requests/s", "CPU µs a request"), rows)] if rows else []
