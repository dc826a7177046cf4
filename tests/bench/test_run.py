"""That the benchmark of a call's cost runs, from the load to the picture; its figures are nobody's to fail."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.candidates import CANDIDATES
from tests.bench.figures import Results
from tests.bench.goals import GOALS, Goal, judge
from tests.bench.machine import Machine
from tests.bench.running import MODULES
from tests.bench.scenarios import SCENARIOS
from tests.bench.tables import table
from tests.bench.turns import Turn
from tests.bench.wrk import write_script
from tests.processes import ROOT

MACHINE = Machine("2026-01-01T00:00:00+00:00", "abc", "a cpu", 2, "6.1", "3.11", {})


@pytest.fixture
def _peers(need: Callable[[str], str]) -> None:
    for program in ("nginx", "wrk", "taskset"):
        need(program)
    for module in ("ngx_http_js_module.so", "ngx_http_lua_module.so"):
        if not Path(MODULES, module).exists():
            assert not os.environ.get("CI"), f"{module} is missing: .ci/run must install it"
            pytest.skip(f"{module} is not installed; .ci/run installs it")


@pytest.mark.usefixtures("_peers")
def test_a_tiny_run(tmp_path: Path) -> None:
    """All candidates, with every part of a whole run. A turn so short may leave the slowest without an answer."""
    arguments = ("--rounds=1", "--seconds=0.4", "--scenario=32,errors", "--calls=500", f"--out={tmp_path}")
    command = (sys.executable, "-m", "tests.bench", *arguments)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    faults = [line for line in done.stderr.splitlines() if line.startswith("FAULT") and not line.endswith("no answer")]
    assert (done.returncode in (0, 1), faults) == (True, []), done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    took_part = [(each["scenario"], each["candidate"]) for each in found["turns"]]
    assert took_part == [
        (scenario, each.name)
        for scenario in ("32", "errors")
        for each in CANDIDATES
        if scenario == "32" or each.tells_errors
    ]
    for each in found["turns"]:
        assert (each["cpu_us"] is None) == (each["candidate"] == "direct" or not each["answered"]), each
    paced = {each["candidate"] for each in found["paced"]}
    assert paced == {each["candidate"] for each in found["turns"] if each["scenario"] == "32" and each["answered"]}
    assert found["memory"][-1]["calls"] >= 500
    assert found["workers"].keys() == {"1", "2"}
    assert found["machine"]["versions"]["nginx"] != "unknown"
    text = (tmp_path / "bench.txt").read_text()
    assert all(each.title in text for each in (*CANDIDATES, SCENARIOS[1]))
    assert text.strip() == done.stdout.strip()
    assert all(goal.text in (tmp_path / "bench.md").read_text() for goal in GOALS)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def turn(candidate: str, number: int, cpu_us: float, scenario: str = "32") -> Turn:
    return Turn(scenario, candidate, number, 1_000, 1.0, cpu_us, 1.0, 2.0, 50.0)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ((8.0, 18.0, 90.0), ("0.90", "met")),
        ((10.0, 22.0, 90.0), ("1.00", "missed by 11 %")),
        ((), ("–", "not measured")),
    ],
)
def test_a_goal_is_judged_by_the_median_of_the_rounds(ours: tuple[float, ...], said: tuple[str, str]) -> None:
    """Each round's figure is told against the same round's of nginx + njs."""
    theirs = [turn("njs", number, cpu) for number, cpu in enumerate((10.0, 20.0, 90.0))]
    turns = [turn("ours", number, cpu) for number, cpu in enumerate(ours)]
    verdict = judge(GOALS[0], Results(MACHINE, 3, 5.0, [*turns, *theirs]))
    assert (verdict.figure, verdict.verdict) == said


def test_a_goal_without_a_limit_is_said() -> None:
    verdict = judge(Goal("calls", lambda results: float(results.rounds), None), Results(MACHINE, 3, 5.0, []))
    assert (verdict.limit, verdict.figure, verdict.verdict) == ("said", "3.00", "measured")


def test_growth_is_told_against_the_peers_own() -> None:
    few = [turn("ours", 0, 10.0), turn("njs", 0, 10.0)]
    many = [turn("ours", 0, 15.0, "1024"), turn("njs", 0, 20.0, "1024")]
    goal = next(goal for goal in GOALS if goal.text.startswith("growth"))
    assert judge(goal, Results(MACHINE, 1, 5.0, [*few, *many])).figure == "0.75"


def test_a_table_is_markdown() -> None:
    assert table(("who", "what"), [("a", "1"), ("bcd", "22")]) == [
        "| who | what |",
        "| --- | ---: |",
        "| a   |    1 |",
        "| bcd |   22 |",
    ]


def test_a_mix_holds_its_shares() -> None:
    """Of a cycle of twenty: seventeen good, two with a bad key, one without a user."""
    script = write_script(next(scenario for scenario in SCENARIOS if scenario.has_errors))
    made = [line for line in script.splitlines() if line.startswith("made[")]
    assert len(made) == 20
    assert script.count('"bad-key"') == 2
    assert sum("manufacturer_user_id" not in line for line in made) == 1
