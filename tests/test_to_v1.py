"""Calls that v1 answers, on a running proxy: what it gets, and what its callers then get. By both doors."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from proxy.policy.credentials import digest
from tests.processes import DOORS, ROOT, Canned, Proxy, Simulator, Wire, call
from tests.test_admission import GOOD, JSON, KEY, failed
from tests.two_upstreams import NAMES, counting, failed_at, key_of, manufacturers, of_a_call

Headers = dict[str, str]
BROWNOUT = {
    "start": "2020-01-01T00:00:00Z",
    "end": "2090-01-01T00:00:00Z",
    "exempt": [*(name for name in NAMES if name != "dodo"), "unregistered"],
}
CHANGE = {
    "rollout": {"v2_percent": 0},
    "deprecation": {
        "deprecated_at": "2026-01-01T00:00:00Z",
        "documentation": "https://docs.example",
        "brownouts": [BROWNOUT],
    },
}
DEPRECATED = "@1767225600"
CREATED = b'{"success":true}'


class Legacy(NamedTuple):
    """A proxy that sends every call to v1; a brownout covers dodo alone."""

    proxy: Proxy
    v1: Canned
    v2: Simulator

    def says(self, status: str, fields: str = "", body: bytes = b"") -> None:
        """What v1 answers from now on."""
        head = f"HTTP/1.1 {status}\n{fields}Connection: close, X-One-Hop\nX-One-Hop: 1\nKeep-Alive: timeout=5\n\n"
        self.v1.answer = head.replace("\n", "\r\n").encode("latin-1") + body

    def send(self, head: str, body: bytes) -> tuple[str, list[list[str]], bytes]:
        """The status code, the header lines in order, and the body that come back."""
        message = head.replace("\n", "\r\n").encode("latin-1") + b"\r\n" + body
        with Wire(self.proxy.address) as wire:
            wire.send(message)
            wire.half_close()  # a Connection: close would shut the direct door
            status, lines, told = split(wire.rest())
        return status.split()[1], [line for line in lines if line != ["connection", "close"]], told


def split(message: bytes) -> tuple[str, list[list[str]], bytes]:
    """The first line, the header lines in order, and the body."""
    head, _, body = message.partition(b"\r\n\r\n")
    first, _, lines = head.decode("latin-1").replace("\r\n", "\n").partition("\n")
    return first, pairs(lines), body


def pairs(lines: str) -> list[list[str]]:
    """Header lines in order, their names in lower case."""
    found = (line.split(": ", 1) for line in lines.splitlines())
    return sorted([name.lower(), value] for name, value in found)


@pytest.fixture(scope="module", params=DOORS)
def running(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Legacy]:
    v1 = Canned()
    settings = {"CHANGES": json.dumps({"connect_nox_user": CHANGE}), "MANUFACTURERS": manufacturers()}
    proxy = Proxy(v2.url, cwd=ROOT, door=request.param, UPSTREAMS__V1__URL=v1.url.replace("/v2", "/old"), **settings)
    yield Legacy(proxy, v1, v2)
    assert proxy.stop() == 0
    v1.close()


@pytest.fixture
def legacy(running: Legacy) -> Iterator[Legacy]:
    """Nothing is to reach v2, whatever the test does."""
    running.v2.forget()
    running.v1.requests.clear()
    running.says("201 Created", f"Content-Length: {len(CREATED)}\n", CREATED)
    yield running
    assert running.v2.calls() == []


# What v1 gets

END_TO_END = """\
Authorization: ApiKey demo-key
Content-Type: application/vnd.nox.v1+json; charset=utf-8
Accept-Encoding: gzip, br
User-Agent: old-client/0.9
Cookie: a=1
X-Twice: 1
X-Twice: 2
X-Umlaut: ä
"""
TO_US = """\
Host: legacy.example:8443
Via: 1.0 edge
X-Request-Id: id-7
X-Forwarded-For: 203.0.113.7
Connection: X-One-Hop
X-One-Hop: 1
Keep-Alive: timeout=5
TE: trailers
Proxy-Authorization: Basic eA==
NOX-Upstream: v2
"""
BODY = (
    b'{ "manufacturer_user_id"\t: "0", "manufacturer_user_id": "\\u00fc-\\ud83d\\ude00",\r\n'
    b'"device_ids":["d-1" , "d\\/2"], "unknown": [1.0, 1e2, {"x": null}] }\n'
)
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n%x\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "sent"),
    [(f"Content-Length: {len(BODY)}\n", BODY), ("Transfer-Encoding: chunked\n", CHUNKS)],
    ids=["by its length", "in chunks"],
)
def test_v1_gets_what_the_caller_sent(legacy: Legacy, framing: str, sent: bytes) -> None:
    """Byte for byte, to a Host of its own, with what RFC 9110 has a proxy add and without what was for one hop."""
    target = "/manufacturers/nox/?a=1&a=%2F%2f&b&=;c"
    status, _, _ = legacy.send(f"POST {target} HTTP/1.1\n{TO_US}{END_TO_END}{framing}", sent)
    (came,) = legacy.v1.requests
    first, lines, body = split(came)
    assert (status, first, body) == ("201", f"POST /old{target} HTTP/1.1", BODY)
    ours = f"""\
