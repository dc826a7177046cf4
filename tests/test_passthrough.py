"""The contract's last section: every path that no change covers goes to v1 untouched, and /v2 to v2.

It is long for its tables: whatever a caller may put into a target, and an upstream into an answer, is a row.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from proxy.policy.credentials import digest
from tests.processes import Canned, Proxy, Reply, Wire, call, eventually

KEY = {"x-api-key": "passing-key"}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Host(NamedTuple):
    """A proxy for the whole host, before a v1 below a prefix and a v2 that answer what they are told."""

    proxy: Proxy
    v1: Canned
    v2: Canned

    def send(self, message: bytes) -> Reply:
        with Wire(self.proxy.address) as wire:
            wire.send(message)
            return wire.answer()

    def arrived(self) -> list[tuple[str, bytes]]:
        """Where calls came out since the last look, and their messages."""
        found = [(name, message) for name in ("v1", "v2") for message in getattr(self, name).requests]
        self.v1.requests.clear()
        self.v2.requests.clear()
        return found


@pytest.fixture(scope="module", params=["keepalive", "httpx"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    v1, v2 = Canned(), Canned()
    proxy = Proxy(
        v2.url,
        UPSTREAMS__V1__URL=v1.url.replace("/v2", "/legacy"),
        UPSTREAMS__V1__TRANSPORT=request.param,
        UPSTREAMS__V2__TRANSPORT=request.param,
        MAX_BODY_BYTES="1000",
    )
    yield Host(proxy, v1, v2)
    assert proxy.stop() == 0
    v1.close()
    v2.close()


@pytest.fixture(autouse=True)
def answering(host: Host) -> None:
    host.v1.answer = host.v2.answer = OK
    host.arrived()


def message(target: bytes, *lines: bytes, method: bytes = b"POST", body: bytes = b"") -> bytes:
    head = (method + b" " + target + b" HTTP/1.1", b"Host: api.example", *lines)
    return b"\r\n".join((*head, b"Content-Length: %d" % len(body), b"", body))


def target_of(sent: bytes) -> bytes:
    return sent.split(b" ", 2)[1]


def lines_of(sent: bytes) -> list[tuple[bytes, bytes]]:
    """The header lines of a message, names in lower case."""
    lines = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [(name.lower(), value) for name, value in (line.split(b": ", 1) for line in lines)]


TARGETS = {
    b"/manufacturers/suppliers": ("v1", b"/legacy/manufacturers/suppliers"),
    b"/users/4711/link?a=1&a=2&&b": ("v1", b"/legacy/users/4711/link?a=1&a=2&&b"),
    b"/": ("v1", b"/legacy/"),
    b"/?": ("v1", b"/legacy/?"),
    b"/a?": ("v1", b"/legacy/a?"),
    b"/a?b?c=/../d": ("v1", b"/legacy/a?b?c=/../d"),
    b"//evil.example/x": ("v1", b"/legacy//evil.example/x"),
    b"//v2/x": ("v1", b"/legacy//v2/x"),
    b"/a//b///": ("v1", b"/legacy/a//b///"),
    b"/a%2Fb%2f": ("v1", b"/legacy/a%2Fb%2f"),
    b"/a%00%0d%0a%ff": ("v1", b"/legacy/a%00%0d%0a%ff"),
    b"/a;b=c/@evil:80/": ("v1", b"/legacy/a;b=c/@evil:80/"),
    b"/...": ("v1", b"/legacy/..."),
    b"/a../..b/.c": ("v1", b"/legacy/a../..b/.c"),
    b"/v2x": ("v1", b"/legacy/v2x"),
    b"/V2/x": ("v1", b"/legacy/V2/x"),
    b"/%762/x": ("v1", b"/legacy/%762/x"),
    b"/a/v2/x": ("v1", b"/legacy/a/v2/x"),
    b"/manufacturers/nox2": ("v1", b"/legacy/manufacturers/nox2"),
    b"/manufacturers/nox//": ("v1", b"/legacy/manufacturers/nox//"),
    b"http://evil.example/x?y": ("v1", b"/legacy/x?y"),
    b"http://evil.example/v2/x?y": ("v2", b"/v2/x?y"),
    b"http://evil.example//x": ("v1", b"/legacy//x"),
    b"HTTP://evil.example": ("v1", b"/legacy/"),
    b"http://evil.example?y": ("v1", b"/legacy/?y"),
    b"/v2": ("v2", b"/v2"),
    b"/v2?a": ("v2", b"/v2?a"),
    b"/v2/": ("v2", b"/v2/"),
    b"/v2/manufacturer/link-sessions?a=1&a=%32": ("v2", b"/v2/manufacturer/link-sessions?a=1&a=%32"),
    b"/v2//evil.example": ("v2", b"/v2//evil.example"),
    b"/v2/v2/x": ("v2", b"/v2/v2/x"),
}


@pytest.mark.parametrize("target", TARGETS, ids=bytes.decode)
def test_where_a_target_comes_out(host: Host, target: bytes) -> None:
    """Below its own upstream's URL, byte for byte, and with that upstream's Host."""
    assert host.send(message(target)).status == 200
    ((name, sent),) = host.arrived()
    assert (name, target_of(sent)) == TARGETS[target]
    authority = re.sub(r"http://|/.*", "", getattr(host, name).url[7:]).encode()
    assert dict(lines_of(sent))[b"host"] == authority


def test_an_upstream_without_a_path(host: Host, request: pytest.FixtureRequest) -> None:
    """No target is empty (RFC 9112, section 3.2.1)."""
    proxy = Proxy(
        host.v2.url.removesuffix("/v2"),
        UPSTREAMS__V2__TRANSPORT=request.node.callspec.params["host"],
        UPSTREAMS__V1__URL=host.v1.url.removesuffix("/v2"),
    )
    try:
        for target in (b"/v2", b"/v2?a", b"/v2/", b"/v2/x", b"/"):
            assert host._replace(proxy=proxy).send(message(target)).status == 200
        arrived = [(name, target_of(sent)) for name, sent in host.arrived()]
        assert arrived == [("v1", b"/"), ("v2", b"/"), ("v2", b"/?a"), ("v2", b"/"), ("v2", b"/x")]
    finally:
        assert proxy.stop() == 0


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/.",
        b"/../x",
        b"/v2/../manufacturers/nox",
        b"/v2/..",
        b"/a/./b",
        b"/a/..?b",
        b"/a/%2e%2E/b",
        b"/a/.%2e",
        b"/a/..%2fb",
        b"/a%2f..%2fb",
        b"/a/..\\b",
        b"/a\\..\\b",
        b"/a%5c..%5cb",
        b"/a/..;x/b",
        b"/a/..%3bx",
        b"http://evil.example/../x",
    ],
    ids=bytes.decode,
)
def test_a_dot_segment_goes_nowhere(host: Host, path: bytes) -> None:
    """Whoever resolves it would answer for another path than was judged here."""
    reply = host.send(message(path))
    assert (reply.status, reply.json()["error_code"]) == (400, "ambiguous_path")
    assert not host.arrived()


@pytest.mark.parametrize(
    "target", [b"/a#b", b"/#", b"*", b"evil.example:80", b"http://", b"http://a:b@evil.example/x"], ids=bytes.decode
)
def test_no_target_of_a_path(host: Host, target: bytes) -> None:
    assert host.send(message(target, method=b"OPTIONS")).status in (400, 404)
    assert not host.arrived()


def test_every_byte_arrives_or_is_refused(host: Host) -> None:
    """In path, query and header value. What is refused is what no message may hold there (RFC 9110, 9112)."""
    controls = {*range(0x20), 0x7F}
    refused: dict[str, set[int]] = {"path": set(), "query": set(), "value": set()}
    for number in range(256):
        byte = bytes([number])
        messages = {
            "path": (message(b"/a" + byte + b"z"), b" /legacy/a" + byte + b"z HTTP/1.1\r\n"),
            "query": (message(b"/a?q=" + byte + b"z"), b" /legacy/a?q=" + byte + b"z HTTP/1.1\r\n"),
            "value": (message(b"/a", b"X-It: a" + byte + b"z"), b"\r\nx-it: a" + byte + b"z\r\n"),
        }
        for place, (sent, wanted) in messages.items():
            status = host.send(sent).status
            came = host.arrived()
            if status == 400:
                refused[place].add(number)
                assert not came
            else:
                assert status == 200
                assert wanted in came[0][1], (place, byte)
    assert refused["path"] == refused["query"] == controls | {0x20, ord("#")} | set(range(0x80, 0x100))
    assert refused["value"] == controls - {ord("\t")}


def test_every_byte_of_a_body(host: Host) -> None:
    body = bytes(range(256)) * 3
    host.send(message(b"/a", body=body))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:])) + b"0\r\n\r\n"
    host.send(b"PUT /v2/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    for _, sent in host.arrived():
        assert sent.partition(b"\r\n\r\n")[2] == body
        assert dict(lines_of(sent))[b"content-length"] == b"768"


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"QUERY"])
def test_the_method_is_kept(host: Host, method: bytes) -> None:
    with Wire(host.proxy.address) as wire:
        wire.send(method + b" /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert wire.rest().startswith(b"HTTP/1.1 200 ")
    ((_, sent),) = host.arrived()
    assert sent.startswith(method + b" /legacy/a HTTP/1.1\r\n")
    assert b"content-length" not in dict(lines_of(sent))


def test_the_lines_of_a_request(host: Host) -> None:
    """End-to-end ones as they came; those for one hop, and what was said to us, are gone."""
    kept = [
        b"Authorization: Bearer some-token",
        b"X-Api-Key: passing-key",
        b"Cookie: a=1",
        b"Accept-Encoding: gzip, br",
        b"X-Twice: 1",
        b"X-Twice: 2",
        b"X-Empty: ",
        b"Content-Type: text/plain; charset=latin-1",
        b"If-None-Match: W/\"1\"",
        b"X-Umlaut: \xe4\xc3\xa4",
        b"User-Agent: old/1.0",
    ]  # fmt: skip
    dropped = [
        b"Connection: keep-alive, X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authorization: Basic eA==",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"NOX-Upstream: v2",
    ]  # fmt: skip
    ours = [b"Via: 1.0 other", b"X-Request-Id: id-7", b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=1.2.3.4"]
    with Wire(host.proxy.address) as wire:
        wire.send(message(b"/a", *kept, *dropped, *ours, body=b"{}"))
        assert [wire.answer().status, wire.answer().status] == [100, 200]
    ((_, sent),) = host.arrived()
    lines = lines_of(sent)
    wanted = [tuple(line.split(b": ", 1)) for line in kept]
    assert [line for line in lines if line[0] in {name.lower() for name, _ in wanted}] == [
        (name.lower(), value) for name, value in wanted
    ]
    assert not {line.split(b":")[0].lower() for line in dropped} & {name for name, _ in lines}
    rest = {name: value for name, value in lines if (name.title(), value) not in wanted}
    assert rest[b"via"] == b"1.0 other, 1.1 nox-proxy"
    assert rest[b"x-request-id"] == b"id-7"
    assert rest[b"x-forwarded-for"] == b"1.2.3.4, 127.0.0.1"  # the peer is a trusted proxy
    assert rest[b"x-forwarded-host"] == b"api.example"
    assert rest[b"forwarded"] == b"for=1.2.3.4"


ANSWERS = {
    "an error page": b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
    "a redirect": b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\ncontent-length: 5\r\n\r\n',
    "compressed": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x00",
    "cookies": b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nx-b: \xe4\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "to the end": b"HTTP/1.1 299 Odd\r\ncontent-type: a/b\r\n\r\nabc",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_comes_back_as_it_was(host: Host, name: str) -> None:
    host.v1.answer = ANSWERS[name]
    head, _, body = ANSWERS[name].partition(b"\r\n\r\n")
    with Wire(host.proxy.address) as wire:
        wire.send(message(b"/a", b"Connection: close"))
        came = wire.rest()
    came_head, _, came_body = came.partition(b"\r\n\r\n")
    assert came_head.split(b" ")[1] == head.split(b" ")[1]
    framing = (b"content-length", b"transfer-encoding", b"connection", b"date", b"via")
    assert [line for line in lines_of(came) if line[0] not in framing] == [
        line for line in lines_of(head) if line[0] not in framing
    ]
    assert came_body == (b"abc" if name == "chunked" else body)
    assert dict(lines_of(came))[b"via"] == b"1.1 nox-proxy"


def test_the_upstreams_own_lines(host: Host) -> None:
    """Its Date is the answer's one Date; what was for one hop is gone; no deprecation is announced here."""
    host.v1.answer = (
        b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: old\r\nvia: 1.1 varnish\r\n"
        b"connection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\n"
        b"x-request-id: theirs\r\ncontent-length: 0\r\n\r\n"
    )
    with Wire(host.proxy.address) as wire:
        wire.send(message(b"/a"))
        reply = wire.answer()
        wire.send(message(b"/a"))  # the connection to us goes on
        assert wire.answer().status == 200
    assert reply.headers == {
        "date": "Mon, 01 Jan 2024 00:00:00 GMT",
        "server": "old",
        "x-request-id": "theirs",
        "content-length": "0",
        "via": "1.1 varnish, 1.1 nox-proxy",
    }


