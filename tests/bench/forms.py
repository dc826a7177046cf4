"""The form of every candidate's answers, looked at once before anything is measured."""

import json

from tests.bench.candidates import Candidate
from tests.bench.scenarios import BAD_KEY, HEADERS, IDS, KEY, WITHOUT_USER, body
from tests.processes import Reply, call

SENT = json.loads(body(2))["device_ids"]


def check(candidate: Candidate, address: str) -> None:
    """Raises AssertionError with what is wrong."""
    made = _ask(candidate, address, {"x-api-key": KEY})
    assert made.status == 201, made
    if not candidate.rewrites:
        assert made.json() == IDS, made
        return
    for reply in (made, _ask(candidate, address, {"x-api-key": KEY}, body(5_000))):
        _check_made(reply)
    if candidate.tells_errors:
        _check_head(made, candidate)
        _check_made(_ask(candidate, address, {"authorization": f"ApiKey {KEY}"}))
        _check_failed(_ask(candidate, address, {"x-api-key": BAD_KEY}), 401, "invalid_api_key", "Invalid API key")
        text = "manufacturer_user_id is required and must be a string"
        _check_failed(_ask(candidate, address, {"x-api-key": KEY}, WITHOUT_USER), 400, "invalid_request", text)


def _ask(candidate: Candidate, address: str, headers: dict[str, str], sent: str = body(2)) -> Reply:
    return call(address, sent.encode(), {**HEADERS, **headers}, path=candidate.path)


def _check_made(reply: Reply) -> None:
    assert reply.status == 201, reply
    said = reply.json()
    assert said.keys() == {"success", "timestamp", "data"}, said
    assert said["success"] is True, said
    assert isinstance(said["timestamp"], int), said
    ids = said["data"].pop("device_ids")
    assert ids[:2] == SENT, ids[:2]
    assert len(ids) in (2, 5_000), len(ids)
    assert said["data"] == IDS, said


def _check_head(reply: Reply, candidate: Candidate) -> None:
    headers = reply.headers
    assert headers["content-type"].startswith("application/json"), headers
    assert headers["deprecation"] == "@1767225600", headers
    assert headers["sunset"] == "Wed, 30 Jun 2027 23:59:59 GMT", headers
    assert 'rel="deprecation"' in headers["link"], headers
    if candidate.name != "naive":
        assert headers["nox-unmapped"] == "device_ids", headers
        assert headers["via"] == "1.1 nox-proxy", headers
        assert headers["x-request-id"], headers


def _check_failed(reply: Reply, status: int, error_code: str, text: str) -> None:
    assert reply.status == status, reply
    said = reply.json()
    assert isinstance(said.pop("timestamp"), int), said
    assert said == {"success": False, "error": text, "error_code": error_code, "message": text}, said
