"""contract.md, admission 1: HTTP itself, judged on raw bytes before there is a request. By both doors."""

import contextlib
import json

import pytest

from tests.processes import Proxy, Reply, Simulator, Wire, eventually
from tests.test_admission import GOOD, failed, succeeded


@pytest.fixture
def proxy(by_each_door: Proxy) -> Proxy:
    return by_each_door


@pytest.fixture(autouse=True)
def _fresh(v2: Simulator) -> None:
    v2.forget()


CHUNKED = b"transfer-encoding: chunked"
CALL = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n"
WHOLE = CALL + b"content-length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
TRAILERS = b"x-api-key: demo-key\r\nvia: 1.1 nox-proxy\r\nx-request-id: trailer\r\nidempotency-key: trailer\r\n"


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
def test_a_malformed_message_is_refused_and_closed(proxy: Proxy, message: bytes, status: int, code: str) -> None:
    reply, closed = raw(proxy, message)
    assert failed(reply, status, code)
    assert closed
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("host", [b"", b"auth.nox.energy", b"a:8080", b"a:", b"[::1]:80", b"10.0.0.1", b"x_y-z.%20"])
def test_a_valid_host(proxy: Proxy, host: bytes) -> None:
    reply, _ = raw(proxy, b"GET /else HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host)
    assert reply.status == 404


def test_large_bodies_do_not_count_as_headers(proxy: Proxy) -> None:
    body = json.dumps({"manufacturer_user_id": "u-1", "filler": "x" * 100_000}).encode()
    with Wire(proxy.address) as wire:
        for _ in range(3):
            wire.send(b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\n")
            wire.send(b"content-length: %d\r\n\r\n" % len(body) + body)
            assert succeeded(wire.answer(), devices=())


def test_nor_does_a_body_that_shares_its_packet_with_the_next_head(proxy: Proxy) -> None:
    body = json.dumps({"manufacturer_user_id": "u-1", "filler": "x" * 900_000}).encode()
    head = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: demo-key\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    with Wire(proxy.address) as wire:
        wire.send(head + body + head[:20])
        for _ in range(3):
            assert succeeded(wire.answer(), devices=())
            wire.send(head[20:] + body + head[:20])


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
def test_what_follows_a_request_does_not_cost_its_answer(
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
def test_a_malformed_body_is_answered_and_logged_once(proxy: Proxy, rest: bytes) -> None:
    request_id = f"malformed-{rest.hex()}"
    with Wire(proxy.address) as wire:
        wire.send(CALL + CHUNKED + b"\r\nx-request-id: %s\r\n\r\n" % request_id.encode() + rest + b"0\r\nx\r\n")
        reply = wire.answer()
        assert failed(reply, 400, "bad_request")
        assert reply.headers["x-request-id"] == request_id
        assert wire.is_closed()
    (line,) = proxy.lines(request_id)
    assert (line["status"], line["error_code"]) == (400, "bad_request")


def test_a_refusal_is_counted_and_logged(proxy: Proxy) -> None:
    series = (
        'nox_proxy_requests_total{endpoint="unmatched",manufacturer="unauthenticated",status="400",upstream="none"}'
    )
    before = proxy.metrics().get(series, 0)
    reply, _ = raw(proxy, b"nonsense\r\n\r\n")
    assert proxy.metrics()[series] == before + 1
    assert [line["error_code"] for line in proxy.lines(reply.headers["x-request-id"])] == ["bad_request"]


@pytest.mark.parametrize("size", [33_000, 60_000, 150_000])
def test_a_head_in_two_packets_is_no_larger_than_in_one(proxy: Proxy, size: int) -> None:
    """The answer to a first request shows that the proxy has read the first half."""
    head = b"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx: " + b"y" * size
    with Wire(proxy.address) as wire:
        wire.send(WHOLE + head)
        assert succeeded(wire.answer())
        with contextlib.suppress(ConnectionError):  # the first half took several reads, and that was enough
            wire.send(b"\r\n\r\n")
        assert failed(wire.answer(), 431, "request_header_fields_too_large")


def test_white_space_around_a_value_is_none_of_it(proxy: Proxy) -> None:
    reply, _ = raw(proxy, WHOLE.replace(b"host: a", b"host:\t a \t").replace(b"demo-key", b" demo-key \t "))
    assert succeeded(reply)


def test_a_declined_upgrade_keeps_its_version(proxy: Proxy) -> None:
    """HTTP/1.0 needs no Host."""
    reply, _ = raw(proxy, WHOLE.replace(b"1.1\r\nhost: a", b"1.0\r\nconnection: upgrade\r\nupgrade: h2c"))
    assert succeeded(reply)


@pytest.mark.parametrize(("head", "status"), [(CALL, 201), (CALL.replace(b"x-api-key", b"x"), 401)])
def test_a_trailer_is_no_header(proxy: Proxy, v2: Simulator, head: bytes, status: int) -> None:
    """Neither a key nor anything else comes out of one, though it lies in the same packet."""
    chunk = b"%x\r\n%s\r\n" % (len(GOOD), GOOD)
    with Wire(proxy.address) as wire:
        wire.send(head + CHUNKED + b"\r\n\r\n" + chunk + b"0\r\n" + TRAILERS + b"\r\n")
        reply = wire.answer()
    assert (reply.status, reply.headers["x-request-id"] == "trailer") == (status, False)
    assert "idempotency-key" not in [name for came in v2.calls() for name, _ in came["headers"]]


@pytest.mark.parametrize("endless", [b"a: b\r\n", b"c" * 10_000], ids=["trailers", "a trailer"])
def test_trailers_are_bounded(proxy: Proxy, endless: bytes) -> None:
    with Wire(proxy.address) as wire:
        wire.send(CALL + CHUNKED + b"\r\n\r\n2\r\n{}\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000):
                wire.send(endless * 10)
        wire.is_closed()
    assert eventually(lambda: proxy.metrics()["nox_proxy_requests_in_progress"] == 0)


def test_earlier_requests_count_for_no_later_body(proxy: Proxy) -> None:
    """60 kB of heads without bodies, then a call whose body comes by itself."""
    with Wire(proxy.address) as wire:
        for _ in range(600):
            wire.send(b"GET /else HTTP/1.1\r\nhost: a\r\nx: %s\r\n\r\n" % (b"y" * 60))
            assert wire.answer().status == 404
        wire.send(CALL + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(GOOD))
        assert wire.answer().status == 100
        wire.send(GOOD)
        assert succeeded(wire.answer())


def test_a_length_of_many_digits_is_a_number_all_the_same(proxy: Proxy) -> None:
    digits = b"0" * 5_000 + b"%d" % len(GOOD)
    reply, _ = raw(proxy, CALL + b"content-length: " + digits + b"\r\n\r\n" + GOOD)
    assert succeeded(reply)


@pytest.mark.parametrize("version", [b"2.0", b"0.9", b"1.2"])
def test_a_version_that_we_do_not_speak(proxy: Proxy, version: bytes) -> None:
    reply, closed = raw(proxy, WHOLE.replace(b"HTTP/1.1", b"HTTP/" + version))
    assert failed(reply, 400, "bad_request")
    assert closed


def test_an_absolute_targets_host_counts_and_not_the_field(proxy: Proxy, v2: Simulator) -> None:
    """RFC 9112, section 3.2.2."""
    reply, _ = raw(proxy, WHOLE.replace(b"POST /", b"POST http://other.example:81/"))
    assert succeeded(reply)
    assert ["x-forwarded-host", "other.example:81"] in v2.calls()[0]["headers"]


@pytest.mark.parametrize("fields", [b"connection: close", b"connection: close, upgrade\r\nupgrade: h2c"])
def test_what_follows_a_close_is_not_even_refused(proxy: Proxy, fields: bytes) -> None:
    """RFC 9112, section 9.6: it is no request."""
    refused = (
        'nox_proxy_requests_total{endpoint="unmatched",manufacturer="unauthenticated",status="400",upstream="none"}'
    )
    before = proxy.metrics().get(refused)
    reply, closed = raw(proxy, WHOLE.replace(b"host: a", b"host: a\r\n" + fields) + b"nonsense\r\n\r\n")
    assert succeeded(reply)
    assert closed
    assert proxy.metrics().get(refused) == before


def test_a_caller_may_close_its_side_and_still_read_its_answers(proxy: Proxy, v2: Simulator) -> None:
    """RFC 9112, section 9.6: not to be taken for one that left."""
    with v2.fault("delay=0.1"), Wire(proxy.address) as wire:
        wire.send(WHOLE * 2)
        wire.half_close()
        assert succeeded(wire.answer())
        reply = wire.answer()
        assert succeeded(reply)
        assert reply.headers["connection"] == "close"
        assert wire.is_closed()


@pytest.mark.parametrize("last", [WHOLE[:-5], CALL + CHUNKED + b"\r\n\r\nno size\r\n"], ids=["cut off", "malformed"])
def test_nor_does_a_last_request_that_is_not_whole_cost_the_earlier_answers(
    proxy: Proxy, v2: Simulator, last: bytes
) -> None:
    with v2.fault("delay=0.1"), Wire(proxy.address) as wire:
        wire.send(WHOLE * 2 + last)
        wire.half_close()
        assert succeeded(wire.answer())
        assert succeeded(wire.answer())
        assert failed(wire.answer(), 400, "bad_request")
        assert wire.is_closed()


def test_repeated_fields_cost_no_more_than_others(proxy: Proxy) -> None:
    """6,000 of one name are gathered in linear time; the square of it would take seconds for a few dozen."""
    many = b"GET /else HTTP/1.1\r\nhost: a\r\n" + b"a:\r\n" * 6_000 + b"\r\n"
    with Wire(proxy.address) as wire:
        wire.send(many * 3)
        assert [wire.answer().status for _ in range(3)] == [404] * 3


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
