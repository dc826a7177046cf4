"""What header fields mean and which may be sent; the rows that test_to_v2.py shows on the wire are not repeated."""

from ipaddress import ip_network

import pytest

from proxy.contract.messages import Request, gather, read_lines
from proxy.wire import headers
from proxy.wire.headers import ToUpstream


@pytest.mark.parametrize(
    ("via", "loop"),
    [
        (b"1.1 nox-proxy", True),
        (b"HTTP/1.1 Nox-Proxy", True),
        (b"1.1 a, 2 nox-proxy (behind, b)", True),
        (b"1.1 a (nox-proxy), 1.1 b", False),
        (b"1.1 a (x, 1.1 nox-proxy, y), 1.1 b", False),
        (b"1.1 nox-proxy.example", False),
        (b"nox-proxy", False),
        (b"", False),
    ],
)
def test_loop(via: bytes, loop: bool) -> None:
    assert headers.is_loop({b"via": (b"1.1 first", via)}) is loop


@pytest.mark.parametrize(
    ("content_type", "fits"),
    [
        ((), True),
        ((b"",), True),
        ((b"application/json",), True),
        ((b"APPLICATION/JSON;charset=utf-8",), True),
        ((b"application/problem+json",), True),
        ((b"text/json",), False),
        ((b"application/jsonp",), False),
        ((b"/x+json",), False),
        ((b"json",), False),
        ((b"application/json", b"application/json"), False),
    ],
)
def test_media_type(content_type: tuple[bytes, ...], fits: bool) -> None:
    assert headers.media_type_is_json({b"content-type": content_type} if content_type else {}) is fits


def request(client: str | None, **fields: bytes) -> Request:
    lines = [(name.replace("_", "-").encode(), value) for name, value in fields.items()]
    return Request("POST", b"/", gather(lines), client, "https")


def sent(trusted: str, its: Request) -> dict[bytes, bytes]:
    return dict(read_lines(ToUpstream((ip_network(trusted),)).translated(its, b"k")))


@pytest.mark.parametrize(
    ("client", "trusted", "forwarded"),
    [
        ("10.1.2.3", "10.0.0.0/8", b"1.1.1.1, 10.1.2.3"),
        ("11.1.2.3", "10.0.0.0/8", b"11.1.2.3"),
        ("fd00::1", "fd00::/8", b"1.1.1.1, fd00::1"),
        ("fd00::1", "10.0.0.0/8", b"fd00::1"),
        ("not-an-address", "10.0.0.0/8", b"not-an-address"),
        (None, "10.0.0.0/8", None),
    ],
)
def test_forwarded_for(client: str | None, trusted: str, forwarded: bytes | None) -> None:
    lines = sent(trusted, request(client, x_forwarded_for=b"1.1.1.1"))
    assert lines.get(b"x-forwarded-for") == forwarded
    assert lines[b"x-forwarded-proto"] == b"https"


@pytest.mark.parametrize("name", ["user_agent", "idempotency_key", "x_forwarded_host", "x_forwarded_proto"])
@pytest.mark.parametrize("value", [b"a\r\nx-injected: 1", b"\x00", b" a", b"a\x7fb"])
def test_a_value_that_may_not_stand_in_a_message_is_left_out(name: str, value: bytes) -> None:
    """The parser refuses most of these; this is the second lock."""
    assert value not in sent("0.0.0.0/0", request("10.0.0.1", **{name: value})).values()


def test_doubled_fields_are_nobodys() -> None:
    doubled = {b"x-request-id": (b"a", b"b"), b"idempotency-key": (b"a", b"b"), b"traceparent": (b"a", b"b")}
    lines = dict(read_lines(ToUpstream(()).translated(Request("POST", b"/", doubled), b"k")))
    assert b"idempotency-key" not in lines
    assert [*headers.trace_context(doubled)] == []
    assert headers.request_id(doubled) not in (b"a", b"b")


def test_from_upstream_takes_the_limits_alone() -> None:
    came = (
        (b"retry-after", b"1"),
        (b"ratelimit-reset", b"2"),
        (b"x-ratelimit-limit", b"3"),
        (b"x-rate-limit", b"4"),
        (b"ratelimit", b"a\x00b"),
        (b"date", b"5"),
    )
    assert read_lines(headers.from_upstream(came)) == came[:3]
