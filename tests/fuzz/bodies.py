"""The body decoders, fed with anything, beside a strict reference: Python's json module without its laxities."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from proxy.contract.changes.connect_nox_user import V1Request, V2Connection, connect_nox_user
from proxy.contract.envelope import ERROR_CODES, STATUS_CODES, ErrorTranslator, failure, success
from proxy.contract.errors import InvalidJson, InvalidRequest, InvalidUpstreamResponse
from tests.fuzz.inputs import Check, Target

WORDS = (
    *(b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\x41", b"\\/", b"\\u005f", b"\\u0000"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"-", b"-0", b"1.", b".5", b"1e", b"1E+5", b"0x1"),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xc2\xa0", b"\xf0\x9f\x98\x80"),
    *(b"\0", b"\n", b"\r", b"\t", b"\x0b", b"\x7f", b" ", b"[", b"]", b"{", b"}", b",", b":", b"[" * 300, b"]" * 300),
    *(b"null", b"true", b"false", b"True", b"nul", b"//", b"/**/", b"'", b"12345678901234567890123"),
    *(b'"manufacturer_user_id":', b'"nox_user_id":', b'"device_ids":', b'"error":', b'"x":', b'"u"', b'["d"]', b"1"),
    *(b"user_id", b"invalid api key", b" is required ", b"Manufacturer", b"not enabled", b'"\\ud800":1,', b'"\xff":1,'),
)

CODES = {"known", *(code for _, code in ERROR_CODES), *STATUS_CODES.values(), "upstream_error"}
_errors = ErrorTranslator(connect_nox_user.renamed, {"u … u … u": "known"})


class Doubtful(Exception):
    """What the reference cannot tell: two equal names, a number that no double holds, or a depth beyond its own."""


def strictly(body: bytes) -> Any:
    """JSON as RFC 8259 has it, without lone surrogates. Raises ValueError for anything else, or Doubtful."""
    doubtful = False

    def number(digits: str) -> float:
        nonlocal doubtful
        value = float(digits)
        doubtful = doubtful or math.isinf(value)
        return value

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal doubtful
        _encode(pairs)  # before one of two equal names is lost
        found = dict(pairs)
        doubtful = doubtful or len(found) != len(pairs)
        return found

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        value = json.loads(
            body.decode(), parse_constant=refuse, parse_int=number, parse_float=number, object_pairs_hook=members
        )
        _encode(value)
    except RecursionError:
        raise Doubtful from None
    if doubtful:
        raise Doubtful
    return value


def _encode(value: object) -> bytes:
    """Raises UnicodeEncodeError, a ValueError, for a lone surrogate."""
    return json.dumps(value, ensure_ascii=False).encode()


REFUSED: Final = object()
"""By the reference: not JSON."""
DOUBTFUL: Final = object()


@contextmanager
def open_check() -> Iterator[Check]:
    yield lambda body, _: _judge(body)


def _judge(body: bytes) -> str:
    try:
        value = strictly(body)
    except ValueError:
        value = REFUSED
    except Doubtful:
        value = DOUBTFUL
    return f"{_judge_request(body, value)}, {_judge_answer(body, value)}, {_judge_error(body, value)}"


def _judge_request(body: bytes, value: Any) -> str:
    """Takes what the reference takes, and names a field that is at fault."""
    match _read_request(body):
        case InvalidJson():
            assert value in (REFUSED, DOUBTFUL)
            return "no JSON"
        case InvalidRequest(text=text):
            assert value is DOUBTFUL or text in _faults(value)
            return text
        case asked:
            given = json.loads(msgspec.json.encode(asked))
            named = V1Request.__struct_fields__
            assert value is DOUBTFUL or given == {name: value[name] for name in named if name in value}
            assert json.loads(msgspec.json.encode(connect_nox_user.to_v2(asked))) == {
                "user_id": asked.manufacturer_user_id
            }
            return "a request"


def _read_request(body: bytes) -> V1Request | InvalidJson | InvalidRequest:
    try:
        return connect_nox_user.read_request(body)
    except (InvalidJson, InvalidRequest) as error:
        return error


def _faults(value: Any) -> set[str]:
    """The sentences that fit; none where nothing is at fault."""
    if value is REFUSED:
        return set()
    if not isinstance(value, dict):
        return {InvalidRequest.text}
    devices = value.get("device_ids", [])
    fits = {
        "manufacturer_user_id": isinstance(value.get("manufacturer_user_id"), str),
        "device_ids": isinstance(devices, list) and all(isinstance(device, str) for device in devices),
    }
    return {connect_nox_user.faults[field] for field, fit in fits.items() if not fit}


def _judge_answer(body: bytes, value: Any) -> str:
    """Tolerant: takes all of v2's form, and may take what is none; but what it takes can be handed on."""
    names = V2Connection.__struct_fields__
    fits = isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)
    try:
        told, drifted = connect_nox_user.read_answer(body)
    except InvalidUpstreamResponse:
        assert not fits
        return "no answer"
    assert fits or value in (REFUSED, DOUBTFUL)
    data = connect_nox_user.to_v1(V1Request("u", ("d",)), told, {"device_ids": "echo"})
    written = strictly(success(data, now=0.0))["data"]
    assert not fits or {name: written[name] for name in names} == {name: value[name] for name in names}
    assert not fits or drifted == (set(value) != set(names))
    return "a drifted answer" if drifted else "an answer"


def _judge_error(body: bytes, value: Any) -> str:
    """Any status and body become v1's words, of our own where v2's are not of its form."""
    codes = []
    for status in (400, 418, 503, 599):
        said = _errors.to_v1(status, body)
        written = strictly(failure(said.text, said.error_code, now=0.0))
        assert written["message"] == said.text
        assert said.error_code in CODES
        codes.append(said.error_code)
    if isinstance(value, dict) and isinstance(value.get("error"), str):
        assert said.text == value["error"] or "user_id" in value["error"]
        return f"an error, {codes[0]}"
    assert value in (REFUSED, DOUBTFUL) or said.text == "Upstream error"
    return "no error"


BODIES = Target("bodies", WORDS, open_check)
