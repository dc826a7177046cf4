"""contract.md, "From v2" and "device_ids": what the caller gets for whatever v2 does, by each transport and door."""

import json
from collections.abc import Iterator

import pytest

from tests.processes import DOORS, Canned, Proxy, Simulator, call
from tests.test_admission import GOOD, JSON, failed, succeeded

CONNECTED = b'{"manufacturer_user_id": "u-1", "nox_user_id": "n-1"}'
EACH = (("keepalive", "direct"), ("httpx", "direct"), ("keepalive", "asgi"))
"""The transports, and the doors."""


@pytest.fixture
def proxy(in_each_way: Proxy) -> Proxy:
    return in_each_way


@pytest.fixture(scope="module")
def canned() -> Iterator[Canned]:
    upstream = Canned()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module", params=EACH, ids=" ".join)
def each(request: pytest.FixtureRequest, canned: Canned) -> Iterator[Proxy]:
    transport, door = request.param
    running = Proxy(
        canned.url,
        door=door,
        UPSTREAMS__V2__TRANSPORT=transport,
        UPSTREAMS__V2__TIMEOUT="1.0",
        MAX_RESPONSE_BYTES="10000",
        CHANGES__CONNECT_NOX_USER__ERROR_CODES='{"quota … exhausted": "quota_exhausted"}',
    )
    yield running
    assert running.stop() == 0


def answer(status: str, body: bytes, *lines: bytes) -> bytes:
    head = [b"HTTP/1.1 " + status.encode(), b"content-length: %d" % len(body), b"connection: close", *lines]
    return b"\r\n".join([*head, b"", body])


def failures(proxy: Proxy) -> float:
    return sum(n for name, n in proxy.metrics().items() if name.startswith("nox_proxy_upstream_failures_total"))


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "299 Odd"])
def test_any_2xx_with_the_two_strings_is_v1s_201(each: Proxy, canned: Canned, status: str) -> None:
    canned.answer = answer(status, CONNECTED)
    reply = call(each.address, GOOD, JSON)
    assert succeeded(reply)
    assert reply.json()["data"]["nox_user_id"] == "n-1"
    assert "proxy-status" not in reply.headers


def test_the_ids_come_as_v2_gave_them(each: Proxy, canned: Canned) -> None:
    """Even where v2 names the user otherwise than the caller did."""
    canned.answer = answer("201 Created", '{"nox_user_id": "ñ\\u0000", "manufacturer_user_id": "other"}'.encode())
    assert call(each.address, GOOD, JSON).json()["data"] == {
        "manufacturer_user_id": "other",
        "nox_user_id": "ñ\x00",
        "device_ids": ["d-1", "d-2"],
    }


@pytest.mark.parametrize(
    "raw",
    [
        answer("201 Created", b'{"manufacturer_user_id": "u-1"}'),
        answer("201 Created", b'{"manufacturer_user_id": "u-1", "nox_user_id": 7}'),
        answer("201 Created", b'{"data": ' + CONNECTED + b"}"),
        answer("201 Created", b"[]"),
        answer("201 Created", b"not json"),
        answer("200 OK", b""),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        answer("301 Moved", b"", b"location: http://127.0.0.1:1/"),
        answer("307 Temporary Redirect", CONNECTED, b"location: /elsewhere"),
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        answer("600 Beyond", CONNECTED),
        answer("999 Beyond", b'{"error": "x"}'),
        answer("099 Below", CONNECTED),
        answer("201 Created", CONNECTED, b"content-encoding: gzip"),
        answer("500 Oh", b'{"error": "x"}', b"content-encoding: br"),
        answer("201 Created", b" " * 10_001 + CONNECTED),
        b"\x15\x03\x01 garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 2x1 Created\r\n\r\n",
        b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n",
    ],
    ids=lambda raw: repr(raw[:60]),
)
def test_an_answer_that_cannot_be_handed_on(each: Proxy, canned: Canned, raw: bytes) -> None:
    canned.answer = raw
    before = failures(each)
    assert failed(call(each.address, GOOD, JSON), 502, "invalid_upstream_response")
    assert failures(each) == before + 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 201 Created\r\ncontent-le",
        b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n" + CONNECTED,
        b'HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"man',
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=repr,
)
def test_an_answer_that_breaks_off(each: Proxy, canned: Canned, raw: bytes) -> None:
    canned.answer = raw
    reply = call(each.address, GOOD, JSON)
    assert failed(reply, 502, "upstream_disconnected")
    assert reply.headers["proxy-status"] == "nox-proxy; error=connection_terminated"