def test_an_answer_without_a_date_gets_one(host: Host) -> None:
    """RFC 9110, section 6.6.1."""
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", host.send(message(b"/a")).headers["date"])


def test_a_head_keeps_its_length(host: Host) -> None:
    host.v1.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
    with Wire(host.proxy.address) as wire:
        wire.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        came = wire.rest()
    assert came.endswith(b"\r\n\r\n")
    assert dict(lines_of(came))[b"content-length"] == b"1234"


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
def test_how_far_it_may_go(host: Host, method: bytes) -> None:
    """RFC 9110, section 7.6.2. Where it may go no further, it is ours to answer, and we have no such path."""
    for sent, arrives in {b"2": b"1", b"01": b"0", b"-1": b"-1", b"x": b"x", b"1, 1": b"1, 1"}.items():
        assert host.send(message(b"/a", b"Max-Forwards: " + sent, method=method)).status == 200
        ((_, came),) = host.arrived()
        assert dict(lines_of(came))[b"max-forwards"] == arrives
    assert host.send(message(b"/a", b"Max-Forwards: 0", method=method)).status == 404
    assert not host.arrived()
    assert host.send(message(b"/a", b"Max-Forwards: 0", method=b"GET")).status == 200


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"chunked, chunked"])
def test_a_coding_of_the_way_here_is_not_passed_by(host: Host, coding: bytes) -> None:
    """RFC 9112, section 6.1: its header goes no further, and nobody behind us would know of it."""
    reply = host.send(
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: " + coding + b"\r\n\r\n2\r\n\x1f\x8b\r\n0\r\n\r\n"
    )
    assert (reply.status, reply.json()["error_code"]) == (400, "bad_request")
    assert not host.arrived()


