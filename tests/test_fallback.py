"""Fallback on running proxies: v1 answers where v2 provably took nothing of a call, and nowhere else.

It is long for the ways in which v2 may fail, each a server of its own.
"""

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from tests.processes import DEADLINE, Proxy, Reply, call, eventually, read_message
from tests.test_admission import GOOD, JSON, failed, succeeded
from tests.two_upstreams import Upstreams, counting, failed_at, fell_back, of_a_call
from tests.wire.servers import Authority, unused_port

Serve = Callable[[socket.socket], None]
SETTINGS = {
    "UPSTREAMS__V1__TIMEOUT": "0.5",
    "UPSTREAMS__V2__CONNECT_TIMEOUT": "0.2",
    "UPSTREAMS__V2__TIMEOUT": "0.5",
    "UPSTREAMS__V2__MAX_CONNECTIONS": "1",
}


class House(NamedTuple):
    """A proxy before v1 and ports where v2 may or may not be."""

    proxy: Proxy
    both: Upstreams
    port: int

    def connect(self, **headers: str) -> Reply:
        return call(self.proxy.address, GOOD, {**JSON, **headers})


@pytest.fixture(autouse=True)
def _fresh(both: Upstreams) -> None:
    both.forget()


@contextmanager
def free_port() -> Iterator[int]:
    """A port that refuses until one of `listening` and `full` is there; nobody else can take it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def house(both: Upstreams, url: str, fallback: str = "not_sent", **more: str) -> Iterator[House]:
    """v2 is at `url`, where {port} is a free one."""
    with free_port() as port:
        settings = {**SETTINGS, "UPSTREAMS__V2__URL": url.format(port=port), **more}
        with both.proxy({"fallback": fallback, "allow_header": True}, None, **settings) as proxy:
            yield House(proxy, both, port)


@pytest.fixture(scope="module", params=["keepalive", "httpx"])
def plain(request: pytest.FixtureRequest, both: Upstreams) -> Iterator[House]:
    with house(both, "http://127.0.0.1:{port}/v2", UPSTREAMS__V2__TRANSPORT=request.param) as found:
        yield found


@pytest.fixture(scope="module")
def secure(both: Upstreams) -> Iterator[House]:
    with house(both, "https://127.0.0.1:{port}/v2") as found:
        yield found


@contextmanager
def listening(port: int, serve: Serve) -> Iterator[None]:
    """Has the connections to a port served, one after the other."""

    def serve_all() -> None:
        with suppress(OSError):  # no longer listening
            while True:
                connection, _ = listener.accept()
                connection.settimeout(DEADLINE)
                with connection, suppress(OSError):
                    serve(connection)

    with socket.create_server(("127.0.0.1", port)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(serve_all)
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def full(port: int) -> Iterator[None]:
    """Has a port whose queue is full: no handshake of TCP is answered."""
    with socket.create_server(("127.0.0.1", port), backlog=0) as listener, ExitStack() as queue:
        for _ in range(3):
            queue.enter_context(one := socket.socket()).setblocking(False)
            one.connect_ex(listener.getsockname())
        yield


def takes(came: list[bytes], answer: bytes | None = None) -> Serve:
    """Takes a call down, answers with these bytes and closes; with None it hangs until the caller leaves."""

    def serve(connection: socket.socket) -> None:
        came.append(read_message(connection)[0])
        connection.sendall(answer or b"")
        while answer is None and connection.recv(65_536):
            pass

    return serve


def resets(connection: socket.socket) -> None:
    read_message(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def closes_at_once(connection: socket.socket) -> None:
    pass


def speaks_no_tls(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def shows(certificate: ssl.SSLContext, came: list[bytes]) -> Serve:
    """Takes down what is said to it after the handshake."""

    def serve(connection: socket.socket) -> None:
        with certificate.wrap_socket(connection, server_side=True) as encrypted:
            came.append(encrypted.recv(65_536))

    return serve


# Where v2 took nothing

REFUSED_BY_V2 = failed_at("v2", "connection_refused")


def assert_falls_back(its: House, reason: str) -> None:
    """v1 got the call as it came, its answer came back, and the answer, the metrics and the log say why."""
    direct = call(its.both.v1.address, GOOD, JSON)
    its.both.forget()
    request_id = str(uuid4())
    with counting(its.proxy, *of_a_call("unregistered", 201), fell_back(reason), failed_at("v2", reason)):
        reply = its.connect(**{"x-request-id": request_id})
    assert succeeded(reply)
    assert reply.json()["data"] == direct.json()["data"]
    assert {*reply.headers} == {*direct.headers, "link", "via", "proxy-status"}
    assert reply.headers["proxy-status"] == f'nox-proxy; next-hop="v1"; error={reason}; details="v2 took nothing"'
    (came,) = its.both.v1.calls()
    assert (came["target"], came["body"]) == ("/manufacturers/nox", GOOD.decode())
    (line,) = its.proxy.lines(request_id)
    assert (line["upstream"], line["status"], line["error_code"]) == ("v1", 201, None)


def test_v2_refuses(plain: House) -> None:
    assert_falls_back(plain, "connection_refused")


def test_v2s_name_is_not_resolved(both: Upstreams) -> None:
    with house(both, "http://nowhere.invalid/v2") as its:
        assert_falls_back(its, "dns_error")


def test_v2_is_not_connected_in_time(plain: House) -> None:
    with full(plain.port):
        assert_falls_back(plain, "connection_timeout")


def test_no_connection_to_v2_comes_free_in_time(plain: House) -> None:
    """The one that there may be is taken by a call that hangs, and that one does not fall back."""
    came: list[bytes] = []
    with listening(plain.port, takes(came)), ThreadPoolExecutor(1) as caller:
        stuck = caller.submit(plain.connect)
        assert eventually(lambda: len(came) == 1)
        reply = plain.connect()
        assert succeeded(reply)
        assert "error=connection_limit_reached" in reply.headers["proxy-status"]
        assert "retry-after" not in reply.headers
        assert failed(stuck.result(), 504, "upstream_timeout")
    assert (len(came), plain.both.asked()) == (1, ["v1"])


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (speaks_no_tls, "tls_protocol_error"),
        (closes_at_once, "destination_unavailable"),
        (takes([]), "connection_timeout"),
    ],
)
def test_v2_ends_no_handshake(secure: House, serve: Serve, reason: str) -> None:
    with listening(secure.port, serve):
        assert_falls_back(secure, reason)


def test_v2s_certificate_is_not_trusted(secure: House) -> None:
    came: list[bytes] = []
    with listening(secure.port, shows(Authority().server(), came)):
        assert_falls_back(secure, "tls_certificate_error")
    assert came == []


def test_v1s_own_error_is_the_answer(plain: House) -> None:
    """It has the call, and says so itself."""
    one_more = (*of_a_call("unauthenticated", 503), fell_back("connection_refused"), REFUSED_BY_V2)
    with plain.both.v1.fault("status=503"), counting(plain.proxy, *one_more):
        reply = plain.connect()
    assert (reply.status, reply.json()["message"]) == (503, "Internal server error")
    assert 'next-hop="v1"; error=connection_refused' in reply.headers["proxy-status"]


def test_v1_fails_too(plain: House) -> None:
    """The caller hears of v1's failure; both are counted, and that v1 was asked in v2's place."""
    failures = (REFUSED_BY_V2, fell_back("connection_refused"), failed_at("v1", "http_response_timeout"))
    with plain.both.v1.fault("hang"), counting(plain.proxy, *of_a_call("unauthenticated", 504), *failures):
        reply = plain.connect()
    assert failed(reply, 504, "upstream_timeout")
    assert reply.headers["proxy-status"] == "nox-proxy; error=http_response_timeout"
    assert "nox-unmapped" not in reply.headers
    assert plain.both.asked() == ["v1"]


# Where it may have taken something


def http(status: str, body: bytes, *lines: str, length: int | None = None) -> bytes:
    head = (f"HTTP/1.1 {status}", *lines, f"content-length: {length or len(body)}", "connection: close", "", "")
    return "\r\n".join(head).encode() + body


CONNECTED = b'{"manufacturer_user_id": "u-1", "nox_user_id": "n-1"}'
ANSWERS: dict[str, tuple[bytes | None, int, str | None]] = {
    "connects": (http("201 Created", CONNECTED), 201, None),
    "limits": (http("429 Too Many Requests", b"", "retry-after: 9"), 429, "rate_limited"),
    "fails": (http("500 Oh", b'{"error": "Internal server error"}'), 500, "internal_server_error"),
    "is overloaded": (http("503 Service Unavailable", b"", "retry-after: 1"), 503, "service_unavailable"),
    "moved": (http("307 Temporary Redirect", b"", "location: /"), 502, "invalid_upstream_response"),
    "says something odd": (http("201 Created", b"{}"), 502, "invalid_upstream_response"),
    "says too much": (http("201 Created", b"x" * 1_048_577), 502, "invalid_upstream_response"),
    "speaks no HTTP": (b"\x15\x03\x01 no HTTP at all\r\n\r\n", 502, "invalid_upstream_response"),
    "closes": (b"", 502, "upstream_disconnected"),
    "breaks off in its body": (http("201 Created", CONNECTED, length=99), 502, "upstream_disconnected"),
    "hangs": (None, 504, "upstream_timeout"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_what_v2_may_have_taken_is_v2s(plain: House, what: str) -> None:
    """The contract's row stands: v1 is not asked, and v2 not a second time."""
    answer, status, code = ANSWERS[what]
    came: list[bytes] = []
    with listening(plain.port, takes(came, answer)):
        reply = plain.connect()
    assert (reply.status, reply.json().get("error_code")) == (status, code)
    assert (len(came), plain.both.asked()) == (1, [])


