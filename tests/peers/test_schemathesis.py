"""Schemathesis reads v1.yaml and tries the proxy with what it makes of it, good and bad."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis.openapi
from hypothesis import given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)

from tests.processes import ROOT, Proxy, Simulator

DESCRIPTION = ROOT / "proxy/contract/openapi/v1.yaml"
KEY = {"x-api-key": "demo-key"}
JSON = {"content-type": "application/json"}
BODY = b'{"manufacturer_user_id": "user-4711", "device_ids": ["heat-pump-1"]}'
CHECKS = [content_type_conformance, response_headers_conformance, response_schema_conformance]
CALL = schemathesis.openapi.from_path(DESCRIPTION)["/manufacturers/nox"]["POST"]

# No check is off; these are stricter than their defaults. Of itself Schemathesis takes a 401 or a 5xx for a good
# answer to a good call, so that with a wrong key it would find nothing. The credential stands here and not in
# --header: only so does it know which header holds a key that is accepted, and leaves it out to see that it counts.
CONFIG = """
auth.openapi.{scheme}.api_key = "{value}"
checks.positive_data_acceptance.expected-statuses = [201]
checks.negative_data_rejection.expected-statuses = [400, 401, 405, 415]
warnings.fail-on = true
"""


@pytest.mark.parametrize(("scheme", "value"), [("x_api_key", "demo-key"), ("authorization", "ApiKey demo-key")])
def test_calls_made_of_the_description(proxy: Proxy, tmp_path: Path, scheme: str, value: str) -> None:
    """All checks and all phases. The stateful one finds nothing to do: there is one call."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(scheme=scheme, value=value))
    program = Path(sys.executable).with_name("schemathesis")
    where = ("--url", f"http://{proxy.address}", "--no-color", "--generation-database", "none")
    amount = ("--checks", "all", "--max-examples", "100", "--seed", "1")
    run = subprocess.run(
        [program, "--config-file", config, "run", DESCRIPTION, *where, *amount],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,  # it leaves files where it runs
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    assert run.returncode == 0, run.stdout + run.stderr


@given(case=CALL.as_strategy(generation_mode=GenerationMode.NEGATIVE))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_calls_that_break_the_description(proxy: Proxy, case: Case[Any]) -> None:
    """Few of the run above are such. Each is refused as described, in v1's envelope: no 201, and nothing of 500."""
    answer = case.call(base_url=f"http://{proxy.address}", headers=KEY)
    assert answer.status_code in (400, 415)
    case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize(
    ("status", "method", "headers", "body", "fault"),
    [
        (201, "POST", KEY | JSON, BODY, None),
        (400, "POST", KEY | JSON, b"{}", None),
        (401, "POST", JSON, BODY, None),
        (401, "POST", {"x-api-key": "wrong"} | JSON, BODY, None),
        (405, "GET", KEY, b"", None),
        (413, "POST", KEY | JSON, b" " * 2_000_000, None),
        (415, "POST", KEY | {"content-type": "text/plain"}, BODY, None),
        (417, "POST", KEY | JSON | {"expect": "200-ok"}, BODY, None),
        (431, "POST", KEY | {"x-large": "a" * 33_000}, b"", None),
        (500, "POST", KEY | JSON, BODY, "status=500"),
        (502, "POST", KEY | JSON, BODY, "garbage"),
        (503, "POST", KEY | JSON, BODY, "status=503"),
        (504, "POST", KEY | JSON, BODY, "hang"),
        (429, "POST", KEY | JSON, BODY, "status=429"),
    ],
    ids=lambda value: None if isinstance(value, int | str) else "",
)
def test_each_status(
    v2: Simulator, proxy: Proxy, status: int, method: str, headers: dict[str, str], body: bytes, fault: str | None
) -> None:
    """Header and body are as described, also where the run above does not look: at refusals of a method or a key."""
    case = CALL.Case()
    with v2.fault(fault) if fault else nullcontext():
        answer = httpx.request(method, f"http://{proxy.address}/manufacturers/nox", headers=headers, content=body)
    assert answer.status_code == status
    case.validate_response(answer, checks=CHECKS)
