"""contract.md, "Admission": every row but the eighth, on a running proxy."""

import contextlib
import json

import pytest

from tests.processes import Proxy, Reply, Simulator, Wire, call, eventually

KEY = {"x-api-key": "demo-key"}
JSON = {**KEY, "content-type": "application/json"}
GOOD = b'{"manufacturer_user_id": "u-1", "device_ids": ["d-1", "d-2"]}'
LIMIT = 1_048_576
CHUNKED = b"transfer-encoding: chunked"


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


@pytest.fixture(autouse=True)
def _fresh(v2: Simulator) -> None:
    v2.forget()


def raw(proxy: Proxy, message: bytes) -> tuple[Reply, bool]:
    """The answer to raw bytes, and whether the connection closes after it."""
    with Wire(proxy.address) as wire:
        wire.send(message)
        reply = wire.answer()
        return reply, reply.headers.get("connection") == "close" and wire.is_closed()


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "bad_request"),
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/9.9\r\nhost: a\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\nhost: a b\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\nhost: u@h\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\nhost: [::1\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\nhost: a:b\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.0\r\nhost: a/b\r\n\r\n", 400, "bad_request"),
        (b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400, "bad_request"),
        (
            b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n%s\r\n\r\nno size\r\n" % CHUNKED,
            400,
            "bad_request",
        ),
        (b"CONNECT auth.nox.energy:443 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431, "request_header_fields_too_large"),
        (b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431, "request_header_fields_too_large"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 300_000, 431, "request_header_fields_too_large"),
    ],
)
def test_1_a_malformed_message_is_refused_and_closed(proxy: Proxy, message: bytes, status: int, code: str) -> None:
    reply, closed = raw(proxy, message)
    assert failed(reply, status, code)
    assert closed
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("host", [b"", b"auth.nox.energy", b"a:8080", b"a:", b"[::1]:80", b"10.0.0.1", b"x_y-z.%20"])
def test_1_a_valid_host(proxy: Proxy, host: bytes) -> None:
    reply, _ = raw(proxy, b"GET /else HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host)
    assert reply.status == 404


def test_1_large_bodies_do_not_count_as_headers(proxy: Proxy) -> None:
    body = json.dumps({"manufacturer_user_id": "u-1", "filler": "x" * 100_000}).encode()
    with Wire(proxy.address) as wire:
        for _ in range(3):
            wire.send(b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n")
            wire.send(b"content-length: %d\r\n\r\n" % len(body) + body)
            assert succeeded(wire.answer(), devices=())


def test_1_nor_does_a_body_that_shares_its_packet_with_the_next_head(proxy: Proxy) -> None:
    body = json.dumps({"manufacturer_user_id": "u-1", "filler": "x" * 900_000}).encode()
    head = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    with Wire(proxy.address) as wire:
        wire.send(head + body + head[:20])
        for _ in range(3):
            assert succeeded(wire.answer(), devices=())
            wire.send(head[20:] + body + head[:20])


CALL = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n"
WHOLE = CALL + b"content-length: %d\r\n\r\n%s" % (len(GOOD), GOOD)


@pytest.mark.parametrize(
    ("behind", "status", "code"),
    [
        (b"\x00\x01garbage\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (CALL + CHUNKED + b"\r\n\r\nno size\r\n", 400, "bad_request"),
        (CALL + b"x: " + b"y" * 40_000 + b"\r\n\r\n", 431, "request_header_fields_too_large"),
        (WHOLE + b"nonsense\r\n\r\n", 201, ""),
    ],
    ids=["garbage", "no host", "a malformed body", "a head too large", "a call, then garbage"],
)
def test_1_what_follows_a_request_does_not_cost_its_answer(
    proxy: Proxy, v2: Simulator, behind: bytes, status: int, code: str
) -> None:
    """A request in flight is answered first, then what is behind it, each once, in their order."""
    with v2.fault("delay=0.1"), Wire(proxy.address) as wire:
        wire.send(WHOLE + behind)
        assert succeeded(wire.answer())
        if status == 201:
            assert succeeded(wire.answer())
            status, code = 400, "bad_request"
        reply = wire.answer()
        assert failed(reply, status, code)
        assert reply.headers["connection"] == "close"
        assert wire.is_closed()


@pytest.mark.parametrize("rest", [b"no size\r\n", b"5\r\n{}", b"-1\r\n"])
def test_1_a_malformed_body_is_answered_and_logged_once(proxy: Proxy, rest: bytes) -> None:
    request_id = f"malformed-{rest.hex()}"
    with Wire(proxy.address) as wire:
        wire.send(CALL + CHUNKED + b"\r\nx-request-id: %s\r\n\r\n" % request_id.encode() + rest + b"0\r\nx\r\n")
        reply = wire.answer()
        assert failed(reply, 400, "bad_request")
        assert reply.headers["x-request-id"] == request_id
        assert wire.is_closed()
    (line,) = proxy.lines(request_id)
    assert (line["status"], line["error_code"]) == (400, "bad_request")


def test_1_a_refusal_is_counted_and_logged(proxy: Proxy) -> None:
    series = (
        'nox_proxy_requests_total{endpoint="unmatched",manufacturer="unauthenticated",status="400",upstream="none"}'
    )
    before = proxy.metrics().get(series, 0)
    reply, _ = raw(proxy, b"nonsense\r\n\r\n")
    assert proxy.metrics()[series] == before + 1
    assert [line["error_code"] for line in proxy.lines(reply.headers["x-request-id"])] == ["bad_request"]


@pytest.mark.parametrize("size", [33_000, 60_000, 150_000])
def test_1_a_head_in_two_packets_is_no_larger_than_in_one(proxy: Proxy, size: int) -> None:
    """The answer to a first request shows that the proxy has read the first half."""
    head = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx: " + b"y" * size
    with Wire(proxy.address) as wire:
        wire.send(WHOLE + head)
        assert succeeded(wire.answer())
        wire.send(b"\r\n\r\n")
        assert failed(wire.answer(), 431, "request_header_fields_too_large")


def test_1_white_space_around_a_value_is_none_of_it(proxy: Proxy) -> None:
    reply, _ = raw(proxy, WHOLE.replace(b"host: a", b"host:\t a \t").replace(b"demo-key", b" demo-key \t "))
    assert succeeded(reply)


def test_1_a_declined_upgrade_keeps_its_version(proxy: Proxy) -> None:
    """HTTP/1.0 needs no Host."""
    reply, _ = raw(proxy, WHOLE.replace(b"1.1\r\nhost: a", b"1.0\r\nconnection: upgrade\r\nupgrade: h2c"))
    assert succeeded(reply)


TRAILERS = b"x-api-key: demo-key\r\nvia: 1.1 nox-proxy\r\nx-request-id: trailer\r\nidempotency-key: trailer\r\n"


@pytest.mark.parametrize(("head", "status"), [(CALL, 201), (CALL.replace(b"x-api-key", b"x"), 401)])
def test_1_a_trailer_is_no_header(proxy: Proxy, v2: Simulator, head: bytes, status: int) -> None:
    """Neither a key nor anything else comes out of one, though it lies in the same packet."""
    chunk = b"%x\r\n%s\r\n" % (len(GOOD), GOOD)
    with Wire(proxy.address) as wire:
        wire.send(head + CHUNKED + b"\r\n\r\n" + chunk + b"0\r\n" + TRAILERS + b"\r\n")
        reply = wire.answer()
    assert (reply.status, reply.headers["x-request-id"] == "trailer") == (status, False)
    assert "idempotency-key" not in [name for came in v2.calls() for name, _ in came["headers"]]


@pytest.mark.parametrize("endless", [b"a: b\r\n", b"c" * 10_000], ids=["trailers", "a trailer"])
def test_1_trailers_are_bounded(proxy: Proxy, endless: bytes) -> None:
    with Wire(proxy.address) as wire:
        wire.send(CALL + CHUNKED + b"\r\n\r\n2\r\n{}\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000):
                wire.send(endless * 10)
        wire.is_closed()
    assert eventually(lambda: proxy.metrics()["nox_proxy_requests_in_progress"] == 0)


def test_1_earlier_requests_count_for_no_later_body(proxy: Proxy) -> None:
    """60 kB of heads without bodies, then a call whose body comes by itself."""
    with Wire(proxy.address) as wire:
        for _ in range(600):
            wire.send(b"GET /else HTTP/1.1\r\nhost: a\r\nx: %s\r\n\r\n" % (b"y" * 60))
            assert wire.answer().status == 404
        wire.send(CALL + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(GOOD))
        assert wire.answer().status == 100
        wire.send(GOOD)
        assert succeeded(wire.answer())


def test_1_a_length_of_many_digits_is_a_number_all_the_same(proxy: Proxy) -> None:
    digits = b"0" * 5_000 + b"%d" % len(GOOD)
    reply, _ = raw(proxy, CALL + b"content-length: " + digits + b"\r\n\r\n" + GOOD)
    assert succeeded(reply)


@pytest.mark.parametrize("version", [b"2.0", b"0.9", b"1.2"])
def test_1_a_version_that_we_do_not_speak(proxy: Proxy, version: bytes) -> None:
    reply, closed = raw(proxy, WHOLE.replace(b"HTTP/1.1", b"HTTP/" + version))
    assert failed(reply, 400, "bad_request")
    assert closed


def test_1_a_caller_may_close_its_side_and_still_read_its_answers(proxy: Proxy, v2: Simulator) -> None:
    """RFC 9112, section 9.6: not to be taken for one that left."""
    with v2.fault("delay=0.1"), Wire(proxy.address) as wire:
        wire.send(WHOLE * 2)
        wire.half_close()
        assert succeeded(wire.answer())
        reply = wire.answer()
        assert succeeded(reply)
        assert reply.headers["connection"] == "close"
        assert wire.is_closed()


def test_1_repeated_fields_cost_no_more_than_others(proxy: Proxy) -> None:
    """6,000 of one name are gathered in linear time; the square of it would take seconds for a few dozen."""
    many = b"GET /else HTTP/1.1\r\nhost: a\r\n" + b"a:\r\n" * 6_000 + b"\r\n"
    with Wire(proxy.address) as wire:
        wire.send(many * 3)
        assert [wire.answer().status for _ in range(3)] == [404] * 3


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


def test_expect_100_continue_is_answered_only_when_the_body_is_wanted(proxy: Proxy) -> None:
    head = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: %d\r\n%s\r\n"
    with Wire(proxy.address) as wire:
        wire.send(head % (len(GOOD), b"x-api-key: demo-key\r\n"))
        assert wire.answer().status == 100
        wire.send(GOOD)
        assert succeeded(wire.answer())
        wire.send(head % (len(GOOD), b""))
        assert wire.answer().status == 401


def test_an_upgrade_is_declined_and_the_call_answered(proxy: Proxy) -> None:
    """Java's HttpClient asks for h2c on its first call, with the body behind it."""
    message = (
        b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAEAAEAAAAIAAAAB\r\nx-api-key: demo-key\r\ncontent-length: %d\r\n\r\n%s"
    )
    with Wire(proxy.address) as wire:
        for _ in range(2):
            wire.send(message % (len(GOOD), GOOD))
            assert succeeded(wire.answer())


def test_a_thousand_upgrades_in_one_packet_are_declined_one_by_one(proxy: Proxy) -> None:
    message = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    with Wire(proxy.address) as wire:
        wire.send(message * 1_000)
        assert {wire.answer().status for _ in range(2)} == {404}
