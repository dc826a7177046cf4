"""The OpenAPI files say what the code says."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import pytest
import yaml

from proxy.contract import errors
from proxy.contract.changes.connect_nox_user import V1Connection, V1Request, V2Connection, V2Request, connect_nox_user
from proxy.contract.envelope import Failure, Success, V2Error
from proxy.contract.messages import Body
from tests.processes import ROOT

CHANGE = connect_nox_user
ELSEWHERE: tuple[type[errors.ProxyError], ...] = (errors.NotFound, errors.CallerGone)
"""Errors that no caller reads on a v1 path: one is for other paths, of the other the caller has gone."""


@cache
def described(version: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / f"proxy/contract/openapi/{version}.yaml").read_text())
    return document


def operation(version: str) -> dict[str, Any]:
    path = {"v1": CHANGE.v1_path, "v2": CHANGE.v2_path}[version]
    found: dict[str, Any] = described(version)["paths"][path]["post"]
    return found


def resolved(version: str, value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: dict[str, Any] = described(version)
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def shape(schema: dict[str, Any]) -> object:
    """What a schema says of a value's type; of another message it says only that it is one."""
    if "$ref" in schema:
        return "message"
    return [shape(schema["items"])] if schema["type"] == "array" else schema["type"]


def answers(version: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every status with its answer and its JSON."""
    for status, answer in operation(version)["responses"].items():
        yield status, answer, answer["content"]["application/json"]


@pytest.mark.parametrize(("version", "path"), [("v1", CHANGE.v1_path), ("v2", CHANGE.v2_path)])
def test_the_one_call(version: str, path: str) -> None:
    """The path is the version change's."""
    paths = described(version)["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == {path: {"post"}}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("v1", V1Request),
        ("v1", V1Connection),
        ("v1", Success),
        ("v1", Failure),
        ("v2", V2Request),
        ("v2", V2Connection),
        ("v2", V2Error),
    ],
)
def test_messages(version: str, message: type[Body]) -> None:
    """Names, types and requiredness are the struct's; nothing is closed, for both versions bear other fields."""
    ours = msgspec.json.schema(message)["$defs"][message.__name__]
    theirs = described(version)["components"]["schemas"][message.__name__]
    assert theirs["required"] == ours["required"]
    assert {name: shape(value) for name, value in theirs["properties"].items()} == {
        name: shape(value) for name, value in ours["properties"].items()
    }
    assert theirs.get("additionalProperties", True) is True


@pytest.mark.parametrize(("version", "schemas"), [("v1", 4), ("v2", 3)])
def test_every_schema_is_a_message(version: str, schemas: int) -> None:
    """A schema that the table above does not name would be held to nothing."""
    assert len(described(version)["components"]["schemas"]) == schemas


@pytest.mark.parametrize(
    ("version", "request_of", "success_of", "failure_of"),
    [("v1", "V1Request", "Success", "Failure"), ("v2", "V2Request", "V2Connection", "V2Error")],
)
def test_which_message_where(version: str, request_of: str, success_of: str, failure_of: str) -> None:
    """201 is the success, every other status a failure."""
    body = operation(version)["requestBody"]
    assert body["required"] is True
    found = {"request": body["content"]["application/json"], **{status: what for status, _, what in answers(version)}}
    names = {where: what["schema"]["$ref"].rpartition("/")[2] for where, what in found.items()}
    expected = dict.fromkeys(names, failure_of) | {"request": request_of, "201": success_of}
    assert names == expected


def test_v1_envelopes() -> None:
    """`success` tells the two apart, and `data` is the change's."""
    schemas = described("v1")["components"]["schemas"]
    assert schemas["Success"]["properties"]["success"]["const"] is True
    assert schemas["Failure"]["properties"]["success"]["const"] is False
    assert schemas["Success"]["properties"]["data"]["$ref"].endswith("/V1Connection")


@pytest.mark.parametrize(("version", "schemes"), [("v1", {"x-api-key", "Authorization"}), ("v2", {"x-api-key"})])
def test_credentials(version: str, schemes: set[str]) -> None:
    """One of them is enough."""
    known = described(version)["components"]["securitySchemes"]
    assert {(scheme["type"], scheme["in"]) for scheme in known.values()} == {("apiKey", "header")}
    assert {known[name]["name"] for way in operation(version)["security"] for name in way} == schemes
    assert all(len(way) == 1 for way in operation(version)["security"])


def test_the_deprecation_headers_stand_on_every_answer() -> None:
    for status, answer in operation("v1")["responses"].items():
        assert {"Deprecation", "Sunset", "Link"} <= set(answer["headers"]), status


def refusals(under: type[errors.ProxyError] = errors.ProxyError) -> Iterator[type[errors.ProxyError]]:
    for error in under.__subclasses__():
        if not error.__subclasses__():
            yield error
        yield from refusals(error)


@pytest.mark.parametrize("error", [error for error in refusals() if error not in ELSEWHERE])
def test_every_refusal_is_described(error: type[errors.ProxyError]) -> None:
    """Its status is listed, with the header lines that belong to it."""
    answer = operation("v1")["responses"][str(error.status)]
    headers = {name.lower(): resolved("v1", header) for name, header in answer["headers"].items()}
    for name, value in error.fields:
        schema = headers[name.decode()]["schema"]
        assert schema.get("const", value.decode()) == value.decode()


def test_every_described_status_is_a_refusal() -> None:
    """And nothing is listed that the proxy cannot say; v2's other statuses fall under `default`."""
    ours = {str(error.status) for error in refusals() if error not in ELSEWHERE}
    assert set(operation("v1")["responses"]) == ours | {"201", "default"}


def request_example(version: str) -> Any:
    return operation(version)["requestBody"]["content"]["application/json"]["example"]


def examples(version: str) -> dict[str, Any]:
    """The answers' examples by their status."""
    return {status: what["example"] for status, _, what in answers(version) if "example" in what}


def test_request_and_success_examples() -> None:
    """v1's example becomes v2's, v2's answer becomes v1's, and the header names what is lost."""
    asked = CHANGE.read_request(json.dumps(request_example("v1")).encode())
    assert msgspec.to_builtins(CHANGE.to_v2(asked)) == request_example("v2")
    told, drifted = CHANGE.read_answer(json.dumps(examples("v2")["201"]).encode())
    assert not drifted
    connection = CHANGE.to_v1(asked, told, {"device_ids": "echo"})
    assert json.loads(msgspec.json.encode(connection)) == examples("v1")["201"]["data"]
    assert CHANGE.lost_fields(asked) == (described("v1")["components"]["headers"]["Unmapped"]["schema"]["const"],)


@pytest.mark.parametrize(
    ("version", "message", "statuses"), [("v1", Failure, ["400", "401"]), ("v2", V2Error, ["400", "401", "500"])]
)
def test_failure_examples(version: str, message: type[Body], statuses: list[str]) -> None:
    """Each is a whole message and nothing else."""
    failures = {status: example for status, example in examples(version).items() if status != "201"}
    assert list(failures) == statuses
    for example in failures.values():
        assert msgspec.to_builtins(msgspec.convert(example, message)) == example
