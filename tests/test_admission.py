"""contract.md, "Admission": every row but the eighth, on a running proxy, in each way into its pipeline."""

import json

import pytest

from tests.processes import Proxy, Reply, Simulator, Wire, call

KEY = {"x-api-key": "demo-key"}
JSON = {**KEY, "content-type": "application/json"}
GOOD = b'{"manufacturer_user_id": "u-1", "device_ids": ["d-1", "d-2"]}'
LIMIT = 1_048_576


def failed(reply: Reply, status: int, code: str) -> bool:
    """Whether an answer is the v1 error envelope with that status and code."""
    told = reply.json()
    assert (reply.status, told["error_code"]) == (status, code), reply
    assert reply.headers["content-type"] == "application/json"
    assert list(told) == ["success", "timestamp", "error", "error_code", "message"]
    assert told["success"] is False
    assert isinstance(told["timestamp"], int)
    assert told["error"] == told["message"] != ""
    assert reply.headers["proxy-status"].startswith("nox-proxy; error=")
    if status == 401:
        assert reply.headers["www-authenticate"] == "ApiKey"
    return True


def succeeded(reply: Reply, user: str = "u-1", devices: tuple[str, ...] = ("d-1", "d-2")) -> bool:
    """Whether an answer is the v1 envelope of a connection."""
    assert reply.status == 201, reply
    assert reply.headers["content-type"] == "application/json"
    told = reply.json()
    assert list(told) == ["success", "timestamp", "data"]
    assert told["success"] is True
    assert isinstance(told["timestamp"], int)
    assert list(told["data"]) == ["manufacturer_user_id", "nox_user_id", "device_ids"]
    assert told["data"]["manufacturer_user_id"] == user
    assert told["data"]["device_ids"] == list(devices)
    return True


@pytest.fixture
def proxy(in_each_way: Proxy) -> Proxy:
    return in_each_way


@pytest.fixture(autouse=True)
def _fresh(v2: Simulator) -> None:
    v2.forget()


