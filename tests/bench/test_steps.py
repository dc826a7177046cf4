"""A call must not come to take more of Python's steps unnoticed: these are counted, not timed."""

import os
import re
import subprocess
import sys

import pytest

from tests.processes import ROOT

MAY_GROW = 1.1
OTHER_PYTHON = 1.3
"""Each version of Python has bytecodes of its own."""

STEPS = {"a known head": 1_919, "a new head": 3_641}
"""On Python 3.11. Whoever makes them fewer writes down the new number; more want a reason."""


@pytest.mark.parametrize("head", STEPS)
def test_a_call_takes_no_more_steps_than_before(head: str) -> None:
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it traces, too
    told = subprocess.run(
        [sys.executable, "-m", "tests.bench.steps"], cwd=ROOT, env=quiet, capture_output=True, text=True, check=True
    ).stdout
    steps = int(re.findall(rf"{head}: (\d+) steps", told)[0])
    most = STEPS[head] * (MAY_GROW if sys.version_info[:2] == (3, 11) else OTHER_PYTHON)
    assert STEPS[head] * 0.8 < steps < most


def test_a_call_leaves_nothing_to_the_garbage_collector() -> None:
    """What it takes comes free with its answer, warm for the next call."""
    program = "import tests.bench.steps as steps; print(steps.garbage_of_calls())"
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told == "{'a known head': 0, 'a new head': 0}\n"
