"""v1's envelopes byte for byte, and the error_code table."""

import json
from time import process_time

import pytest

from proxy.contract.changes.connect_nox_user import V1Connection
from proxy.contract.envelope import ErrorTranslator, failure, success

RENAMED = {"user_id": "manufacturer_user_id"}


def test_success() -> None:
    assert success(V1Connection("u", "n", ("d",)), 1_700_000_000.9) == (
        b'{"success":true,"timestamp":1700000000,'
        b'"data":{"manufacturer_user_id":"u","nox_user_id":"n","device_ids":["d"]}}'
    )


def test_failure_is_the_published_sample() -> None:
    assert failure("Missing API key", "missing_api_key", 1_700_000_000.0) == (
        b'{"success":false,"timestamp":1700000000,"error":"Missing API key",'
        b'"error_code":"missing_api_key","message":"Missing API key"}'
    )


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, "missing api key", "missing_api_key"),
        (400, "  Missing API Key ", "missing_api_key"),
        (400, "Missing API key!", "invalid_request"),
        (403, "manufacturer not enabled", "manufacturer_not_enabled"),
        (403, "Manufacturer acme\nis not enabled", "manufacturer_not_enabled"),
        (403, "manufacturers not enabled", "forbidden"),
        (500, "user_id is required", "invalid_request"),
        (500, "is required", "invalid_request"),
        (500, "this required it", "internal_server_error"),
        (500, "is requiredness", "internal_server_error"),
        (451, "no", "upstream_error"),
    ],
)
def test_the_code_by_the_text_then_by_the_status(status: int, text: str, code: str) -> None:
    body = json.dumps({"error": text}).encode()
    assert ErrorTranslator(RENAMED, {}).to_v1(status, body).error_code == code


def test_rows_of_the_settings_come_first() -> None:
    errors = ErrorTranslator(RENAMED, {"Invalid API key": "bad_key", "gone … (for good)!": "gone"})
    assert errors.to_v1(401, b'{"error": "invalid api key"}').error_code == "bad_key"
    assert errors.to_v1(410, b'{"error": "Gone today (for good)!"}').error_code == "gone"
    assert errors.to_v1(410, b'{"error": "Gone for good"}').error_code == "upstream_error"


@pytest.mark.parametrize(
    ("row", "text", "fits"),
    [
        ("a … b … c", "a b c", True),
        ("a … b … c", "a c b b c", True),
        ("a … b … c", "a c b", False),
        ("a … b … c", "x a b c", False),
        ("… a … b …", "b a x b x", True),
        ("… a … b …", "b a", False),
        ("… a b … b", "a b", False),
        ("… b", "b x b", True),
        ("…", "", True),
        ("a … … a", "a a", True),
        ("a … … a", "a", False),
    ],
)
def test_each_gap_is_any_text(row: str, text: str, fits: bool) -> None:
    code = ErrorTranslator({}, {row: "known"}).to_v1(400, json.dumps({"error": text}).encode()).error_code
    assert (code == "known") is fits


@pytest.mark.parametrize(("row", "text"), [("a … b … c", "a " + "b " * 30_000), ("… a … b …", "a " * 30_000)])
def test_no_text_of_v2s_takes_long(row: str, text: str) -> None:
    """A text that almost fits is read once: with two gaps each "b" tried anew would take half a minute, and no caller
    would be answered meanwhile."""
    errors, began = ErrorTranslator({}, {row: "known"}), process_time()
    assert errors.to_v1(400, json.dumps({"error": text}).encode()).error_code == "invalid_request"
    assert process_time() - began < 1.0


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("user_id", "manufacturer_user_id"),
        ("'user_id' and user_id.", "'manufacturer_user_id' and manufacturer_user_id."),
        ("nox_user_id manufacturer_user_id user_ids xuser_id", "nox_user_id manufacturer_user_id user_ids xuser_id"),
        ("", ""),
    ],
)
def test_only_the_whole_word_is_renamed(theirs: str, ours: str) -> None:
    body = json.dumps({"error": theirs}).encode()
    assert ErrorTranslator(RENAMED, {}).to_v1(400, body).text == ours


@pytest.mark.parametrize(
    ("body", "drifted"),
    [
        (b'{"error": "x"}', False),
        (b'{"error": "x", "id": 1}', True),
        (b"<html>", False),
        (b"", False),
        (b"[" * 9_999, False),
    ],
)
def test_an_unknown_field_is_drift(body: bytes, drifted: bool) -> None:
    assert ErrorTranslator(RENAMED, {}).to_v1(500, body).drifted is drifted