@pytest.mark.parametrize("path", ["/manufacturers/nox", "/manufacturers/nox/", "/manufacturers/nox?a=1&b"])
def test_2_the_path_with_or_without_a_slash(proxy: Proxy, path: str) -> None:
    assert succeeded(call(proxy.address, GOOD, JSON, path=path))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/manufacturers/nox//",
        "//manufacturers/nox",
        "/Manufacturers/Nox",
        "/manufacturers/n%6fx",
        "/manufacturers/../manufacturers/nox",
        "/manufacturers/suppliers",
        "/v2/manufacturer/device-connections",
        "/metrics",
        "/docs",
        "/%ff",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_2_any_other_path_is_not_found(proxy: Proxy, v2: Simulator, path: str, method: str) -> None:
    assert failed(call(proxy.address, GOOD, JSON, path=path, method=method), 404, "not_found")
    assert v2.calls() == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_3_another_method_is_refused(proxy: Proxy, v2: Simulator, method: str) -> None:
    reply = call(proxy.address, None, JSON, method=method)
    assert failed(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"
    assert v2.calls() == []


def test_3_head_gets_the_status_without_a_body(proxy: Proxy) -> None:
    reply = call(proxy.address, None, JSON, method="HEAD")
    assert (reply.status, reply.body, reply.headers["allow"]) == (405, b"", "POST")


@pytest.mark.parametrize("via", ["1.1 nox-proxy", "1.0 a, 1.1 NOX-proxy", "HTTP/1.1 nox-proxy (it, is me), 1.1 b"])
def test_4_our_own_name_in_via_is_a_loop(proxy: Proxy, v2: Simulator, via: str) -> None:
    assert failed(call(proxy.address, GOOD, {**JSON, "via": via}), 502, "proxy_loop_detected")
    assert v2.calls() == []


@pytest.mark.parametrize("via", ["1.1 nox-proxy-edge", "1.1 edge (nox-proxy)", "1.1 a, 1.1 b"])
def test_4_other_names_are_not(proxy: Proxy, via: str) -> None:
    assert succeeded(call(proxy.address, GOOD, {**JSON, "via": via}))


CREDENTIALS: list[tuple[list[tuple[str, str]], int, str]] = [
    ([], 401, "missing_api_key"),
    ([("x-api-key", "")], 401, "missing_api_key"),
    ([("authorization", "Bearer demo-key")], 401, "missing_api_key"),
    ([("authorization", "ApiKey")], 401, "missing_api_key"),
    ([("authorization", "ApiKey ")], 401, "missing_api_key"),
    ([("authorization", "demo-key")], 401, "missing_api_key"),
    ([("x-api-key", "demo-key"), ("x-api-key", "other")], 401, "conflicting_api_keys"),
    ([("x-api-key", "demo-key"), ("authorization", "ApiKey other")], 401, "conflicting_api_keys"),
    ([("authorization", "ApiKey a"), ("authorization", "ApiKey b")], 401, "conflicting_api_keys"),
    ([("x-api-key", "with space")], 401, "invalid_api_key"),
    ([("x-api-key", "sch\xf6n")], 401, "invalid_api_key"),
    ([("x-api-key", "k" * 513)], 401, "invalid_api_key"),
    ([("x-api-key", "demo-key")], 201, ""),
    ([("authorization", "ApiKey demo-key")], 201, ""),
    ([("authorization", "apikey   demo-key")], 201, ""),
    ([("x-api-key", "demo-key"), ("x-api-key", "demo-key")], 201, ""),
    ([("x-api-key", "demo-key"), ("authorization", "ApiKey demo-key")], 201, ""),
    ([("x-api-key", "demo-key"), ("authorization", "Bearer token")], 201, ""),
]


@pytest.mark.parametrize(("lines", "status", "code"), CREDENTIALS)
def test_5_to_7_the_credential(
    proxy: Proxy, v2: Simulator, lines: list[tuple[str, str]], status: int, code: str
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    message = f"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\n{head}content-length: {len(GOOD)}\r\n\r\n"
    with Wire(proxy.address) as wire:
        wire.send(message.encode("latin-1") + GOOD)
        reply = wire.answer()
    if status == 201:
        assert succeeded(reply)
    else:
        assert failed(reply, status, code)
        assert v2.calls() == []


def test_9_a_body_of_the_limit_is_taken(proxy: Proxy) -> None:
    frame = b'{"manufacturer_user_id": "u-1", "filler": "%s"}'
    body = frame % (b"x" * (LIMIT - len(frame) + 2))
    assert len(body) == LIMIT
    assert succeeded(call(proxy.address, body, JSON), devices=())


def test_9_one_byte_more_is_refused_by_its_announced_length(proxy: Proxy, v2: Simulator) -> None:
    reply = call(proxy.address, b"x" * (LIMIT + 1), JSON)
    assert failed(reply, 413, "payload_too_large")
    assert reply.headers["connection"] == "close"
    assert v2.calls() == []


def test_9_or_found_while_reading(proxy: Proxy) -> None:
    with Wire(proxy.address) as wire:
        wire.send(
            b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(17):
            wire.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        reply = wire.answer()
    assert failed(reply, 413, "payload_too_large")
    assert reply.headers["connection"] == "close"


def test_9_a_large_upload_still_reads_its_refusal(proxy: Proxy) -> None:
    """Closing on unread bytes would reset the connection, and the answer would be lost with it."""
    for _ in range(5):
        assert failed(call(proxy.address, b"x" * 5_000_000, JSON), 413, "payload_too_large")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "identity, br"}, 415),
        ({"content-encoding": "identity"}, 201),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json5"}, 415),
        ({"content-type": "+json"}, 415),
        ({"content-type": "application/json"}, 201),
        ({"content-type": "Application/JSON; charset=utf-8"}, 201),
        ({"content-type": "application/vnd.nox.v1+json"}, 201),
        ({"content-type": ""}, 201),
        ({}, 201),
    ],
)
def test_10_and_11_the_media_type(proxy: Proxy, headers: dict[str, str], status: int) -> None:
    reply = call(proxy.address, GOOD, {**KEY, **headers})
    assert succeeded(reply) if status == 201 else failed(reply, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b'{"manufacturer_user_id": NaN}',
        b'{"manufacturer_user_id": "u", "x": NaN}',
        b'{"manufacturer_user_id": "u", "x": -Infinity}',
        b'{"manufacturer_user_id": "\\ud800"}',
        b'{"manufacturer_user_id": "u", "x": "\\udfff"}',
        b'{"manufacturer_user_id": "\xff"}',
        b'{"manufacturer_user_id": "u", "x": "\xff"}',
        b'{"manufacturer_user_id": "u"} trailing',
        b'\xef\xbb\xbf{"manufacturer_user_id": "u"}',
        b'{"manufacturer_user_id": "u",}',
        b"{'manufacturer_user_id': 'u'}",
        b"[" * 100_000,
        b'{"manufacturer_user_id": "u", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        '{"manufacturer_user_id": "u"}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_12_what_is_not_strict_json(proxy: Proxy, v2: Simulator, body: bytes) -> None:
    assert failed(call(proxy.address, body, JSON), 400, "invalid_json")
    assert v2.calls() == []


def test_12_of_two_equal_names_the_last_counts(proxy: Proxy, v2: Simulator) -> None:
    body = b'{"manufacturer_user_id": 1, "manufacturer_user_id": "a", "manufacturer_user_id": "u-1"}'
    assert succeeded(call(proxy.address, body, JSON), devices=())
    assert v2.calls()[0]["body"] == '{"user_id":"u-1"}'


NO_USER = "manufacturer_user_id is required and must be a string"
NO_DEVICES = "device_ids must be an array of strings"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", NO_USER),
        (b'{"manufacturer_user_id": null}', NO_USER),
        (b'{"manufacturer_user_id": 4711}', NO_USER),
        (b'{"manufacturer_user_id": ["u"]}', NO_USER),
        (b'{"user_id": "u"}', NO_USER),
        (b'{"manufacturer_user_id": "u", "manufacturer_user_id": 1}', NO_USER),
        (b'{"manufacturer_user_id": "u", "device_ids": "d"}', NO_DEVICES),
        (b'{"manufacturer_user_id": "u", "device_ids": null}', NO_DEVICES),
        (b'{"manufacturer_user_id": "u", "device_ids": ["d", 1]}', NO_DEVICES),
        (b'{"manufacturer_user_id": "u", "device_ids": {"0": "d"}}', NO_DEVICES),
        (b"[]", "Request body must be a JSON object"),
        (b'"u"', "Request body must be a JSON object"),
        (b"null", "Request body must be a JSON object"),
    ],
)
def test_13_the_form(proxy: Proxy, v2: Simulator, body: bytes, text: str) -> None:
    reply = call(proxy.address, body, JSON)
    assert failed(reply, 400, "invalid_request")
    assert reply.json()["message"] == text
    assert v2.calls() == []