NEEDS_USER = "manufacturer_user_id is required and must be a string"


@pytest.mark.parametrize(
    ("status", "text", "expected", "code"),
    [
        (400, "user_id is required and must be a string", NEEDS_USER, "invalid_request"),
        (400, "nox_user_id, user_id, (user_id) and manufacturer_user_id", None, "invalid_request"),
        (401, "Missing API key", "Missing API key", "missing_api_key"),
        (401, "Invalid API key", "Invalid API key", "invalid_api_key"),
        (401, "who are you", "who are you", "unauthorized"),
        (403, "Manufacturer acme is not enabled", "Manufacturer acme is not enabled", "manufacturer_not_enabled"),
        (403, "no", "no", "forbidden"),
        (404, "no", "no", "not_found"),
        (409, "no", "no", "conflict"),
        (413, "no", "no", "payload_too_large"),
        (418, "no", "no", "upstream_error"),
        (422, "no", "no", "invalid_request"),
        (429, "no", "no", "rate_limited"),
        (429, "Quota of acme exhausted", "Quota of acme exhausted", "quota_exhausted"),
        (500, "Internal server error", "Internal server error", "internal_server_error"),
        (501, "no", "no", "upstream_error"),
        (502, "no", "no", "bad_gateway"),
        (503, "no", "no", "service_unavailable"),
        (504, "no", "no", "gateway_timeout"),
        (599, "no", "no", "upstream_error"),
        (500, "", "", "internal_server_error"),
    ],
)
def test_an_error_of_v2s(each: Proxy, canned: Canned, status: int, text: str, expected: str | None, code: str) -> None:
    canned.answer = answer(f"{status} Oh", json.dumps({"error": text, "trace": "abc"}).encode())
    before = failures(each)
    reply = call(each.address, GOOD, JSON)
    told = reply.json()
    renamed = "nox_user_id, manufacturer_user_id, (manufacturer_user_id) and manufacturer_user_id"
    assert (reply.status, told["error_code"]) == (status, code)
    assert told["error"] == told["message"] == (renamed if expected is None else expected)
    assert failures(each) == before
    assert "proxy-status" not in reply.headers
    assert reply.headers.get("www-authenticate") == ("ApiKey" if status == 401 else None)
    assert "trace" not in told


@pytest.mark.parametrize(
    ("status", "body", "text", "code"),
    [
        (502, b"<html>balancer-7.internal</html>", "Bad Gateway", "bad_gateway"),
        (503, b"", "Service Unavailable", "service_unavailable"),
        (500, b'{"error": {"stack": "secret"}}', "Internal Server Error", "internal_server_error"),
        (404, b'"no"', "Not Found", "not_found"),
        (400, b'{"message": "other form"}', "Bad Request", "invalid_request"),
        (555, b"\xff\xfe", "Upstream error", "upstream_error"),
    ],
)
def test_a_foreign_body_reaches_nobody(
    each: Proxy, canned: Canned, status: int, body: bytes, text: str, code: str
) -> None:
    canned.answer = answer(f"{status} Oh", body, b"content-type: text/html", b"server: internal", b"set-cookie: a=b")
    reply = call(each.address, GOOD, JSON)
    told = reply.json()
    assert (reply.status, told["error"], told["message"], told["error_code"]) == (status, text, text, code)
    assert reply.headers["content-type"] == "application/json"
    assert not {"server", "set-cookie"} & set(reply.headers)


def test_of_v2s_headers_only_the_limits_come_through(each: Proxy, canned: Canned) -> None:
    canned.answer = answer(
        "429 Too Many Requests",
        b'{"error": "slow down"}',
        b"Retry-After: 7",
        b"RateLimit: limit=10, remaining=0",
        b"RateLimit-Policy: 10;w=1",
        b"X-RateLimit-Remaining: 0",
        b"retry-after-all: 1",
        b"x-powered-by: express",
        b"x-request-id: theirs",
        b"via: 1.1 theirs",
        b"www-authenticate: Basic",
    )
    reply = call(each.address, GOOD, {**JSON, "x-request-id": "mine"})
    assert reply.headers.pop("date")
    assert reply.headers.pop("link").startswith("<https://docs.nox.energy>; ")
    assert reply.headers == {
        "content-type": "application/json",
        "content-length": str(len(reply.body)),
        "x-request-id": "mine",
        "via": "1.1 nox-proxy",
        "retry-after": "7",
        "ratelimit": "limit=10, remaining=0",
        "ratelimit-policy": "10;w=1",
        "x-ratelimit-remaining": "0",
        "nox-unmapped": "device_ids",
    }


