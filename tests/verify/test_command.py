"""`nox-proxy verify` where it cannot be run, and how it says so."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import Result

from proxy.verify.checks import CHECKS
from proxy.verify.report import Report
from proxy.verify.run import Plan, Run
from proxy.wire.answer import Answer
from tests.processes import ROOT, Proxy, Simulator
from tests.verify.relay import Relay, edited
from tests.verify.runs import KEY, report_of, verify


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"path": "/manufacturers/nox"}\nnonsense\n', "line 2: not a JSON object in UTF-8"),
        ('\n{"path": "/users/u/link"}\n', "line 2: path: of no deprecated endpoint"),
        ("\n\n", "no call in it"),
        (None, "No such file or directory"),
    ],
)
def test_a_bad_file_is_told_before_anything_is_sent(
    url: str, v2: Simulator, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "calls.ndjson"
    if text is not None:
        file.write_text(text)
    v2.forget()
    result = verify("--url", url, "--requests", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"{file}: {said}\n"
    assert v2.calls() == []


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ((), None, "NOX_VERIFY_KEY: must hold an API key"),
        ((), "", "NOX_VERIFY_KEY: must hold an API key"),
        ((), "secret key", "NOX_VERIFY_KEY: must hold an API key"),
        (("--key", "secret"), None, "put the key into"),
        (("--url", "ftp://a"), KEY, "cannot run: not a URL of a host"),
        (("--url", "http://me:secret@a"), KEY, "cannot run: a URL without user"),
        (("--against", "http://a?b"), KEY, "cannot run: a URL without user"),
        (("--ca-file", "/nowhere/ca.pem"), KEY, "cannot run: [Errno 2] No such file"),
        (("--junit", "/nowhere/junit.xml"), KEY, "/nowhere/junit.xml: No such file or directory"),
        (("--user-prefix", 'a"b'), KEY, "--user-prefix: 1 to 64 letters"),
        (("--minimum", "0"), KEY, "--minimum"),
    ],
)
def test_what_is_asked_for_wrongly(arguments: tuple[str, ...], key: str | None, said: str) -> None:
    result = verify("--url", "http://127.0.0.1:1", *arguments, key=key)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("fault", "key", "why"),
    [
        ("status=503", KEY, "the service behind {url} does not answer: 503 service_unavailable"),
        ("close", KEY, "the service behind {url} does not answer: 502 upstream_disconnected"),
        ("status=403", KEY, "{url} refuses the key: 403 forbidden"),
        ("delay=0", "unknown-key", "{url} refuses the key: 401 invalid_api_key"),
    ],
)
def test_a_deployment_that_cannot_be_checked(url: str, v2: Simulator, fault: str, key: str, why: str) -> None:
    with v2.fault(fault):
        result = verify("--url", url, "--json", key=key)
    told = json.loads(result.stdout)
    assert (result.exit_code, told["verdict"], told["checks"]) == (2, "could not run", [])
    assert told["why"] == why.format(url=url)
    assert result.stderr == ""


def test_a_deployment_that_is_switched_off(v2: Simulator, url: str) -> None:
    window = '{"brownouts": [{"start": "2020-01-01T00:00:00Z", "end": "2090-01-01T00:00:00Z"}]}'
    off = Proxy(v2.url, CHANGES__CONNECT_NOX_USER__DEPRECATION=window)
    try:
        for report in (report_of(f"http://{off.address}"), report_of(url, f"http://{off.address}")):
            assert report.verdict == "could not run"
            assert report.why == f"http://{off.address} is switched off by its schedule: 410 endpoint_brownout"
    finally:
        off.stop()


def test_a_deployment_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = verify("--url", nowhere, "--junit", str(tmp_path / "junit.xml"))
    assert (result.exit_code, result.stderr) == (2, f"could not run: {nowhere} gives no answer: connection_refused\n")
    (case,) = ElementTree.parse(tmp_path / "junit.xml").getroot().iter("error")
    assert case.get("message") == f"could not run: {nowhere} gives no answer: connection_refused"


def test_a_report_that_cannot_be_written(url: str, briefly: None) -> None:
    """1 would say that a check failed."""
    result = verify("--url", url, "--junit", "/dev/full")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "/dev/full: No space left on device\n"


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=str)
def test_a_report_that_cannot_be_said(url: str, arguments: list[str]) -> None:
    """Nothing more is tried at the exit."""
    command = (sys.executable, "-m", "proxy", "verify", "--url", url, *arguments)
    with Path("/dev/full").open("w") as full:
        made = subprocess.run(
            command,
            env={**os.environ, "NOX_VERIFY_KEY": KEY},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )
    assert (made.returncode, made.stderr) == (2, "the report cannot be written: No space left on device\n")


def test_an_interrupted_run_keeps_the_last_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    junit = tmp_path / "junit.xml"
    junit.write_text("<testsuites/>")
    monkeypatch.setattr("proxy.verify.run.Run.make", lambda *_: None)
    monkeypatch.setattr("asyncio.run", interrupted)
    assert verify("--url", "http://127.0.0.1:1", "--junit", str(junit)).exit_code == 130
    assert junit.read_text() == "<testsuites/>"


def test_a_key_of_any_characters(v2: Simulator, tmp_path: Path, briefly: None) -> None:
    """It is sent as it is, and shown in no form."""
    key = "a\\live'9\"$USER$REFUSED$KEY[b]"
    simulator = Simulator("v2", "--key", key)
    proxy = Proxy(simulator.url)

    def echo(answer: Answer) -> Answer | None:
        says = edited(error=f"bad key {key}", message=f"bad key {key}")
        return says(answer) if answer.status == 401 else answer

    async def made() -> Result:
        async with Relay(proxy.address) as broken:
            broken.breaks = echo
            junit = str(tmp_path / "junit.xml")
            return await asyncio.to_thread(verify, "--url", broken.url, "--json", "--junit", junit, key=key)

    try:
        result = asyncio.run(made())
    finally:
        assert proxy.stop() == 0
        simulator.stop()
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["a connection"]["result"] == "passed"
    assert checks["no key"]["came"] == "401 missing_api_key, 'bad key [key]'"
    assert "live" not in result.output + (tmp_path / "junit.xml").read_text()


def test_a_deployment_that_goes_away(proxy: Proxy, briefly: None) -> None:
    """What failed until then counts."""

    async def made() -> Report:
        async with Relay(proxy.address) as broken:
            run = Run(Plan(broken.url, KEY, "nox-verify-t"), time.time)
            broken.breaks = lambda answer: None if run._checks else answer
            return await run.make()

    report = asyncio.run(made())
    assert report.verdict == "failed"
    assert report.why.endswith("answers no longer: connection_terminated")
    assert report.checks[-1].came == "no answer: connection_terminated"


def test_a_run_is_bounded(url: str, v2: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.verify.run.RUN_SECONDS", 0.2)
    with v2.fault("delay=0.5"):
        report = report_of(url)
    assert (report.verdict, report.why) == ("could not run", "not done within 0 seconds")


def test_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxy.verify.run.Run.make", lambda *_: None)
    monkeypatch.setattr("asyncio.run", interrupted)
    assert verify("--url", "http://127.0.0.1:1").exit_code == 130


def test_a_run_tells_how_far_it_is(url: str) -> None:
    seen: list[tuple[int, int]] = []
    plan = Plan(url, KEY, "nox-verify-t")
    asyncio.run(Run(plan, time.time).make(lambda done, total: seen.append((done, total))))
    assert seen == [(done, len(CHECKS)) for done in range(1, len(CHECKS) + 1)]
    assert KEY not in repr(plan)