@pytest.mark.parametrize("user", ["", " ", "0"])
def test_13_an_empty_user_is_v2s_to_judge(proxy: Proxy, v2: Simulator, user: str) -> None:
    body = json.dumps({"manufacturer_user_id": user, "other": {"deep": [1]}}).encode()
    assert succeeded(call(proxy.address, body, JSON), user, ())
    assert json.loads(v2.calls()[0]["body"]) == {"user_id": user}


ORDER = [
    ("/nowhere", "GET", {}, b"", 404),
    ("/manufacturers/nox", "GET", {"via": "1.1 nox-proxy"}, b"", 405),
    ("/manufacturers/nox", "POST", {"via": "1.1 nox-proxy"}, b"", 502),
    ("/manufacturers/nox", "POST", {}, b"x" * (LIMIT + 1), 401),
    ("/manufacturers/nox", "POST", {**KEY, "authorization": "ApiKey \xf6"}, b"", 401),
    ("/manufacturers/nox", "POST", {**KEY, "content-encoding": "gzip"}, b"x" * (LIMIT + 1), 413),
    ("/manufacturers/nox", "POST", {**KEY, "content-type": "text/plain"}, b"not json", 415),
    ("/manufacturers/nox", "POST", JSON, b'{"device_ids": 1, "x": NaN}', 400),
]


@pytest.mark.parametrize(("path", "method", "headers", "body", "status"), ORDER)
def test_the_first_that_fails_answers(
    proxy: Proxy, path: str, method: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert call(proxy.address, body, headers, path=path, method=method).status == status


def test_an_early_answer_closes_and_a_late_one_does_not(proxy: Proxy) -> None:
    """The body of a refused head may be unread, so the connection ends; once it is read, it goes on."""
    head = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n%s\r\n{}"
    with Wire(proxy.address) as wire:
        for _ in range(2):
            wire.send(head % b"x-api-key: demo-key\r\n")
            reply = wire.answer()
            assert (reply.status, reply.headers.get("connection")) == (400, None)
        wire.send(head % b"")
        reply = wire.answer()
        assert (reply.status, reply.headers.get("connection")) == (401, "close")
        assert wire.is_closed()