@pytest.mark.parametrize("serve", [resets, closes_at_once])
def test_a_connection_broken_off_is_v2s(plain: House, serve: Serve) -> None:
    with listening(plain.port, serve):
        assert failed(plain.connect(), 502, "upstream_disconnected")
    assert plain.both.asked() == []


@pytest.mark.parametrize("transport", ["keepalive", "httpx"])
def test_tls_broken_off_after_the_handshake_is_v2s(both: Upstreams, tmp_path: Path, transport: str) -> None:
    """Of TLS 1.3 it is over for us before v2 says that it wants a certificate of ours."""
    authority = Authority()
    strict = authority.server()
    strict.verify_mode = ssl.CERT_REQUIRED
    trusted = {"UPSTREAMS__V2__CA_FILE": authority.write(tmp_path / "ca.pem"), "UPSTREAMS__V2__TRANSPORT": transport}
    with (
        house(both, "https://127.0.0.1:{port}/v2", **trusted) as its,
        listening(its.port, shows(strict, [])),
    ):
        for _ in range(20):
            assert failed(its.connect(), 502, "upstream_disconnected")
    assert both.asked() == []


# Where it is not to be


def test_a_forced_choice_stands(plain: House) -> None:
    """Whoever chose v2 hears of its failure."""
    with counting(plain.proxy, *of_a_call("unauthenticated", 502, "v2"), REFUSED_BY_V2):
        assert failed(plain.connect(**{"nox-upstream": "v2"}), 502, "upstream_unavailable")
    assert plain.both.asked() == []
    reply = plain.connect(**{"nox-upstream": "v1"})
    assert succeeded(reply)
    assert "proxy-status" not in reply.headers


def test_never(both: Upstreams) -> None:
    """v2's failure is the caller's to hear. That v1 is gone too is seen where it alone is asked."""
    at_v1 = {"UPSTREAMS__V1__URL": f"http://127.0.0.1:{unused_port()}"}
    with house(both, "http://127.0.0.1:{port}/v2", "never", **at_v1) as its:
        with counting(its.proxy, *of_a_call("unauthenticated", 502, "v2"), REFUSED_BY_V2):
            assert failed(its.connect(), 502, "upstream_unavailable")
        with counting(its.proxy, *of_a_call("unauthenticated", 502, "v1"), failed_at("v1", "connection_refused")):
            assert failed(its.connect(**{"nox-upstream": "v1"}), 502, "upstream_unavailable")
        with full(its.port):
            assert failed(its.connect(), 504, "upstream_timeout")
