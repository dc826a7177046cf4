"""Prism plays v2 from v2.yaml: a v2 that nobody of this project wrote."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import DEADLINE, ROOT, Proxy, call, eventually

V2 = ROOT / "proxy/contract/openapi/v2.yaml"
KEY = {"x-api-key": "any-key"}
SAMPLE = b'{"manufacturer_user_id": "user-4711", "device_ids": ["heat-pump-1", "wallbox-2"]}'

Need = Callable[[str], str]


@contextmanager
def prism(program: str, description: Path, output: Path) -> Iterator[str]:
    """A Prism on a free port; gives its URL. It ends with all that it may have started."""
    with output.open("wb") as out:
        command = [program, "mock", "--port", "0", str(description)]
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)

    def url() -> str | None:
        found = re.search(r"Prism is listening on (http://[\d.]+:\d+)", output.read_text())
        return found and found[1]

    try:
        eventually(lambda: url() is not None or process.poll() is not None)
        started = url()
        assert started, output.read_text()
        yield started
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process; then nothing of its group is left, whatever it did."""
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # as it should be: it left nobody behind
    pytest.fail("Prism left a process behind")


@contextmanager
def proxy_before(url: str) -> Iterator[Proxy]:
    running = Proxy(url)
    try:
        yield running
    finally:
        assert running.stop() == 0


def test_a_described_v2_answers_v1_calls(need: Need, tmp_path: Path) -> None:
    """Prism answers 201 only to a call of the form that v2.yaml describes."""
    with prism(need("prism"), V2, tmp_path / "prism.log") as url, proxy_before(url) as proxy:
        for headers in (KEY, {"authorization": "ApiKey any-key"}):
            reply = call(proxy.address, SAMPLE, {**headers, "content-type": "application/json"})
            told = reply.json()
            assert (reply.status, told.pop("success"), type(told.pop("timestamp"))) == (201, True, int)
            assert told == {
                "data": {
                    "manufacturer_user_id": "user-4711",
                    "nox_user_id": "nox_5f0c1e7a",
                    "device_ids": ["heat-pump-1", "wallbox-2"],
                }
            }
        for body, code in ((b'{"manufacturer_user_id": 4711}', "invalid_request"), (b"{", "invalid_json")):
            reply = call(proxy.address, body, KEY)
            assert (reply.status, reply.json()["error_code"]) == (400, code)


def wants_another_key(call_of_v2: dict[str, Any], schemes: dict[str, Any]) -> None:
    schemes["x_api_key"]["name"] = "x-other-key"


def wants_another_type(call_of_v2: dict[str, Any], schemes: dict[str, Any]) -> None:
    body = call_of_v2["requestBody"]["content"]["application/json"]
    body["schema"] = {"type": "object", "properties": {"user_id": {"type": "integer"}}}


def knows_errors_only(call_of_v2: dict[str, Any], schemes: dict[str, Any]) -> None:
    call_of_v2["responses"] = {"500": call_of_v2["responses"]["500"]}


@pytest.mark.parametrize(
    ("change", "status", "text", "code"),
    [
        (wants_another_key, 401, "Invalid API key", "invalid_api_key"),
        (wants_another_type, 400, "manufacturer_user_id is required and must be a string", "invalid_request"),
        (knows_errors_only, 500, "Internal server error", "internal_server_error"),
    ],
)
def test_a_v2_that_refuses(
    need: Need, tmp_path: Path, change: Callable[..., None], status: int, text: str, code: str
) -> None:
    """Prism is asked for errors by `Prefer`, which the proxy does not send on: so v2's description is changed."""
    described = yaml.safe_load(V2.read_text())
    change(described["paths"]["/manufacturer/device-connections"]["post"], described["components"]["securitySchemes"])
    changed = tmp_path / "v2.json"
    changed.write_text(json.dumps(described))
    with prism(need("prism"), changed, tmp_path / "prism.log") as url, proxy_before(url) as proxy:
        reply = call(proxy.address, SAMPLE, KEY)
    told = reply.json()
    assert type(told.pop("timestamp")) is int
    assert (reply.status, told) == (status, {"success": False, "error": text, "error_code": code, "message": text})
    assert reply.headers.get("www-authenticate") == ("ApiKey" if status == 401 else None)