Content-Length: {len(BODY)}
Host: {legacy.v1.url.removeprefix("http://").removesuffix("/v2")}
Via: 1.0 edge, 1.1 nox-proxy
X-Forwarded-For: 203.0.113.7, 127.0.0.1
X-Forwarded-Host: legacy.example:8443
X-Forwarded-Proto: http
X-Request-Id: id-7
"""
    assert lines == pairs(END_TO_END + ours)


REFUSED: dict[str, tuple[Headers, bytes, int, str]] = {
    "a loop": ({**JSON, "via": "1.1 nox-proxy"}, GOOD, 502, "proxy_loop_detected"),
    "no key": ({}, GOOD, 401, "missing_api_key"),
    "two keys": ({**JSON, "authorization": "ApiKey another"}, GOOD, 401, "conflicting_api_keys"),
    "a brownout": (key_of("dodo"), GOOD, 410, "endpoint_brownout"),
    "too large": (JSON, b"x" * 1_100_000, 413, "payload_too_large"),
    "encoded": ({**JSON, "content-encoding": "gzip"}, GOOD, 415, "unsupported_media_type"),
    "another type": ({**KEY, "content-type": "text/plain"}, GOOD, 415, "unsupported_media_type"),
    "no JSON": (JSON, GOOD[:-1], 400, "invalid_json"),
    "no user": (JSON, b"{}", 400, "invalid_request"),
}


@pytest.mark.parametrize(("headers", "body", "status", "code"), REFUSED.values(), ids=REFUSED)
def test_admission_comes_first(legacy: Legacy, headers: Headers, body: bytes, status: int, code: str) -> None:
    """Though v1 would see to it itself."""
    reply = call(legacy.proxy.address, body, headers)
    assert failed(reply, status, code)
    assert reply.headers["deprecation"] == DEPRECATED
    assert legacy.v1.requests == []


# What its callers get

CALL = f"POST /manufacturers/nox HTTP/1.1\nHost: a\nX-Api-Key: k\nContent-Length: {len(GOOD)}\n"
KEPT = """\
Date: Tue, 01 Jan 2019 00:00:00 GMT
Server: legacy/1.0
Content-Type: application/json; charset=utf-8
Content-Encoding: gzip
Content-Length: 3
Set-Cookie: a=1
Set-Cookie: b=2; Path=/
Sunset: Sat, 01 Jan 2000 00:00:00 GMT
Link: <https://legacy.example/next>; rel="next"
Retry-After: 7
X-Request-Id: of-v1
X-Umlaut: ä
"""


def test_the_caller_gets_what_v1_said(legacy: Legacy) -> None:
    """Our Deprecation instead of v1's; its Sunset stays, for none is set here."""
    legacy.says("201 Made it so", f"{KEPT}Deprecation: true\nVia: 1.1 varnish\n", b"\x1f\x8b\x00")
    status, lines, body = legacy.send(CALL, GOOD)
    assert (status, body) == ("201", b"\x1f\x8b\x00")
    successor = f'<{legacy.v2.url}/manufacturer/device-connections>; rel="successor-version"'
    ours = f"""\
Deprecation: {DEPRECATED}
Link: <https://docs.example>; rel="deprecation"; type="text/html", {successor}
Via: 1.1 varnish, 1.1 nox-proxy
"""
    assert lines == pairs(KEPT + ours)


