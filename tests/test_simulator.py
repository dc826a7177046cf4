"""The stand-ins answer as the contract says the services do."""

import json
from collections.abc import Iterator

import pytest

from tests.processes import Simulator, Wire, call

KEY = {"x-api-key": "k-1"}
V2_PATH = "/v2/manufacturer/device-connections"


@pytest.fixture(scope="module")
def v1() -> Iterator[Simulator]:
    running = Simulator("v1", "--key", "k-1")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def own_v2() -> Iterator[Simulator]:
    running = Simulator("v2", "--key", "k-1", "--key", "k-2")
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("headers", "body", "status", "text"),
    [
        ({}, b"{}", 401, "Missing API key"),
        ({"x-api-key": "no"}, b"{}", 401, "Invalid API key"),
        ({"authorization": "ApiKey k-1"}, b"{}", 401, "Missing API key"),
        (KEY, b"{}", 400, "user_id is required and must be a string"),
        (KEY, b"[]", 400, "user_id is required and must be a string"),
        (KEY, b"{", 400, "user_id is required and must be a string"),
        (KEY, b'{"user_id": 1}', 400, "user_id is required and must be a string"),
    ],
)
def test_v2_refuses(own_v2: Simulator, headers: dict[str, str], body: bytes, status: int, text: str) -> None:
    reply = call(own_v2.address, body, headers, path=V2_PATH)
    assert (reply.status, reply.json()) == (status, {"error": text})


def test_v2_resolves_the_same_user_of_the_same_key_to_the_same_id(own_v2: Simulator) -> None:
    def user(name: str, key: str) -> str:
        body = json.dumps({"user_id": name}).encode()
        reply = call(own_v2.address, body, {"x-api-key": key}, path=V2_PATH)
        assert reply.status == 201
        assert list(reply.json()) == ["manufacturer_user_id", "nox_user_id"]
        return str(reply.json()["nox_user_id"])

    assert user("a", "k-1") == user("a", "k-1")
    assert len({user("a", "k-1"), user("b", "k-1"), user("a", "k-2")}) == 3


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, b"{}", 401, "missing_api_key"),
        ({"authorization": "Bearer k-1"}, b"{}", 401, "missing_api_key"),
        ({"authorization": "ApiKey no"}, b"{}", 401, "invalid_api_key"),
        (KEY, b"{}", 400, "invalid_request"),
        (KEY, b'{"manufacturer_user_id": "u", "device_ids": [1]}', 400, "invalid_request"),
    ],
)
def test_v1_refuses_in_its_envelope(
    v1: Simulator, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    told = call(v1.address, body, headers).json()
    assert list(told) == ["success", "timestamp", "error", "error_code", "message"]
    assert (told["success"], told["error_code"]) == (False, code)


@pytest.mark.parametrize("headers", [KEY, {"authorization": "ApiKey k-1"}])
def test_v1_connects(v1: Simulator, headers: dict[str, str]) -> None:
    reply = call(v1.address, b'{"manufacturer_user_id": "u", "device_ids": ["d"]}', headers)
    told = reply.json()
    assert (reply.status, told["success"]) == (201, True)
    assert told["data"].pop("nox_user_id")
    assert told["data"] == {"manufacturer_user_id": "u", "device_ids": ["d"]}


def test_v1_has_faults_in_its_envelope(v1: Simulator) -> None:
    told = call(v1.address, b"{}", {**KEY, "simulate-fault": "status=500"}).json()
    assert told["error_code"] == "internal_server_error"


def test_a_header_orders_a_fault_for_one_call(own_v2: Simulator) -> None:
    body = b'{"user_id": "u"}'
    assert call(own_v2.address, body, {**KEY, "simulate-fault": "status=503"}, path=V2_PATH).status == 503
    assert call(own_v2.address, body, {**KEY, "simulate-fault": "nonsense"}, path=V2_PATH).status == 400
    assert call(own_v2.address, body, KEY, path=V2_PATH).status == 201


def test_a_setting_orders_a_fault_for_all() -> None:
    v2 = Simulator("v2", "--fault", "html")
    try:
        reply = call(v2.address, b'{"user_id": "u"}', {"x-api-key": "demo-key"}, path=V2_PATH)
        assert (reply.status, reply.headers["content-type"]) == (502, "text/html; charset=utf-8")
    finally:
        v2.stop()


def test_a_fault_it_does_not_know_is_refused(own_v2: Simulator) -> None:
    reply = call(own_v2.address, b"fire", method="PUT", path="/_simulator/fault")
    assert (reply.status, reply.body[:11]) == (400, b"not a fault")


@pytest.mark.parametrize("fault", ["close", "cut", "garbage"])
def test_a_fault_below_http(own_v2: Simulator, fault: str) -> None:
    with Wire(own_v2.address) as wire:
        head = f"POST {V2_PATH} HTTP/1.1\r\nhost: a\r\nsimulate-fault: {fault}\r\ncontent-length: 0\r\n\r\n"
        wire.send(head.encode())
        expected = {"close": b"", "cut": b"HTTP/1.1 201 Created", "garbage": b"\x15\x03\x01 no HTTP at all"}
        assert wire.rest().startswith(expected[fault])


def test_the_calls_that_came(own_v2: Simulator) -> None:
    own_v2.forget()
    call(own_v2.address, b'{"user_id": "\xc3\xa9"}', {**KEY, "X-Odd": "1"}, path=V2_PATH)
    (came,) = own_v2.calls()
    assert (came["method"], came["path"], came["body"]) == ("POST", V2_PATH, '{"user_id": "\xc3\xa9"}')
    assert ["x-odd", "1"] in came["headers"]