def test_an_unknown_field_is_drift_and_no_error(each: Proxy, canned: Canned) -> None:
    series = 'nox_proxy_upstream_drift_total{kind="unknown_field",upstream="v2"}'
    before = each.metrics().get(series, 0)
    canned.answer = answer("201 Created", CONNECTED[:-1] + b', "region": "eu"}')
    assert succeeded(call(each.address, GOOD, JSON))
    assert each.metrics()[series] == before + 1


def test_no_answer_within_the_deadline(by_each_door: Proxy, v2: Simulator) -> None:
    with v2.fault("hang"):
        reply = call(by_each_door.address, GOOD, JSON)
    assert failed(reply, 504, "upstream_timeout")
    assert reply.headers["proxy-status"] == "nox-proxy; error=http_response_timeout"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v2", "http://nowhere.invalid/v2", "https://127.0.0.1:{plain}/v2"])
def test_an_upstream_that_cannot_be_had(v2: Simulator, url: str) -> None:
    """Refused, unresolved, and one that speaks no TLS."""
    proxy = Proxy(url.format(plain=v2.address.rpartition(":")[2]), UPSTREAMS__V2__CONNECT_TIMEOUT="2")
    try:
        assert failed(call(proxy.address, GOOD, JSON), 502, "upstream_unavailable")
    finally:
        assert proxy.stop() == 0


@pytest.mark.parametrize(
    "fault", ["status=500", "html", "odd", "close", "cut", "garbage", "gzip", "drift", "delay=0.05"]
)
def test_the_simulators_faults(proxy: Proxy, v2: Simulator, fault: str) -> None:
    expected = {
        "status=500": (500, "internal_server_error"),
        "html": (502, "bad_gateway"),
        "close": (502, "upstream_disconnected"),
        "cut": (502, "upstream_disconnected"),
        "drift": (201, None),
        "delay=0.05": (201, None),
    }
    with v2.fault(fault):
        reply = call(proxy.address, GOOD, JSON)
    assert (reply.status, reply.json().get("error_code")) == expected.get(fault, (502, "invalid_upstream_response"))


NO_DEVICES = b'{"manufacturer_user_id": "u-1"}'
EMPTY_DEVICES = b'{"manufacturer_user_id": "u-1", "device_ids": []}'


BY_POLICY: dict[str, list[tuple[bytes, list[str] | None, str | None]]] = {
    "echo": [(GOOD, ["d-1", "d-2"], "device_ids"), (EMPTY_DEVICES, [], None), (NO_DEVICES, [], None)],
    "drop": [(GOOD, [], "device_ids"), (NO_DEVICES, [], None)],
    "reject": [(GOOD, None, "device_ids"), (EMPTY_DEVICES, None, None), (NO_DEVICES, [], None)],
}
"""What is sent, the device IDs of the answer or None where there is none, and the field that is named as lost."""


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("policy", BY_POLICY)
def test_device_ids_by_their_policy(v2: Simulator, policy: str, door: str) -> None:
    proxy = Proxy(v2.url, door=door, CHANGES__CONNECT_NOX_USER__DEVICE_IDS=policy)
    try:
        for body, devices, unmapped in BY_POLICY[policy]:
            v2.forget()
            before = unmapped_fields(proxy)
            reply = call(proxy.address, body, JSON)
            if devices is None:
                assert failed(reply, 400, "device_ids_unsupported")
                assert v2.calls() == []
            else:
                assert succeeded(reply, devices=tuple(devices))
            assert reply.headers.get("nox-unmapped") == unmapped
            assert unmapped_fields(proxy) - before == (1 if unmapped else 0)
    finally:
        assert proxy.stop() == 0
    warned = any("v2 does not keep device_ids" in line for line in proxy.err)
    assert warned == (policy != "reject")


def unmapped_fields(proxy: Proxy) -> float:
    return sum(n for name, n in proxy.metrics().items() if name.startswith("nox_proxy_unmapped_fields_total"))
