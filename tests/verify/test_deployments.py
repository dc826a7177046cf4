"""`nox-proxy verify` against proxies as they should be, and where it cannot run."""

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

from proxy.verify.calls import Caller
from proxy.verify.checks import CHECKS
from proxy.verify.comparing import CALLS
from proxy.verify.report import Report
from proxy.verify.run import Plan, Run, make_check
from proxy.wire.client import Client
from tests.processes import ROOT, Proxy, Simulator
from tests.verify.relay import Relay
from tests.verify.runs import CHECK, KEY, came, report_of, results, verify
from tests.wire.servers import Authority, relay, serve


def read_screen(screen: int, shown: list[str]) -> None:
    """Until nobody writes to it any more."""
    with contextlib.suppress(OSError):
        while True:
            shown.append(os.read(screen, 65_536).decode(errors="replace"))
    os.close(screen)


def test_a_proxy_keeps_the_contract(url: str, v1: Simulator, tmp_path: Path) -> None:
    """As a stranger runs it, at a terminal; v1 itself gives the same answers. The key is in nothing that is said."""
    junit = tmp_path / "junit.xml"
    screen, terminal = pty.openpty()
    shown: list[str] = []
    reader = threading.Thread(target=read_screen, args=(screen, shown))
    reader.start()
    command = (sys.executable, "-m", "proxy", "verify", "--url", url, "--against", f"http://{v1.address}")
    made = subprocess.run(
        [*command, "--junit", str(junit)],
        env={**os.environ, "NOX_VERIFY_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    os.close(terminal)
    reader.join()
    assert made.returncode == 0
    assert f"verify {url}" in "".join(shown)
    lines = made.stdout.splitlines()
    assert lines[0].split() == ["check", "row", "result", "wanted", "came"]
    assert lines[-1] == f"passed: {len(CHECKS) - 2} passed, 0 failed, 2 not applicable"
    assert f"Against http://{v1.address}: {len(CALLS)} same, 0 differs, 0 not compared" in lines
    assert KEY not in made.stdout + "".join(shown) + junit.read_text()
    suite = ElementTree.parse(junit).getroot()[0]
    assert dict(suite.attrib, name="") == {
        "name": "",
        "tests": str(len(CHECKS) + len(CALLS)),
        "failures": "0",
        "errors": "0",
        "skipped": "2",
    }


def test_the_announcements_and_dropped_device_ids(scheduled: Proxy) -> None:
    report = report_of(f"http://{scheduled.address}")
    assert (report.verdict, report.why) == ("passed", "")
    assert came(report, "Deprecation") == "@1767225600"
    assert came(report, "Sunset") == "Wed, 30 Jun 2027 23:59:59 GMT"
    assert came(report, "device_ids") == "drop"
    assert set(results(report).values()) == {"passed"}


def test_a_canary_with_pass_through_and_higher_limits(v1: Simulator, v2: Simulator) -> None:
    """Half of the users are v1's; another path is v1's too. Device IDs are refused where v2 answers."""
    canary = Proxy(
        v2.url,
        UPSTREAMS__V1__URL=f"http://{v1.address}",
        MAX_HEADER_BYTES="1000000",
        MAX_BODY_BYTES="10000000",
        CHANGES__CONNECT_NOX_USER__DEVICE_IDS="reject",
        CHANGES__CONNECT_NOX_USER__ROLLOUT='{"v2_percent": 50.0}',
    )
    try:
        report = report_of(f"http://{canary.address}")
    finally:
        canary.stop()
    assert report.verdict == "passed", report
    assert came(report, "device_ids") in ("reject, v1", "reject", "v1")
    assert {check.name: check.came for check in report.checks if check.result == "not applicable"} == {
        "another path": "another service answers this path, 404: pass-through",
        "64 KiB of header": "so much is taken",
        "a body of 2 MiB in chunks": "larger bodies are taken",
        "Deprecation": "not set",
        "Sunset": "not set",
    }


def test_a_deployment_behind_tls(proxy: Proxy, tmp_path: Path) -> None:
    """A private authority is asked for by name; without it the deployment cannot be told from another."""
    authority = Authority()
    file = Path(authority.write(tmp_path / "ca.pem"))

    async def over_tls(ca_file: Path | None) -> Report:
        async with serve(relay(int(proxy.address.rpartition(":")[2])), authority.server()) as server:
            return await Run(Plan(server.url, KEY, "nox-verify-t", ca_file=ca_file), time.time).make()

    assert asyncio.run(over_tls(file)).verdict == "passed"
    refused = asyncio.run(over_tls(None))
    assert (refused.verdict, refused.why[-21:]) == ("could not run", "tls_certificate_error")


def test_a_deployment_below_a_path(proxy: Proxy) -> None:
    async def below() -> list[str]:
        async with Relay(proxy.address, b"/legacy") as deployment:
            caller = Caller(deployment.url, client := Client(deployment.url), KEY, "nox-verify-t", time.time)
            try:
                return [(await make_check(caller, CHECK[name])).result for name in ("a connection", "another path")]
            finally:
                await client.aclose()

    assert asyncio.run(below()) == ["passed", "passed"]


def test_what_a_run_makes_can_be_found_again(url: str, v2: Simulator) -> None:
    v2.forget()
    told = json.loads(verify("--url", url, "--json", "--user-prefix", "to-be-deleted-").stdout)
    made = {json.loads(each["body"]).get("user_id") for each in v2.calls()}
    assert len(told["users"]) == len(made) == 9
    assert all(user.startswith(f"{told['run']}-") for user in made)
    assert re.fullmatch(r"to-be-deleted-[0-9a-f]{8}", told["run"])
