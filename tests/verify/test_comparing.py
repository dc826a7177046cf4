"""`--against` and `--requests`: two deployments compared, and recorded calls replayed."""

import asyncio
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import Result

from proxy.verify.calls import Call, Reply
from proxy.verify.comparing import compare_replies, latency
from proxy.wire.answer import Answer
from tests.processes import Proxy, Simulator, call
from tests.verify.relay import (
    Relay,
)
from tests.verify.runs import KEY, report_of, verify


def test_a_mismatch_is_named_by_its_field(url: str, v1: Simulator, v2: Simulator, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    arguments = ("--url", url, "--against", f"http://{v1.address}")
    with v2.fault("mismatch"):
        result = verify(*arguments, "--json")
        shown = verify(*arguments, "--junit", str(junit))
    told = json.loads(result.stdout)
    assert (result.exit_code, told["verdict"], told["exit_status"]) == (1, "failed", 1)
    assert {check["result"] for check in told["checks"]} == {"passed", "not applicable"}
    calls = [each for each in told["comparison"]["calls"] if each["result"] == "differs"]
    assert len(calls) == 24
    assert all(each["differences"] == {"data.nox_user_id": "value"} for each in calls)
    assert re.search(r"^user 0 +differs +data.nox_user_id \(value\) *$", shown.stdout, re.MULTILINE)
    said = [each.get("message") for each in ElementTree.parse(junit).getroot().iter("failure")]
    assert said == ["data.nox_user_id (value)"] * 24


def test_two_proxies_are_compared_by_their_headers_too(url: str, scheduled: Proxy) -> None:
    compared = report_of(f"http://{scheduled.address}", url).comparison
    assert compared is not None
    found = {call.call: call.differences for call in compared.calls}
    headers = {"deprecation": "value", "sunset": "value"}
    assert found["user 0"] == found["no key"] == headers
    assert found["user 0 with device IDs"] == {"data.device_ids": "value", **headers}


def test_the_other_one_goes_away(url: str, proxy: Proxy, tmp_path: Path) -> None:
    """That says nothing about the first."""
    junit = tmp_path / "junit.xml"

    async def made() -> Result:
        async with Relay(proxy.address) as other:
            greeted: list[bool] = []

            def breaks(answer: Answer) -> Answer | None:
                greeted.append(True)
                return answer if len(greeted) == 1 else None

            other.breaks = breaks
            arguments = ("--url", url, "--against", other.url, "--junit", str(junit))
            return await asyncio.to_thread(verify, *arguments)

    result = asyncio.run(made())
    assert result.exit_code == 2
    assert re.search(r"^user 0 +not compared +no answer from --against *$", result.stdout, re.MULTILINE)
    assert re.fullmatch(r"could not run: \S+ answers no longer: connection_terminated\n", result.stderr)
    said = [each.get("message") for each in ElementTree.parse(junit).getroot().iter("skipped")]
    assert said.count("no answer from --against") == 4


def test_too_few_comparisons_are_inconclusive(url: str, v1: Simulator, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    arguments = ("--url", url, "--against", f"http://{v1.address}", "--minimum", "29", "--junit", str(junit))
    result = verify(*arguments)
    assert result.exit_code == 2
    assert "fewer than 29 compared: nothing to go by" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("inconclusive: ")
    suite = ElementTree.parse(junit).getroot()[0]
    assert suite.get("errors") == "1"
    assert suite.find("testcase/error").get("message") == "inconclusive: fewer comparisons than the minimum"  # type: ignore[union-attr]


def reply(number: int, body: bytes, *fields: tuple[bytes, bytes]) -> Reply:
    lines = {name: (value,) for name, value in fields}
    return Reply(Call((), b""), b"", number, lines, body, 0.0, number / 1_000)


FAILURE = b'{"success": false, "error": "a", "error_code": "b", "message": "a"}'
LINK = (b"link", b'<https://a>; rel="successor-version"')


@pytest.mark.parametrize(
    ("mine", "theirs", "result", "told"),
    [
        (reply(400, FAILURE), reply(400, FAILURE), "same", {}),
        (None, reply(400, FAILURE), "differs", {"answer": "missing"}),
        (reply(400, b"<html>"), reply(400, FAILURE), "differs", {"envelope": "missing"}),
        (reply(500, b"<html>"), reply(400, FAILURE), "differs", {"status": "value"}),
        (reply(400, FAILURE, LINK), reply(400, FAILURE), "same", {}),
        (
            reply(400, FAILURE, (LINK[0], LINK[1].replace(b"a", b"b"))),
            reply(400, FAILURE, LINK),
            "differs",
            {"link": "value"},
        ),
        (reply(400, FAILURE), None, "not compared", "no answer from --against"),
        (reply(400, FAILURE), reply(503, FAILURE), "not compared", "503 from --against"),
        (reply(400, FAILURE), reply(410, FAILURE), "not compared", "410 from --against"),
        (reply(400, FAILURE), reply(400, b"<html>"), "not compared", "no v1 envelope from --against"),
    ],
)
def test_two_replies(mine: Reply | None, theirs: Reply | None, result: str, told: object) -> None:
    compared = compare_replies("a call", mine, theirs)
    assert (compared.result, compared.why or compared.differences) == (result, told)
    assert repr(mine) in ("None", f"Reply({mine.status if mine else ''})")


def test_latencies_are_by_nearest_rank() -> None:
    taken = latency([reply(number, b"") for number in range(100, 0, -1)])
    assert taken is not None
    assert (taken.p50, taken.p95, taken.p99) == (50, 95, 99)
    assert latency([]) is None


def test_what_a_simulator_records_is_replayed(
    url: str, v1: Simulator, v2: Simulator, record: Path, tmp_path: Path
) -> None:
    """Each call reaches v2 as it was made, and is answered as v1 answered it. No recorded user is named."""
    before = len(record.read_bytes()) if record.exists() else 0
    json_type = {"content-type": "application/json"}
    for number in range(10):
        body = b'{"manufacturer_user_id": "recorded-\xc3\xa9-%d", "device_ids": ["$USER"]}' % number
        call(v1.address, body, {"authorization": f"ApiKey {KEY}", **json_type})
    call(v1.address, body, {"x-api-key": "unknown-key", **json_type})
    call(v1.address, body, json_type, path="/manufacturers/nox/")
    file = tmp_path / "calls.ndjson"
    file.write_bytes(record.read_bytes()[before:])

    v2.forget()
    arguments = ("--url", url, "--requests", str(file), "--json")
    told = json.loads((result := verify(*arguments)).stdout)
    assert (result.exit_code, told["verdict"], told["comparison"]) == (0, "passed", None)
    replayed = [check for check in told["checks"] if check["row"] == "requests"]
    assert [check["name"] for check in replayed] == [f"line {number}" for number in range(1, 13)]
    assert [check["came"] for check in replayed] == ["201"] * 10 + ["401", "401"]
    users = [json.loads(each["body"])["user_id"].encode("latin-1").decode() for each in v2.calls()[-11:]]
    assert users == [f"recorded-é-{number}" for number in [*range(10), 9]]
    assert "recorded-" not in result.stdout

    compared = verify(*arguments, "--against", f"http://{v1.address}")
    assert compared.exit_code == 2
    assert json.loads(compared.stdout)["verdict"] == "inconclusive"
    enough = verify(*arguments[:-1], "--against", f"http://{v1.address}", "--minimum", "12")
    assert enough.exit_code == 0
    assert "and by 12 calls of the file, as they are there" in enough.stdout
    assert "recorded-" not in enough.stdout


def test_a_replayed_call_gets_a_status_of_the_recorded_class(url: str, tmp_path: Path) -> None:
    file = tmp_path / "calls.ndjson"
    line = {"path": "/manufacturers/nox", "body": "{}"}
    lines = [line, {**line, "status": 404}, {**line, "status": 201}]
    file.write_text("\n".join(map(json.dumps, lines)))
    result = verify("--url", url, "--requests", str(file), "--json")
    replayed = [check for check in json.loads(result.stdout)["checks"] if check["row"] == "requests"]
    assert [(each["wanted"], each["result"], each["came"]) for each in replayed] == [
        ("v1's envelope", "passed", "400"),
        ("v1's envelope, 4xx", "passed", "400"),
        ("v1's envelope, 2xx", "failed", "400"),
    ]
    assert result.exit_code == 1