def test_a_loop_and_a_body_too_large(host: Host) -> None:
    looped = host.send(message(b"/a", b"Via: 1.1 nox-proxy"))
    assert (looped.status, looped.json()["error_code"]) == (502, "proxy_loop_detected")
    large = host.send(message(b"/v2/a", body=b"x" * 1001))
    assert (large.status, large.json()["error_code"]) == (413, "payload_too_large")
    assert not host.arrived()


def test_an_upstream_that_cannot_answer() -> None:
    """v1's envelope, which v2's callers can read too: it has v2's `error`."""
    gone = Canned()
    gone.close()
    proxy = Proxy(gone.url, UPSTREAMS__V1__URL=gone.url.replace("/v2", ""))
    try:
        for path in ("/a", "/v2/a"):
            reply = call(proxy.address, b"", KEY, path=path)
            assert (reply.status, reply.json()["error_code"]) == (502, "upstream_unavailable")
            assert reply.headers["proxy-status"] == "nox-proxy; error=connection_refused"
        metrics = proxy.metrics()
        for name in ("v1", "v2"):
            assert metrics[f'nox_proxy_upstream_failures_total{{reason="connection_refused",upstream="{name}"}}'] == 1
    finally:
        assert proxy.stop() == 0


def test_without_a_v1_there_is_nothing_else(proxy: Proxy) -> None:
    for path in ("/manufacturers/suppliers", "/v2/manufacturer/link-sessions", "/v2"):
        reply = call(proxy.address, b"{}", KEY, path=path)
        assert (reply.status, reply.json()["error_code"]) == (404, "not_found")


