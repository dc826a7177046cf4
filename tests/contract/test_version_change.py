"""What every change shares, and the one change there is."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from proxy.contract.changes import CHANGES
from proxy.contract.changes.connect_nox_user import V1Request, V2Connection, connect_nox_user
from proxy.contract.errors import InvalidJson, InvalidRequest, InvalidUpstreamResponse, UnmappedFieldRefused
from proxy.contract.version_change import AnyChange, UnmappedPolicy


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_is_complete(change: AnyChange) -> None:
    """Each field has its sentence, and each unmapped field may be absent."""
    assert change.v1_path.startswith("/")
    assert change.v2_path.startswith("/")
    assert change.name.isidentifier()
    assert set(change.faults) == set(change.v1_request.__struct_fields__)
    assert all(sentence.startswith(field) for field, sentence in change.faults.items())
    assert set(change.unmapped) <= set(change.v1_request.__struct_fields__)
    assert b"/" + change.v1_path.encode().strip(b"/") + b"/" in change.v1_paths


def test_names_and_paths_are_each_changes_own() -> None:
    names = [change.name for change in CHANGES]
    paths = [path for change in CHANGES for path in change.v1_paths]
    assert len(names) == len(set(names))
    assert len(paths) == len(set(paths))


TEXT = st.text(st.characters(codec="utf-8"))


@given(user=TEXT, devices=st.none() | st.lists(TEXT))
def test_a_request_read_is_what_was_written(user: str, devices: list[str] | None) -> None:
    written: dict[str, Any] = {"manufacturer_user_id": user}
    if devices is not None:
        written["device_ids"] = devices
    asked = connect_nox_user.read_request(json.dumps(written).encode())
    assert asked.manufacturer_user_id == user
    assert connect_nox_user.to_v2(asked).user_id == user  # type: ignore[attr-defined]  # a V2Request
    assert connect_nox_user.lost_fields(asked) == (("device_ids",) if devices else ())


@given(st.binary())
def test_no_body_is_more_than_refused(body: bytes) -> None:
    with suppress(InvalidJson, InvalidRequest):
        connect_nox_user.read_request(body)
    with suppress(InvalidUpstreamResponse):
        connect_nox_user.read_answer(body)


@pytest.mark.parametrize(
    ("body", "expected", "drifted"),
    [
        (b'{"manufacturer_user_id": "u", "nox_user_id": "n"}', V2Connection("u", "n"), False),
        (b'{"nox_user_id": "n", "manufacturer_user_id": "u", "x": [1]}', V2Connection("u", "n"), True),
    ],
)
def test_v2s_answer(body: bytes, expected: V2Connection, drifted: bool) -> None:
    told, drift = connect_nox_user.read_answer(body)
    assert (astuple(told), drift) == (astuple(expected), drifted)


@pytest.mark.parametrize(("policy", "devices"), [("echo", ("d", "d", "a")), ("drop", ()), ("reject", ())])
def test_device_ids_in_the_answer(policy: UnmappedPolicy, devices: tuple[str, ...]) -> None:
    data = connect_nox_user.to_v1(V1Request("u", ("d", "d", "a")), V2Connection("u", "n"), {"device_ids": policy})
    assert data.device_ids == devices  # type: ignore[attr-defined]  # a V1Connection


def test_a_present_field_is_refused_even_when_empty() -> None:
    with pytest.raises(UnmappedFieldRefused, match="device_ids is no longer supported"):
        connect_nox_user.refuse_unmapped(V1Request("u", ()), {"device_ids": "reject"})
    connect_nox_user.refuse_unmapped(V1Request("u"), {"device_ids": "reject"})
    connect_nox_user.refuse_unmapped(V1Request("u", ("d",)), {"device_ids": "echo"})
