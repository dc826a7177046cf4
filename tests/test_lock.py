"""The locks: one version a line with its hashes and no address, alike in all three, and none that was withdrawn.

Known vulnerabilities are not asked for: an index need not know them, and the one that .ci/run is given answers 404
where PyPI tells them. deploy/SECURITY.md says how to ask.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT

LOCKS = sorted((ROOT / "deploy").glob("requirements*.txt"))
DEV = ROOT / "deploy/requirements-dev.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

_LINE = re.compile(r"([a-z0-9-]+)==([a-z0-9.]+)( ; [^\\/\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def pins(lock: Path) -> dict[str, str]:
    """The version and the hashes of each package, as they are written."""
    return {found[1]: f"{found[2]}{found[4]}" for found in _LINE.finditer(lock.read_text())}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_line_is_a_version_with_hashes(lock: Path) -> None:
    assert _LINE.sub("", lock.read_text()) == ""
    assert len(pins(lock)) > 20


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_the_tests_run_on_what_is_deployed(lock: Path) -> None:
    assert pins(lock).items() <= pins(DEV).items()


@pytest.mark.parametrize(
    ("lock", "needed"),
    [
        ("requirements.txt", PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["build"]),
        ("requirements-otel.txt", PROJECT["project"]["optional-dependencies"]["otel"]),
        ("requirements-dev.txt", PROJECT["dependency-groups"]["dev"]),
    ],
)
def test_the_lock_follows_the_project(lock: str, needed: list[str]) -> None:
    """What pyproject.toml asks for and no lock has was never locked: ./deploy/lock."""
    locked = {name: pin.split()[0] for name, pin in pins(ROOT / "deploy" / lock).items()}
    for each in map(Requirement, needed):
        assert each.specifier.contains(locked[canonicalize_name(each.name)]), each


def withdrawn(requirements: Path, target: Path, *options: str) -> list[str]:
    """What of it was withdrawn from the index (PEP 592), in uv's words. Where no index can be had, only CI fails."""
    program = Path(sys.executable).with_name("uv")
    run = subprocess.run(
        [program, "pip", "install", "--dry-run", "--no-deps", "--target", target, "-r", requirements, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "Failed to fetch" in run.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert run.returncode == 0, run.stderr
    return [line for line in run.stderr.splitlines() if "is yanked" in line]


def test_nothing_locked_was_withdrawn(tmp_path: Path) -> None:
    assert withdrawn(DEV, tmp_path, "--require-hashes") == []


def test_what_was_withdrawn_is_found(tmp_path: Path) -> None:
    """One that was, so that the silence above means something."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("urllib3==2.0.0\n")
    (line,) = withdrawn(requirements, tmp_path)
    assert "urllib3==2.0.0" in line
