"""The README's first command, and the commands it names."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.canary import SETTINGS, SHARES, USERS, Canary
from proxy.demo.play import Demo
from proxy.demo.processes import fetch
from proxy.demo.steps import STEPS
from proxy.setting_sections import (
    BreakerSettings,
    BrownoutSettings,
    DeprecationSettings,
    ManufacturerSettings,
    RolloutSettings,
    ShadowSettings,
    UpstreamSettings,
)
from proxy.settings import Settings
from tests.processes import DEADLINE, ROOT, Proxy, Simulator, call

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def shown() -> Iterator[str]:
    """What the demo shows, run as it is, in this checkout's own environment, and still up. Its status must be 0."""
    kept = subprocess.Popen(
        [ROOT / ".venv/bin/nox-proxy", "demo", "--keep"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert kept.stdout is not None
    with kept.stdout:
        lines = []
        for line in kept.stdout:
            lines.append(line)
            if line == "Ctrl-C ends both.\n":
                break
        yield "".join(lines)
        kept.send_signal(signal.SIGINT)
        assert kept.wait(DEADLINE) == 0


def test_the_demo_keeps_every_promise(shown: str) -> None:
    assert f"{len(STEPS)} of {len(STEPS)} answers as promised" in shown
    assert shown.count("as promised\n") == len(STEPS) + 2
    assert "NOT" not in shown


def test_its_canary_moves_everybody_there_and_back(shown: str) -> None:
    """Each share is near to what was set, nobody moves back while it rises, and no call fails."""
    rows = [
        tuple(map(float, found))
        for found in re.findall(r"^ +(\d+) +(\d+) +(\d+) +([\d.]+) % +(\d+) +(\d+)$", shown, re.MULTILINE)
    ]
    assert [row[0] for row in rows] == [*SHARES] == [0, 1, 10, 50, 100, 0]
    assert all(v1 + v2 == len(USERS) and seen == 100 * v2 / len(USERS) for _, v1, v2, seen, _, _ in rows)
    assert [abs(percent - seen) < 4 for percent, _, _, seen, _, _ in rows] == [True] * 6
    assert [back for *_, back, _ in rows] == [0] * 5 + [len(USERS)]
    assert [errors for *_, errors in rows] == [0] * 6


def test_the_demo_says_when_a_promise_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.demo.play.STEPS", (STEPS[0]._replace(status=200), STEPS[2]._replace(error_code="other")))
    with Demo() as running:
        assert [played.as_promised for played in running.play()] == [False, False]


def test_a_canary_that_moves_users_back_breaks_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does one in which v2 differs where it should not."""
    monkeypatch.setattr("proxy.demo.canary.SETTINGS", f'{SETTINGS}sticky_by = "none"\n')
    monkeypatch.setattr("proxy.demo.canary.SHARES", (40, 60))
    monkeypatch.setattr("proxy.demo.canary.NEAR", 50.0)
    with Canary() as canary:
        first, second = canary.move()
        assert (first.moved_back, first.as_promised) == (0, True)
        assert (second.moved_back > 0, second.as_promised) == (True, False)
        fetch(canary.v2, "/_simulator/fault", "PUT", body="mismatch")
        first_round, second_round = canary.shadow()
        assert (first_round.verdicts, first_round.as_promised) == ({"mismatch": 100}, False)
        assert second_round.as_promised


BROKEN = """
import sys
from proxy.cli import main
from proxy.demo import canary, play
play.STEPS, canary.SHARES, canary.USERS, canary.NEAR = play.STEPS[:1], (0, 50), ("user-1",), 0
sys.argv = ["nox-proxy", "demo"]
main()
"""


def test_the_demo_ends_with_1_where_its_canary_breaks_a_promise() -> None:
    """Half of one user is not to be had."""
    ended = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "1 of 1 answers as promised" in ended.stdout
    assert "3 of 4 steps as promised" in ended.stdout


def test_the_demo_stays_up_for_curl(shown: str) -> None:
    address = re.search(r"curl -i http://([^/]+)/", shown)
    share = re.search(r"share stands in (\S+):", shown)
    assert address
    assert share
    assert call(address[1], b'{"manufacturer_user_id": "me"}', {"x-api-key": "demo-key"}).status == 201
    assert "\nv2_percent = 0\n" in Path(share[1]).read_text()


def test_a_demo_that_is_ended_leaves_no_process_behind() -> None:
    demo = subprocess.Popen(
        [ROOT / ".venv/bin/nox-proxy", "demo"], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert demo.stdout is not None
    assert demo.stdout.readline().startswith("an old integration")
    demo.terminate()
    assert demo.wait(DEADLINE) == 130
    demo.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nor_does_one_that_is_ended_as_it_starts(number: signal.Signals) -> None:
    """In the very moment in which its first child is there."""
    demo = subprocess.Popen(
        [ROOT / ".venv/bin/nox-proxy", "demo"], stdout=subprocess.DEVNULL, cwd=ROOT, start_new_session=True
    )
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children")
    while not children.read_text():
        assert demo.poll() is None
    demo.send_signal(number)
    assert demo.wait(DEADLINE) == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker}[^>]*-->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, marker
    return found[1]


def test_the_readme_shows_the_demos_real_output(shown: str) -> None:
    """Line by line, but for what differs in every run."""

    def still(text: str) -> list[str]:
        text = re.sub(r'"timestamp":\d+', '"timestamp":0', text)
        text = re.sub(r"\d\d:\d\d:\d\d UTC", "00:00:00 UTC", text)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text)
        text = re.sub(r"retry-after: \d+", "retry-after: 0", text)
        return re.sub(r"nox_[0-9a-f]{32}", "nox_0", text).splitlines()

    lines = still(shown)
    assert [line for line in still(block("output of ./deploy/demo")) if line != "…" and line not in lines] == []


def test_the_readme_shows_the_end_of_a_run() -> None:
    shown = block("output of ./tests/run")
    assert re.search(r"^\d+ passed in ", shown, re.MULTILINE)
    assert re.search(r"^TOTAL +(\d+ +){4}\d+%$", shown, re.MULTILINE)


def test_the_readme_shows_the_defaults() -> None:
    assert Settings(**tomllib.loads(block("settings"))) == Settings()
    named = set(re.findall(r"^(?:# )?(\w+) =", block("settings"), re.MULTILINE))
    sections = (
        Settings,
        UpstreamSettings,
        BreakerSettings,
        DeprecationSettings,
        BrownoutSettings,
        RolloutSettings,
        ShadowSettings,
        ManufacturerSettings,
    )
    tables = {"upstreams", "breaker", "changes", "manufacturers", "brownouts", "shadow"}
    assert named == {name for its in sections for name in its.model_fields} - tables | {"device_ids"}


def test_the_readmes_commands(tmp_path: Path) -> None:
    """Each command line of the section "Run it" and of the operations, on free ports."""
    assert "./deploy/venv otel" in README
    assert ".venv/bin/python -m tests.bench.scrape" in README
    for line in ("check --config nox-proxy.toml", "serve --config nox-proxy.toml", "simulate v2 --listen", "hash-key"):
        assert f".venv/bin/nox-proxy {line}" in README
    command = str(ROOT / ".venv/bin/nox-proxy")
    (tmp_path / "nox-proxy.toml").write_text(block("settings"))
    subprocess.run([command, "check", "--config", "nox-proxy.toml"], cwd=tmp_path, check=True, capture_output=True)

    v2 = Simulator()
    proxy = Proxy(v2.url, "--config", str(tmp_path / "nox-proxy.toml"))
    try:
        curl = next(text for text in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "curl -i" in text)
        line = curl[curl.index("curl -i") :].replace("127.0.0.1:8080", proxy.address)
        answered = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
        assert answered.startswith("HTTP/1.1 201 Created")
        fault = re.search(r"`(curl -X PUT [^`]+)`", README)
        assert fault
        order = fault[1].replace("127.0.0.1:9002", v2.address)
        subprocess.run(["bash", "-c", order], check=True, capture_output=True)
        assert call(v2.address, method="DELETE", path="/_simulator/fault").status == 204
    finally:
        proxy.stop()
        v2.stop()

    hashed = re.search(r"^(printf %s .* hash-key)", README, re.MULTILINE)
    assert hashed
    env = {**os.environ, "API_KEY": "demo-key"}
    shown = subprocess.run(["bash", "-c", hashed[1]], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[0-9a-f]{64}\n", shown.stdout)


def test_the_locks_are_exact_hashed_and_name_no_registry(tmp_path: Path) -> None:
    """Those that are there, and those that `./deploy/lock` writes."""
    copy = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", copy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    env = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
    subprocess.run([copy / "lock"], env=env, capture_output=True, timeout=120, check=True)
    for lock in (*ROOT.glob("deploy/*.txt"), *copy.glob("*.txt")):
        text = lock.read_text()
        packages = re.findall(r"^\S+==\S+.*\\$", text, re.MULTILINE)
        assert len(packages) >= 29
        assert (
            re.sub(r"^(\S+==\S+.*\\|    --hash=sha256:[0-9a-f]{64}( \\)?)$", "", text, flags=re.MULTILINE).split() == []
        )
        assert "://" not in text


def test_an_environment_made_from_the_lock_is_enough(tmp_path: Path) -> None:
    """`./deploy/demo` in a copy without .venv: all that a new user has."""
    copy = tmp_path / "nox-proxy"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "node_modules", ".*_cache", "__pycache__")
    )
    shown = subprocess.run(["./deploy/demo"], cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "answers as promised" in shown.stdout
    again = subprocess.run(["./deploy/venv"], cwd=copy, capture_output=True, text=True, timeout=60, check=True)
    assert again.stderr == ""
    assert not (copy / ".venv/deploy/requirements-dev.txt").exists()
    subprocess.run(["./deploy/venv", "otel"], cwd=copy, capture_output=True, timeout=300, check=True)
    subprocess.run([".venv/bin/python", "-c", "import proxy.telemetry.spans"], cwd=copy, check=True)
