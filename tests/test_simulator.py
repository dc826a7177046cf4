"""The stand-ins answer as the contract says the services do."""

import gzip
import json
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.simulator import recording
from proxy.simulator.recording import BadLine, Recorded, read_calls
from tests.processes import Simulator, Wire, call, eventually

KEY = {"x-api-key": "k-1"}
V2_PATH = "/v2/manufacturer/device-connections"


class Service(Simulator):
    """One whose lines are under test."""

    measured = True


@pytest.fixture(scope="module")
def v1() -> Iterator[Simulator]:
    running = Service("v1", "--key", "k-1")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def own_v2() -> Iterator[Simulator]:
    running = Service("v2", "--key", "k-1", "--key", "k-2")
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


def v2_user(v2: Simulator, name: str, key: str) -> str:
    body = json.dumps({"user_id": name}).encode()
    reply = call(v2.address, body, {"x-api-key": key}, path=V2_PATH)
    assert reply.status == 201
    assert list(reply.json()) == ["manufacturer_user_id", "nox_user_id"]
    return str(reply.json()["nox_user_id"])


def v1_user(v1: Simulator, name: str, key: str) -> str:
    body = json.dumps({"manufacturer_user_id": name}).encode()
    return str(call(v1.address, body, {"x-api-key": key}).json()["data"]["nox_user_id"])


def test_the_same_user_of_the_same_key_has_the_same_id_in_both_versions(v1: Simulator, own_v2: Simulator) -> None:
    assert v2_user(own_v2, "a", "k-1") == v2_user(own_v2, "a", "k-1") == v1_user(v1, "a", "k-1")
    assert len({v2_user(own_v2, *who) for who in (("a", "k-1"), ("b", "k-1"), ("a", "k-2"))}) == 3


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


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_mismatch_is_another_nox_user(version: str, v1: Simulator, own_v2: Simulator) -> None:
    service = {"v1": v1, "v2": own_v2}[version]
    user = {"v1": v1_user, "v2": v2_user}[version]
    right = user(service, "a", "k-1")
    with service.fault("mismatch"):
        assert user(service, "a", "k-1") not in (right, user(service, "b", "k-1"))
        assert call(service.address, b"[]", {"x-api-key": "k-1"}, path=service.path).status == 400
    assert user(service, "a", "k-1") == right


def test_a_setting_orders_a_fault_for_all() -> None:
    v2 = Service("v2", "--fault", "html")
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


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ("status=503", 503, {"error": "Internal server error"}),
        ("odd", 201, {"connected": True}),
        ("drift", 201, {"manufacturer_user_id": "u", "nox_user_id": "…", "region": "eu"}),
        ("gzip", 201, {"manufacturer_user_id": "u", "nox_user_id": "…"}),
        ("delay=0.01", 201, {"manufacturer_user_id": "u", "nox_user_id": "…"}),
    ],
)
def test_a_fault_in_what_is_told(own_v2: Simulator, fault: str, status: int, told: dict[str, str]) -> None:
    reply = call(own_v2.address, b'{"user_id": "u"}', {**KEY, "simulate-fault": fault}, path=V2_PATH)
    packed = reply.headers.get("content-encoding") == "gzip"
    said = json.loads(gzip.decompress(reply.body) if packed else reply.body)
    assert packed == (fault == "gzip")
    assert (reply.status, {**said, **({"nox_user_id": "…"} if "nox_user_id" in said else {})}) == (status, told)


def test_one_that_hangs_says_nothing(own_v2: Simulator) -> None:
    own_v2.forget()
    host, _, port = own_v2.address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {V2_PATH} HTTP/1.1\r\nhost: a\r\nsimulate-fault: hang\r\ncontent-length: 0\r\n\r\n"
        connection.sendall(head.encode())
        assert eventually(lambda: len(own_v2.calls()) == 1)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)


def test_the_calls_that_came(own_v2: Simulator) -> None:
    own_v2.forget()
    call(own_v2.address, b'{"user_id": "\xc3\xa9"}', {**KEY, "X-Odd": "1"}, path=V2_PATH)
    (came,) = own_v2.calls()
    assert (came["method"], came["path"], came["body"]) == ("POST", V2_PATH, '{"user_id": "\xc3\xa9"}')
    assert ["x-odd", "1"] in came["headers"]


