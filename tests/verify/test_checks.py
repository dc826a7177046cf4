"""Each check against deployments that break one promise: none is passed by whatever comes."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import Result

from proxy.verify.calls import Caller
from proxy.verify.checks import CHECKS, Check, RawCheck
from proxy.verify.report import Checked
from proxy.verify.run import make_check
from proxy.wire.client import Client
from tests.processes import Proxy, Simulator
from tests.verify.relay import (
    Break,
    Relay,
    data,
    edited,
    every_second,
    gone,
    html,
    rewritten,
    status,
    with_header,
    without,
)
from tests.verify.runs import CHECK, KEY, verify


class Bench:
    """Makes one check against a relay that breaks something."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._relay = self._runner.run(Relay(address).__aenter__())
        self._client = Client(self._relay.url)

    def check(self, name: str, breaks: Break = lambda answer: answer, raw: tuple[bytes, bool] | None = None) -> Checked:
        """A check that looks back has the replies to two calls to look at."""
        caller = Caller(self._relay.url, self._client, KEY, "nox-verify-t", time.time)
        self._relay.breaks, self._relay.raw = breaks, raw
        check = CHECK[name]
        if isinstance(check, Check) and not check.calls:
            for before in ("a connection", "no key"):
                self._runner.run(make_check(caller, CHECK[before]))
        return self._runner.run(make_check(caller, check))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.run(self._relay.__aexit__())
        self._runner.close()


CALLED = [check.name for check in CHECKS if isinstance(check, Check) and check.calls]
REFUSED = [name for name in CALLED if re.match(r"4|5", CHECK[name].promise.wanted)]  # type: ignore[union-attr]
CONNECTED = [name for name in CALLED if name not in REFUSED]
RAW = [check.name for check in CHECKS if isinstance(check, RawCheck)]


@pytest.fixture(scope="module")
def bench(scheduled: Proxy) -> Iterator[Bench]:
    running = Bench(scheduled.address)
    yield running
    running.close()


def test_each_check_has_a_name_of_its_own() -> None:
    assert len(CHECK) == len(CHECKS)
    assert {check.row for check in CHECKS} >= {str(row) for row in range(1, 15) if row != 8}


@pytest.mark.parametrize("name", [name for name in CALLED if name != "another path"])
def test_a_page_instead_of_an_answer(bench: Bench, name: str) -> None:
    assert bench.check(name).result == "passed"
    assert bench.check(name, html).result == "failed"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_that_is_taken(bench: Bench, name: str) -> None:
    assert bench.check(name, status(201)).result == "failed"


@pytest.mark.parametrize("name", CONNECTED)
def test_a_connection_of_somebody_else(bench: Bench, name: str) -> None:
    assert bench.check(name, data(manufacturer_user_id="other")).came == "201, another manufacturer_user_id"


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize(
    ("said", "closes", "text"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True, "200, closed"),
        (b"", True, "no answer, closed"),
        (b"SSH-2.0\r\n", True, "no answer, closed"),
    ],
)
def test_a_message_that_should_be_none(bench: Bench, name: str, said: bytes, closes: bool, text: str) -> None:
    made = bench.check(name, raw=(said, closes))
    assert (made.result, made.came) == ("failed", text)