def test_they_are_counted_by_manufacturer(host: Host) -> None:
    """A key is known by the list, or by an upstream's 2xx; another status says nothing of it."""
    proxy = Proxy(
        host.v2.url,
        UPSTREAMS__V1__URL=host.v1.url,
        MANUFACTURERS=json.dumps({"acme": {"keys_sha256": [digest(b"acme-passing")]}}),
    )
    try:
        calls = [("acme-passing", "/a"), ("acme-passing", "/v2/a"), ("other-passing", "/v2/a"), (None, "/a")]
        for key, path in calls:
            assert call(proxy.address, b"", {"x-api-key": key} if key else {}, path=path).status == 200
        host.v1.answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        assert call(proxy.address, b"", {"x-api-key": "other-passing"}, path="/a").status == 404
        assert eventually(lambda: len(proxy.log()) == 5)
        seen = [(line["endpoint"], line["manufacturer"], line["upstream"], line["status"]) for line in proxy.log()]
        assert seen == [
            ("passthrough_v1", "acme", "v1", 200),
            ("passthrough_v2", "acme", "v2", 200),
            ("passthrough_v2", "unregistered", "v2", 200),
            ("passthrough_v1", "unauthenticated", "v1", 200),
            ("passthrough_v1", "unauthenticated", "v1", 404),
        ]
        metrics = proxy.metrics()
        for endpoint, manufacturer, upstream, status in set(seen):
            labels = f'endpoint="{endpoint}",manufacturer="{manufacturer}",status="{status}",upstream="{upstream}"'
            assert metrics[f"nox_proxy_requests_total{{{labels}}}"] == 1
        assert metrics['nox_proxy_credential_scheme_total{manufacturer="acme",scheme="x-api-key"}'] == 1
        last_seen = [name for name in metrics if "legacy_last_seen" in name]
        assert last_seen
        assert not [name for name in last_seen if "passthrough_v2" in name]  # v2's own calls are no legacy
    finally:
        assert proxy.stop() == 0
