"""The README's guide "From v1 to v2 in five steps" as it stands: its settings, its commands and the panels it names.

A shell runs the commands one by one, on free ports. So it does with `verify` as the operations show it.
"""

import json
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple
from xml.etree import ElementTree

import pytest

from proxy.settings import load
from proxy.telemetry import series
from proxy.wire.headers import fallback_status
from tests.processes import ROOT, UNMEASURED, call, eventually

README = (ROOT / "README.md").read_text()
ENDED = "ended with status"
HOUR = timedelta(hours=1)
ENDPOINT = 'endpoint="connect_nox_user"'


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


START, *STEPS = section("From v1 to v2 in five steps").split("\n### ")
VERIFY = section("Operations").partition("**Verify.**")[2].partition("**Stopping.**")[0]


class Block(NamedTuple):
    """A fenced one."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


def commands(block: str) -> list[str]:
    return block.replace("\\\n", "").splitlines()


class Shell:
    """A bash in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        (directory / ".venv").symlink_to(ROOT / ".venv")
        self.popen = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={**os.environ, **UNMEASURED},
        )
        assert self.popen.stdin
        assert self.popen.stdout
        assert self.popen.stderr
        self._in = self.popen.stdin
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.popen.stdout, self.out)),
            threading.Thread(target=self._read, args=(self.popen.stderr, self.err)),
        ]
        for reader in self._readers:
            reader.start()

    def run(self, command: str) -> str:
        """What a command says on standard output. It must end with status 0, and a reload must have come about."""
        mark, before = len(self.out), len(self.err)
        self._in.write(f"{command}\nprintf '\\n{ENDED} %s\\n' $?\n")
        self._in.flush()
        assert eventually(lambda: any(line.startswith(ENDED) for line in self.out[mark:]), within=60), command
        *output, status = self.out[mark:]
        assert status == f"{ENDED} 0\n", (command, output, self.err[before:])
        if "kill -HUP" in command:
            assert eventually(lambda: any("settings reloaded" in line for line in self.err[before:])), self.err[before:]
        return "".join(output)

    def close(self) -> None:
        """Ends what it started, too."""
        self._in.write("kill $(jobs -p) 2>/dev/null; wait\n")
        self._in.close()
        assert self.popen.wait(20) is not None
        for reader in self._readers:
            reader.join(20)

    @staticmethod
    def _read(pipe: IO[str], lines: list[str]) -> None:
        with pipe:
            lines.extend(pipe)