def test_a_connection_that_stays_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.wire.client.RAW_SECONDS", 1.0)
    made = bench.check("no Host", raw=(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", False))
    assert (made.result, made.came) == ("failed", "400, the connection stays open")


BREAKS: list[tuple[str, Break, str]] = [
    ("a connection", status(200), "200"),
    ("a connection", status(307), "307"),
    ("a connection", edited(success=False), "201, success is False"),
    ("a connection", edited(timestamp=time.time() * 1000 // 1), "201, not v1's envelope: Expected `int`"),
    ("a connection", edited(timestamp=int(time.time() * 1000)), "201, timestamp 1"),
    ("a connection", edited(more=1), "201, not v1's envelope: Object contains unknown field"),
    ("a connection", data(more=1), "201, not v1's envelope: Object contains unknown field"),
    ("a connection", data(device_ids=["d"]), "device_ids, though none were sent"),
    ("a connection", data(device_ids=None), "201, not v1's envelope: Expected `array`"),
    ("a connection", data(nox_user_id=""), "201, an empty nox_user_id"),
    ("a connection", with_header(b"content-type", b"text/plain"), "201, text/plain"),
    ("a connection", without(b"content-type"), "201, no media type"),
    ("a connection", gone, "no answer: connection_terminated"),
    ("a trailing slash", status(308), "308"),
    ("another path", status(301), "a redirect, 301"),
    ("another path", edited(error_code="no_route"), "404 no_route"),
    ("no key", edited(error_code="unauthorized"), "401 unauthorized"),
    ("no key", edited(error="No key", message="No key"), "401 missing_api_key, 'No key'"),
    ("no key", edited(error="No key"), "401, error and message differ"),
    ("no key", edited(success=True), "401, success is True"),
    ("no key", edited(timestamp=0), "401, timestamp 0"),
    ("no key", edited(data={}), "401, not v1's envelope"),
    ("no key", without(b"www-authenticate"), "401, WWW-Authenticate: none"),
    ("no key", with_header(b"www-authenticate", b"Basic"), "401, WWW-Authenticate: Basic"),
    ("no key", without(b"proxy-status"), "401 missing_api_key without Proxy-Status"),
    ("no key", without(b"x-request-id"), "401 without the call's x-request-id"),
    ("no key", with_header(b"x-request-id", b"other"), "401 without the call's x-request-id"),
    ("a key that nobody has", status(403), "403 invalid_api_key"),
    ("a key that nobody has", without(b"www-authenticate"), "401, WWW-Authenticate: none"),
    ("one with a space", with_header(b"x-request-id", b"a b"), "a b"),
    ("one with a space", without(b"x-request-id"), "none"),
    ("Via", every_second(without(b"via")), "on 1 of 2 answers"),
    ("Via", with_header(b"via", b"1.1 other"), "on 0 of 2 answers"),
    ("GET", without(b"allow"), "405 method_not_allowed, Allow: none"),
    ("GET", with_header(b"allow", b"GET"), "405 method_not_allowed, Allow: GET"),
    ("the same user again", every_second(data(nox_user_id="other")), "2 of them"),
    ("device_ids", data(device_ids=["d"]), "other device_ids than were sent"),
    ("device_ids", without(b"nox-unmapped"), "other device_ids than were sent, without NOX-Unmapped"),
    ("device_ids", with_header(b"nox-unmapped", b"other"), "NOX-Unmapped: other"),
    ("device_ids", with_header(b"nox-unmapped", b"device_ids"), "NOX-Unmapped, though no device ID was sent"),
    ("device_ids", without(b"x-request-id"), "201 without the call's x-request-id"),
    ("Link", every_second(without(b"link")), "not on all 2 answers: deprecation, successor-version"),
    ("Link", rewritten(b"link", b"successor-version", b"next"), "not on all 2 answers: successor-version"),
    ("Link", every_second(rewritten(b"link", b"https://docs", b"https://other")), "not on all 2 answers: deprecation"),
    ("Deprecation", every_second(without(b"deprecation")), "2 values"),
    ("Deprecation", with_header(b"deprecation", b"true"), "true"),
    ("Deprecation", with_header(b"deprecation", b"Sun, 30 Jun 2024 23:59:59 GMT"), "Sun, 30 Jun 2024 23:59:59 GMT"),
    ("Sunset", every_second(without(b"sunset")), "2 values"),
    ("Sunset", with_header(b"sunset", b"2027-06-30T23:59:59Z"), "2027-06-30T23:59:59Z"),
    ("Sunset", with_header(b"sunset", b"Tue, 30 Jun 2020 23:59:59 GMT"), "Tue, 30 Jun 2020 23:59:59 GMT, before the"),
]


@pytest.mark.parametrize(("name", "breaks", "text"), BREAKS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_promise(bench: Bench, name: str, breaks: Break, text: str) -> None:
    assert bench.check(name).result == "passed"
    made = bench.check(name, breaks)
    assert made.result == "failed"
    assert made.came.startswith(text)


def now_and_then(answer_devices: list[str]) -> Break:
    """Echoes what stands here in the first answer; the others are dropped by the proxy."""
    left = [data(device_ids=answer_devices)]
    return lambda answer: left.pop()(answer) if left else answer


def test_now_one_policy_now_the_other(bench: Bench) -> None:
    made = bench.check("device_ids", now_and_then(["nox-verify-t-d"]))
    assert (made.result, made.came) == ("failed", "now one, now the other: drop, echo")


@pytest.mark.parametrize(
    ("name", "breaks", "text"),
    [
        ("another path", without(b"proxy-status"), "another service answers this path, 404: pass-through"),
        ("a key that nobody has", status(410), "the schedule refuses keys that no list names, 410"),
        ("Deprecation", without(b"deprecation"), "not set"),
        ("Sunset", without(b"sunset"), "not set"),
    ],
)
def test_what_cannot_be_judged(bench: Bench, name: str, breaks: Break, text: str) -> None:
    made = bench.check(name, breaks)
    assert (made.result, made.came) == ("not applicable", text)


def test_a_user_that_the_service_refuses(v2: Simulator, url: str) -> None:
    """It is v2's to judge what a user ID may hold; what the proxy refuses is a fault."""

    async def made(name: str) -> Checked:
        caller = Caller(url, client := Client(url), KEY, "nox-verify-t", time.time)
        try:
            return await make_check(caller, CHECK[name])
        finally:
            await client.aclose()

    with v2.fault("status=422"):
        assert asyncio.run(made("a NUL")).came == "the service refuses this user ID: 422 invalid_request"
        assert asyncio.run(made("a connection")).result == "failed"
    with v2.fault("odd"):
        assert asyncio.run(made("a NUL")).result == "failed"


def test_a_failed_check_fails_the_run(proxy: Proxy, tmp_path: Path, briefly: None) -> None:
    """Said in the table, in JUnit and by the exit status; a key that a deployment repeats is not."""
    junit = tmp_path / "junit.xml"

    async def made() -> Result:
        async with Relay(proxy.address) as broken:
            broken.breaks = edited(error_code=f"{KEY} [b]\x00")
            return await asyncio.to_thread(verify, "--url", broken.url, "--junit", str(junit))

    result = asyncio.run(made())
    assert result.exit_code == 1
    assert "failed: " in result.stdout
    said = "wanted 401 missing_api_key, 'Missing API key'; came 401 [key] [b]?"
    assert KEY not in result.output + junit.read_text()
    assert "401 [key] [b]?" in result.stdout
    assert said in [each.get("message") for each in ElementTree.parse(junit).getroot().iter("failure")]
