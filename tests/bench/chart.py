"""A run as a picture: CPU a request by candidate, in three scenarios side by side."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: no display is there

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.bench.candidates import CANDIDATES
from tests.bench.figures import Results, Spread, cpu_of, ratio_of

SHOWN = {"32": "32 connections", "256": "256 connections", "100_ids": "32 connections, 100 device IDs"}
CUT = ("httpx", "naive")
"""So far from the others that their bars end at the edge, with their figures."""
OURS, OTHERS, BELOW = "#1f6f54", "#9aa5ad", "#d5dade"
COLOURS = {"ours": OURS, "features_off": BELOW, "floor": BELOW}


def draw(results: Results, path: Path) -> None:
    """With machine and date."""
    scenarios = [name for name in SHOWN if any(turn.scenario == name for turn in results.turns)]
    figure, axes = plt.subplots(1, max(1, len(scenarios)), figsize=(5.2 * max(1, len(scenarios)), 4.2), squeeze=False)
    for place, (axis, scenario) in enumerate(zip(axes[0], scenarios, strict=False)):
        _draw(results, scenario, axis, named=place == 0)
    figure.suptitle("CPU microseconds a request (in brackets: × nginx + njs); less is better", fontsize=12)
    figure.text(0.5, 0.01, f"{results.machine.label()}, commit {results.machine.commit}", ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 0.98))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(results: Results, scenario: str, axis: Axes, *, named: bool) -> None:
    found = [(each, cpu) for each in CANDIDATES if (cpu := cpu_of(results, each.name, scenario))]
    shown = [cpu.most for each, cpu in found if each.name not in CUT]
    edge = 1.3 * max(shown or [cpu.most for _, cpu in found])
    for row, (each, cpu) in enumerate(found):
        axis.barh(row, min(cpu.median, edge), color=COLOURS.get(each.name, OTHERS), xerr=_whiskers(cpu, edge))
        ratio = ratio_of(results, each.name, scenario)
        text = f"{cpu.median:,.0f}" + (f" ({ratio.median:.2f})" if ratio else "") + (" →" if cpu.median > edge else "")
        is_inside = cpu.most > 0.7 * edge
        place = min(cpu.least, edge) if is_inside else cpu.most
        axis.annotate(
            text,
            (place, row),
            xytext=(-5 if is_inside else 5, 0),
            textcoords="offset points",
            ha="right" if is_inside else "left",
            va="center",
            fontsize=9,
            color="white" if is_inside and each.name == "ours" else "black",
        )
    axis.set_yticks(range(len(found)), [each.title if named else "" for each, _ in found])
    axis.invert_yaxis()
    axis.set_xlim(0, edge)
    axis.set_title(SHOWN[scenario], fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _whiskers(cpu: Spread, edge: float) -> list[list[float]] | None:
    if cpu.median > edge:
        return None
    return [[cpu.median - cpu.least], [cpu.most - cpu.median]]