@pytest.mark.parametrize(
    ("version", "method", "path", "status"),
    [
        ("v1", "POST", "/manufacturers/nox/", 400),
        ("v1", "POST", "/manufacturers/suppliers", 201),
        ("v1", "POST", "/users/4711/link?a=1", 201),
        ("v1", "GET", "/manufacturers/nox", 404),
        ("v1", "POST", "/users/4711/unlink", 404),
        ("v1", "DELETE", "/a//b/%2e%2E/c%2Fd?e=%0a&e=;", 404),
        ("v2", "POST", "/v2/manufacturer/link-sessions", 201),
        ("v2", "POST", "/v2/supplier/link-sessions", 201),
        ("v2", "PATCH", "/v2/", 404),
    ],
)
def test_every_other_path_is_answered_and_noted(
    v1: Simulator, own_v2: Simulator, version: str, method: str, path: str, status: int
) -> None:
    service = {"v1": v1, "v2": own_v2}[version]
    service.forget()
    reply = call(service.address, b"\xff\0", {"x-api-key": "k-1"}, method=method, path=path)
    (came,) = service.calls()
    assert (came["method"], came["target"], came["body"]) == (method, path, "\xff\0")
    assert reply.status == status
    if status == 404:
        assert reply.json()["error"] == "Not found"
    assert call(service.address, b"", {}, path="/users/4711/link").status == {"v1": 401, "v2": 404}[version]


def test_v1_records_its_calls_without_keys(tmp_path: Path) -> None:
    """Each kind of call once; the file goes on where it ended, after a restart too."""
    file = tmp_path / "calls.ndjson"
    bodies = [b'{"manufacturer_user_id": "\xc3\xa9", "x": "not-to-be-kept"}', b"\xff other-key", b""]
    for _ in range(2):
        v1 = Service("v1", "--key", "not-to-be-kept", "--record", str(file))
        try:
            call(v1.address, bodies[0], {"x-api-key": "not-to-be-kept", "content-type": "application/json"})
            call(v1.address, bodies[1], {"authorization": "ApiKey other-key", "content-encoding": "br"})
            call(v1.address, bodies[2], {"simulate-fault": "close"}, path="/manufacturers/nox/?k=not-to-be-kept")
        except ConnectionError:
            pass
        call(v1.address, b"not-to-be-kept", {}, path="/users/u/link")
        v1.stop()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(key in file.read_bytes() for key in (b"not-to-be-kept", b"other-key"))
    calls = [*read_calls(file.read_bytes()).values()]
    assert calls[:3] == calls[3:]
    assert calls[:3] == [
        Recorded(
            path="/manufacturers/nox",
            body='{"manufacturer_user_id": "é", "x": "[key]"}',
            content_type="application/json",
            status=201,
        ),
        Recorded(
            path="/manufacturers/nox",
            body_base64=b"\xff [key]",
            credential="authorization",
            content_encoding="br",
            status=401,
        ),
        Recorded(path="/manufacturers/nox/", credential="none"),
    ]


def test_a_record_that_cannot_be_written_fails_no_call() -> None:
    v1 = Service("v1", "--record", "/dev/full")
    try:
        assert call(v1.address, b'{"manufacturer_user_id": "u"}', {"x-api-key": "demo-key"}).status == 201
        v1.find("ERROR a call is not recorded: No space left")
    finally:
        v1.stop()


GOOD_LINE = b'{"path": "/manufacturers/nox", "body": "{}"}'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"secret", "not a JSON object in UTF-8"),
        (b'{"path": "\xff"}', "not a JSON object in UTF-8"),
        (b"[" * 100_000, "not a JSON object"),
        (b'["secret"]', "not a JSON object"),
        (b"{}", "path: missing, or not of its form"),
        (b'{"path": "secret"}', "path: must be visible ASCII that begins with /"),
        (b'{"path": "/", "secret": 1}', "a field that is none of path, body,"),
        (b'{"path": "/", "credential": "secret"}', "credential: missing, or not of its form"),
        (b'{"path": "/", "body": {"secret": 1}}', "body: missing, or not of its form"),
        (b'{"path": "/", "body_base64": "!"}', "body_base64: missing, or not of its form"),
        (b'{"path": "/", "body": "a", "body_base64": "YQ=="}', "body: there is body_base64 too"),
        (b'{"path": "/", "content_type": "a\\nsecret: b"}', "content_type and content_encoding: no header's value"),
        (b'{"path": "/", "status": 99}', "status: must be from 200 to 599"),
        (b'{"path": "/", "status": "secret"}', "status: missing, or not of its form"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_line_that_is_no_call_is_named_by_its_number_without_its_values(line: bytes, text: str) -> None:
    with pytest.raises(BadLine) as caught:
        read_calls(b"\n".join((GOOD_LINE, b"", line, GOOD_LINE)))
    assert str(caught.value).startswith(f"line 3: {text}")
    assert "secret" not in str(caught.value)


def test_lines_that_are_calls() -> None:
    """Windows' line ends, and none after the last line, are fine."""
    assert list(read_calls(GOOD_LINE + b"\r\n\r\n  \n" + GOOD_LINE)) == [1, 4]
    assert read_calls(b"") == {}


def test_the_described_format_is_the_one_that_is_read() -> None:
    """Each example in the module's docstring, and each field's name."""
    described = recording.__doc__ or ""
    (example,) = re.findall(r"^    (\{.*\})$", described, re.MULTILINE)
    assert read_calls(example.encode())[1].status == 201
    assert set(re.findall(r"^(\w+)  ", described, re.MULTILINE)) == set(recording.Recorded.__struct_fields__)
