"""The comparison of v1's answer with v2's: what counts as the same, and what a difference is called."""

import contextlib
import json
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy.contract.changes.connect_nox_user import V1Connection
from proxy.contract.comparison import Difference, NotAnEnvelope, compare, read_envelope
from proxy.contract.envelope import failure, success

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Envelope = dict[str, Json]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
DEVICES = st.lists(TEXT, max_size=5)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

SUCCESSES = st.builds(lambda *data: read(success(V1Connection(*data), 1.0)), TEXT, TEXT, DEVICES.map(tuple))
FAILURES = st.builds(lambda text, code: read(failure(text, code, 1.0)), TEXT, TEXT)
ENVELOPES = SUCCESSES | FAILURES

GOOD = success(V1Connection("user-4711", "nox_1", ("d-1", "d-2")), 1.0)
BAD = failure("Invalid API key", "invalid_api_key", 1.0)


def read(body: bytes) -> Envelope:
    found: Envelope = json.loads(body)
    return found


def write(said: object) -> bytes:
    return json.dumps(said).encode()


def differences(v1: Mapping[str, Json] | bytes, v2: Mapping[str, Json] | bytes) -> dict[str, str]:
    """Of two answers of the same status."""
    bodies = [body if isinstance(body, bytes) else write(body) for body in (v1, v2)]
    found = compare(201, bodies[0], 201, bodies[1])
    assert len({*found}) == len(found)
    return {field: kind for field, kind in found}  # noqa: C416 (dict() loses the types)


def with_data(said: Envelope, **fields: Json) -> Envelope:
    data = said["data"]
    assert isinstance(data, dict)
    return {**said, "data": {**data, **fields}}


def shuffled(said: Envelope, random: Random) -> Envelope:
    """The same to a reader: fields and device IDs in another order, some IDs more than once, at another time."""
    fields = [(name, shuffled(value, random) if isinstance(value, dict) else value) for name, value in said.items()]
    random.shuffle(fields)
    other = dict(fields)
    if isinstance(devices := other.get("device_ids"), list):
        other["device_ids"] = random.sample(devices, len(devices)) + devices[: random.randrange(3)]
    return {**other, "timestamp": random.randrange(2**31)} if "timestamp" in other else other


@given(ENVELOPES, st.randoms(use_true_random=False))
def test_an_envelope_is_itself_in_any_order(said: Envelope, random: Random) -> None:
    assert differences(said, shuffled(said, random)) == {}


@given(said=SUCCESSES, name=st.sampled_from(["manufacturer_user_id", "nox_user_id"]), text=TEXT)
def test_a_changed_id_is_named(said: Envelope, name: str, text: str) -> None:
    other = with_data(said, **{name: text})
    assume(other != said)
    assert differences(said, other) == {f"data.{name}": "value"}


@given(said=FAILURES, name=st.sampled_from(["error", "error_code", "message"]), text=TEXT)
def test_a_changed_error_is_named(said: Envelope, name: str, text: str) -> None:
    assume(said[name] != text)
    assert differences(said, {**said, name: text}) == {name: "value"}


@given(said=SUCCESSES, devices=DEVICES)
def test_device_ids_are_a_set(said: Envelope, devices: list[Json]) -> None:
    data = said["data"]
    assert isinstance(data, dict)
    mine = data["device_ids"]
    assert isinstance(mine, list)
    same = {*mine} == {*devices}
    assert differences(said, with_data(said, device_ids=devices)) == ({} if same else {"data.device_ids": "value"})


@given(said=ENVELOPES, value=ANY)
def test_another_type_is_named(said: Envelope, value: Json) -> None:
    """Of the fields that are texts; true is not 1, and no text is the number it spells."""
    assume(not isinstance(value, str))
    if "data" in said:
        assert differences(with_data(said, nox_user_id=value), said) == {"data.nox_user_id": "type"}
    else:
        assert differences({**said, "error_code": value}, said) == {"error_code": "type"}


@given(said=SUCCESSES)
def test_a_field_on_one_side_alone(said: Envelope) -> None:
    data = said["data"]
    assert isinstance(data, dict)
    fewer: Envelope = {**said, "data": {name: value for name, value in data.items() if name != "device_ids"}}
    assert differences(fewer, said) == {"data.device_ids": "surplus"}
    assert differences(said, fewer) == {"other": "missing"}  # a name that no envelope of this call's v2 has


@given(said=ENVELOPES, more=st.dictionaries(TEXT, ANY, min_size=1), inside=st.booleans())
def test_names_of_v1_alone_are_one_other(said: Envelope, more: dict[str, Json], inside: bool) -> None:
    """However many come: no upstream can add names to the metrics."""
    data = said.get("data")
    place = data if inside and isinstance(data, dict) else said
    assume(not {*more} & {*place, "error", "error_code", "message", "data"})
    grown: Envelope = {**said, "data": {**data, **more}} if place is data and data else {**said, **more}
    assert differences(grown, said) == {"other": "missing"}


@pytest.mark.parametrize(
    ("v1", "found"),
    [
        ({"success": True}, {"manufacturer_user_id": "surplus", "nox_user_id": "surplus", "device_ids": "surplus"}),
        (
            {"success": True, "data": {}},
            {"manufacturer_user_id": "surplus", "nox_user_id": "surplus", "device_ids": "surplus"},
        ),
    ],
)
def test_no_data(v1: Envelope, found: dict[str, str]) -> None:
    assert differences(v1, GOOD) == {f"data.{name}": kind for name, kind in found.items()}