@pytest.mark.parametrize(
    ("status", "field", "body"),
    [
        ("200 OK", "content-type: application/json", b'{"success": true}'),
        ("204 No Content", "x-a: 1", b""),
        ("301 Moved Permanently", "location: https://elsewhere.example/manufacturers/nox", b""),
        ("400 Bad Request", "content-type: application/json", b'{"success":false,"error_code":"of-v1"}'),
        ("401 Unauthorized", "content-type: application/json", b'{"success":false}'),
        ("429 Too Many Requests", "retry-after: 9", b""),
        ("500 Internal Server Error", "content-type: text/html", b"<html>balancer-7.internal</html>"),
        ("503 Service Unavailable", "server: legacy/1.0", b"no JSON"),
    ],
)
def test_whatever_the_status(legacy: Legacy, status: str, field: str, body: bytes) -> None:
    """Errors and redirects too are v1's own: nothing is translated, followed or asked twice."""
    length = f"Content-Length: {len(body)}\n" if status[:3] != "204" else ""
    legacy.says(status, f"{field}\n{length}", body)
    told, lines, said = legacy.send(CALL, GOOD)
    assert (told, said, len(legacy.v1.requests)) == (status[:3], body, 1)
    ours = [name for name, _ in lines if [name] != field.split(": ")[:1]]
    assert ours == sorted([*(["content-length"] if length else []), "date", "deprecation", "link", "via"])
    assert field.split(": ", 1) in lines


FAULTS = {
    "closes": (b"", 502, "upstream_disconnected", "connection_terminated"),
    "breaks off": (
        b"HTTP/1.1 201 Created\r\ncontent-length: 9\r\n\r\n{",
        502,
        "upstream_disconnected",
        "connection_terminated",
    ),
    "speaks no HTTP": (b"no HTTP at all\r\n\r\n", 502, "invalid_upstream_response", "http_protocol_error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_v1s_faults_are_answered_as_v2s(legacy: Legacy, fault: str) -> None:
    """As v1 envelopes, and counted as v1's. A v1 that hangs or is gone: test_fallback.py."""
    legacy.v1.answer, status, code, reason = FAULTS[fault]
    with counting(legacy.proxy, *of_a_call("unauthenticated", status), failed_at("v1", reason)):
        reply = call(legacy.proxy.address, GOOD, JSON)
    assert failed(reply, status, code)
    assert reply.headers["proxy-status"] == f"nox-proxy; error={reason}"
    assert reply.headers["deprecation"] == DEPRECATED
    assert "nox-unmapped" not in reply.headers
    assert len(legacy.v1.requests) == 1


@pytest.mark.parametrize(
    ("key", "says", "manufacturer"),
    [
        ("key-of-somebody", "201 Created", "unregistered"),
        ("key-of-nobody", "401 Unauthorized", "unauthenticated"),
        ("acme-key", "201 Created", "acme"),
        ("acme-key", "500 Oh", "acme"),
    ],
)
def test_what_is_counted_and_logged(legacy: Legacy, key: str, says: str, manufacturer: str) -> None:
    """As where v2 answers: v1 judges the key, and fields without a place in v2 count though none is lost."""
    status = int(says[:3])
    legacy.says(says, "Content-Length: 0\n")
    headers = {"authorization": f"ApiKey {key}", "x-request-id": f"logged-{manufacturer}-{status}"}
    with counting(legacy.proxy, *of_a_call(manufacturer, status, scheme="authorization")):
        reply = call(legacy.proxy.address, GOOD, headers)
    assert (reply.status, "nox-unmapped" in reply.headers) == (status, False)
    metrics = legacy.proxy.metrics()
    assert metrics['nox_proxy_rollout_v2_ratio{endpoint="connect_nox_user"}'] == 0
    assert metrics['nox_proxy_request_duration_seconds_count{endpoint="connect_nox_user",upstream="v1"}'] > 0
    assert metrics['nox_proxy_upstream_duration_seconds_count{upstream="v1"}'] > 0
    (line,) = legacy.proxy.lines(headers["x-request-id"])
    assert {name: line[name] for name in ("manufacturer", "key", "upstream", "status", "error_code")} == {
        "manufacturer": manufacturer,
        "key": digest(key.encode())[:8],
        "upstream": "v1",
        "status": status,
        "error_code": None,
    }
    assert 0 < line["upstream_seconds"] <= line["seconds"]