class Reader:
    """Who walks the guide: with a shell, a settings file, and a free port for each port of the README."""

    def __init__(self, directory: Path) -> None:
        self.shell = Shell(directory)
        self.file = directory / "nox-proxy.toml"
        self._tables: dict[str, dict[str, str]] = {}
        self._ports: dict[str, str] = {}
        self.write('listen = "127.0.0.1:8080"\nadmin_listen = "127.0.0.1:9464"\n')  # as the defaults

    def write(self, fragment: str) -> None:
        """Adds each line to the file, or puts it in the place of the one with the same name."""
        table = self._tables.setdefault("", {})
        entry = r"^(\[.+\])$|^(\w+) = (.*(?:\n[ \]].*)*)"
        for header, name, value in re.findall(entry, self.placed(fragment), re.MULTILINE):
            if header:
                table = self._tables.setdefault(header, {})
            else:
                table[name] = value
        lines = [
            line for header, its in self._tables.items() for line in (header, *(f"{n} = {v}" for n, v in its.items()))
        ]
        self.file.write_text("\n".join(lines))
        load(self.file)

    def run(self, command: str) -> str:
        return self.shell.run(self.placed(command))

    def placed(self, text: str) -> str:
        """With the ports that are free here, and a brownout that runs now."""
        text = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: self.address(found[1]), text)
        for name, at in (("start", datetime.now(UTC) - HOUR), ("end", datetime.now(UTC) + HOUR)):
            text = re.sub(rf"^{name} = .*", f"{name} = {at:%Y-%m-%dT%H:%M:%SZ}", text, flags=re.MULTILINE)
        return text

    def address(self, port: str) -> str:
        return f"127.0.0.1:{self._ports.setdefault(port, str(free_port()))}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series with these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = call(self.address("9464"), method="GET", path="/metrics").body.decode().splitlines()
        named = [line for line in lines if line.startswith(name) and all(each in line for each in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in named)

    def requests(self, manufacturer: str, upstream: str) -> float:
        return self.metric("nox_proxy_requests_total", manufacturer=manufacturer, upstream=upstream)


def free_port() -> int:
    """Of those that the kernel gives to nobody by itself, for it is taken a second later."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    running = Reader(tmp_path)
    yield running
    running.shell.close()


def all_on_v1(reader: Reader, _: str) -> None:
    assert reader.metric("nox_proxy_rollout_v2_ratio") == 0
    assert reader.requests("probe", "v1") > 0
    assert reader.metric("nox_proxy_requests_total", upstream="v2") == 0


def some_are_compared(reader: Reader, _: str) -> None:
    for number in range(100):
        body = json.dumps({"manufacturer_user_id": f"walker-{number}"}).encode()
        assert call(reader.address("8080"), body, {"x-api-key": "demo-key"}).status == 201
    compared = "nox_proxy_shadow_comparisons_total"
    assert eventually(lambda: reader.metric(compared, verdict="match") > 0)
    assert reader.metric(compared) == reader.metric(compared, verdict="match") < 50


def one_key_and_few_users_are_on_v2(reader: Reader, said: str) -> None:
    assert "28 same, 0 differs" in said
    assert reader.metric("nox_proxy_rollout_v2_ratio") == 0.01
    assert reader.requests("probe", "v2") > 20
    assert reader.requests("acme", "v2") == 0


def all_on_v2(reader: Reader, _: str) -> None:
    assert reader.metric("nox_proxy_rollout_v2_ratio") == 1
    assert reader.requests("acme", "v2") > 20


def it_is_over(_: Reader, said: str) -> None:
    answer = said.lower().partition("http/1.1 ")[2]
    assert answer.startswith("410 gone")
    assert "endpoint_brownout" in answer
    assert all(f"\n{name}: " in answer for name in ("retry-after", "deprecation", "sunset"))


SEEN: dict[str, Callable[[Reader, str], None]] = {
    "1. Pass-through": all_on_v1,
    "2. Shadow": some_are_compared,
    "3. Canary": one_key_and_few_users_are_on_v2,
    "4. Full": all_on_v2,
    "5. Brownout and sunset": it_is_over,
}
"""The steps, and what is so after each."""


def test_the_guide_is_walked(reader: Reader) -> None:
    """A settings file that is not valid ends it, as does a command with another status than 0."""
    for command in commands(blocks(START)[0].text):
        reader.run(command)
    for step in STEPS:
        said = ""
        for block in blocks(step):
            if block.language == "toml":
                reader.write(block.text)
            else:
                said += "".join(map(reader.run, commands(block.text)))
        SEEN[step.partition("\n")[0]](reader, said)
    reader.run("wait")


def test_each_step_is_whole() -> None:
    """Settings, a command, a look at a board and a way back."""
    assert [step.partition("\n")[0] for step in STEPS] == [*SEEN]
    for step in STEPS:
        assert {block.language for block in blocks(step)} == {"toml", "sh"}
        assert "**Look at** *" in step
        assert "**Back:**" in step


def test_the_readme_names_what_there_is_to_see() -> None:
    """Each series, and the header of a fallback."""
    named = re.findall(r"(?:nox_proxy|…)_\w+", README)
    exported = {its.name for its in vars(series).values() if isinstance(its, series.Series) if "proxy" in its.name}
    assert [name for name in exported if not any(name.endswith(each.removeprefix("…")) for each in named)] == []
    name, value = fallback_status("connection_refused")
    assert f"`{name.decode().title()}: {value.decode()}`" in README


def test_the_boards_have_what_the_guide_looks_at() -> None:
    boards = [json.loads(file.read_text()) for file in (ROOT / "grafana/dashboards").glob("*.json")]
    titles = {board["title"].removeprefix("nox-proxy / ") for board in boards}
    panels = {panel["title"] for board in boards for panel in board["panels"]}
    named = {" ".join(name.split()) for step in STEPS for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", step)}
    assert len(named) > 10
    assert named <= titles | panels
    assert named & titles == titles


def test_verify_as_the_operations_show_it(reader: Reader) -> None:
    """First what is recorded by it, then that again."""
    first, second = (commands(block.text) for block in blocks(VERIFY))
    _, simulate_v2 = commands(blocks(START)[0].text)
    for command in (second[0], simulate_v2):
        reader.run(command)
    settings, begin = blocks(STEPS[0])
    reader.write(settings.text)
    for command in commands(begin.text)[:-1]:
        reader.run(command)
    *_, checked, compared = map(reader.run, first)
    assert "passed: " in checked
    assert json.loads(compared)["verdict"] == "passed"
    written = ElementTree.parse(reader.file.with_name("verify.xml"))
    assert (len(written.findall(".//testcase")) > 50, written.findall(".//failure")) == (True, [])
    assert "calls of the file" in reader.run(second[1])