@pytest.mark.parametrize("data", [None, "text", [], 1])
def test_data_that_is_no_object(data: Json) -> None:
    found = differences({"success": True, "data": data}, GOOD)
    assert found.pop("other") == "missing"
    assert set(found.values()) == {"surplus"}


def test_a_success_against_a_failure_of_the_same_status() -> None:
    assert differences(BAD, GOOD) == {
        "success": "value",
        "data.manufacturer_user_id": "surplus",
        "data.nox_user_id": "surplus",
        "data.device_ids": "surplus",
        "error": "missing",
        "error_code": "missing",
        "message": "missing",
    }


def test_a_name_with_a_dot_is_no_path() -> None:
    v1: Envelope = {"success": True, "data": {}, "data.nox_user_id": "n"}
    v2: Envelope = {"success": True, "data": {"nox_user_id": "n"}}
    assert differences(v1, v2) == {"data.nox_user_id": "surplus", "other": "missing"}


def test_members_are_compared_by_type_too() -> None:
    for ours in ([1], ["1"], [True], [1.0], [[1]], [{"a": 1}], [None]):
        for theirs in ([1], ["1"], [True], [1.0], [[1]], [{"a": 1}], [None]):
            v1, v2 = ({"success": True, "data": {"device_ids": each}} for each in (theirs, ours))
            same = json.dumps(theirs) == json.dumps(ours)
            assert differences(write(v1), write(v2)) == ({} if same else {"data.device_ids": "value"})


@given(v1=ENVELOPES, v2=ENVELOPES, statuses=st.sampled_from([(201, 400), (401, 201), (400, 401)]))
def test_statuses_that_differ_are_all_there_is_to_say(v1: Envelope, v2: Envelope, statuses: tuple[int, int]) -> None:
    assert compare(statuses[0], write(v1), statuses[1], write(v2)) == (("status", "value"),)
    assert compare(statuses[0], write(v1), statuses[1], b"<html>") == (("status", "value"),)


# What it never does

NAMES = {
    *("success", "error", "error_code", "message", "other"),
    *("data.manufacturer_user_id", "data.nox_user_id", "data.device_ids"),
}
"""With `status` all that a field can be called on the metrics."""

KINDS = {"value", "type", "missing", "surplus"}


def deep(opening: bytes, closing: bytes, times: int) -> bytes:
    return b'{"success":true,"data":{"nox_user_id":%s}}' % (opening * times + closing * times)


@given(st.binary() | ANY.map(write) | st.dictionaries(TEXT, ANY).map(lambda said: write({"success": True, **said})))
@example(b"")
@example(b"\xef\xbb\xbf" + GOOD)
@example(GOOD + GOOD)
@example(GOOD[:-1])
@example(GOOD.replace(b"nox_1", b"nox_\xff"))
@example(GOOD.replace(b"nox_1", b"\\ud800"))
@example(GOOD.replace(b'"nox_1"', b"9" * 5_000))
@example(GOOD.replace(b'"nox_1"', b"1e400"))
@example(deep(b"[", b"]", 100_000))
@example(deep(b"[", b"]", 900))
@example(deep(b'{"a":', b"}", 900).replace(b":}", b":1}"))
@example(b'{"success": true, "success": 1}')
def test_nothing_but_not_an_envelope_is_raised(body: bytes) -> None:
    """And no name but those that the metrics know, whatever v1 says."""
    for ours in (GOOD, BAD):
        try:
            found = compare(201, body, 201, ours)
        except NotAnEnvelope:
            continue
        assert {field for field, _ in found} <= NAMES
        assert {kind for _, kind in found} <= KINDS


def test_as_deep_as_json_can_be_read() -> None:
    """At the last levels a side can be read but not be written again to be compared: a difference, not a crash."""
    too_deep = 0
    for times in range(400, 1_000):
        nested = b"[" * times + b"]" * times
        bodies = [b'{"success":false,"error":[%s]}' % members for members in (nested, nested + b",1", b"1," + nested)]
        with contextlib.suppress(NotAnEnvelope):
            assert differences(bodies[0], BAD)["error"] == "type"
            assert differences(bodies[0], bodies[1]) == {"error": "value"}
            kinds = differences(bodies[1], bodies[2])
            assert kinds in ({}, {"error": "value"})
            too_deep += bool(kinds)
    assert too_deep < 10


@given(v1=SUCCESSES, v2=SUCCESSES)
def test_no_value_is_told(v1: Envelope, v2: Envelope) -> None:
    told = repr(compare(201, write(v1), 201, write(v2)))
    for name in (*NAMES, *KINDS, "Difference", "field", "kind"):
        told = told.replace(f"'{name}'", "").replace(f"{name}=", "").replace(f"{name}(", "")
    assert not set(told) - set("(), ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>502</html>",
        b'{"error": "no"}',
        b'{"success": "true"}',
        b'{"success": 1}',
        b'{"success": null}',
        b'"success"',
        b'{"success": true} {}',
        b"{'success': true}",
        b'{"success": true, "a": NaN}',
    ],
)
def test_no_envelope(body: bytes) -> None:
    for compared in (
        lambda: read_envelope(body),
        lambda: compare(201, body, 201, GOOD),
        lambda: compare(1, GOOD, 1, body),
    ):
        with pytest.raises(NotAnEnvelope, match=r"^$"):  # the decoder's words would hold a value
            compared()


def test_an_envelope_may_say_more_or_less_than_ours() -> None:
    assert compare(201, b'{"success": true}', 201, b'{"success": false}') == (Difference("success", "value"),)
