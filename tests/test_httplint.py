"""httplint, by the author of HTTP's own cache and header RFCs, on real answers of a proxy, byte for byte."""

import json
import socket
import time
from collections.abc import Iterator

import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, levels

from tests.processes import DEADLINE, Proxy, Simulator, read_message
from tests.sent import note_secrets
from tests.test_admission import GOOD

REASONS = {
    "DEPRECATION_PAST": "The endpoint is deprecated; the header is there to say so.",
    "SUNSET_PAST": "One proxy here is past its sunset; the header is there to say so.",
    "CREATED_WITHOUT_LOCATION": "v1's published 201 has no Location, and a subscriber has no URL of its own.",
    "STATUS_BAD_REQUEST": "It is warned of every 400, and the requests here are meant to be bad ones.",
}
"""The notes that an answer may bear, each with the sentence that excuses it."""

ONE = len(GOOD)
PUBLIC = "/manufacturers/nox"


def head(*lines: str, method: str = "POST", path: str = PUBLIC, length: int | None = 0) -> bytes:
    framing = [] if length is None else [f"content-length: {length}"]
    named = (f"{method} {path} HTTP/1.1", "host: auth.nox.energy", "user-agent: lint", *lines, *framing)
    return "\r\n".join((*named, "", "")).encode()


KEY, APIKEY = "x-api-key: demo-key", "authorization: ApiKey demo-key"
CALL = head(KEY, "content-type: application/json", length=ONE) + GOOD
ADMISSION = {
    "201 by x-api-key": (CALL, 201),
    "201 by Authorization": (head(APIKEY, "content-type: application/json", length=ONE) + GOOD, 201),
    "400 no Host": (f"POST {PUBLIC} HTTP/1.1\r\nuser-agent: lint\r\nx: y\r\n\r\n".encode(), 400),
    "400 nonsense": (b"nonsense\r\n\r\n", 400),
    "400 a malformed chunk": (head(KEY, "transfer-encoding: chunked", length=None) + b"no\r\n", 400),
    "431": (head(KEY, "x: " + "y" * 40_000), 431),
    "404": (head(KEY, path="/else"), 404),
    "404 to GET": (head(method="GET", path="/else", length=None), 404),
    "405": (head(method="GET", length=None), 405),
    "405 to HEAD": (head("connection: close", method="HEAD", length=None), 405),
    "405 to OPTIONS": (head(method="OPTIONS"), 405),
    "502 a loop": (head(KEY, "via: 1.1 nox-proxy"), 502),
    "401 no key": (head(), 401),
    "401 two keys": (head(KEY, "x-api-key: other"), 401),
    "401 an unfit key": (head("x-api-key: a b"), 401),
    "401 of v2": (head("x-api-key: unknown", length=ONE) + GOOD, 401),
    "413": (head(KEY, length=2_000_000), 413),
    "415 an encoding": (head(KEY, "content-encoding: gzip", length=ONE) + GOOD, 415),
    "415 a media type": (head(KEY, "content-type: text/plain", length=ONE) + GOOD, 415),
    "400 no JSON": (head(KEY, length=2) + b"{]", 400),
    "400 no user": (head(KEY, length=2) + b"{}", 400),
}
FAULTS = {
    "close": 502,
    "cut": 502,
    "garbage": 502,
    "html": 502,
    "odd": 502,
    "gzip": 502,
    "hang": 504,
    "status=302": 502,
    "status=400": 400,
    "status=403": 403,
    "status=410": 410,
    "status=429": 429,
    "status=500": 500,
    "status=503": 503,
}


SCHEDULES = {
    "announcing": {"deprecated_at": "2023-06-30T23:59:59Z", "sunset_at": "2090-01-01T00:00:00Z", "policy": "http://p/"},
    "over": {"deprecated_at": "2023-06-30T23:59:59Z", "sunset_at": "2024-06-30T23:59:59Z", "after_sunset": "gone"},
    "dark": {"brownouts": [{"start": "2023-06-30T23:59:59Z", "end": "2090-01-01T00:00:00Z"}]},
}


@pytest.fixture(scope="module")
def proxies(v2: Simulator) -> Iterator[dict[str, Proxy]]:
    """One for each schedule, and one whose v2 is down."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{taken.getsockname()[1]}/v2"
        running = {
            name: Proxy(v2.url, UPSTREAMS__V2__TIMEOUT="0.5", CHANGES__CONNECT_NOX_USER__DEPRECATION=json.dumps(its))
            for name, its in SCHEDULES.items()
        }
        running["down"] = Proxy(refusing)
        yield running
    for proxy in running.values():
        proxy.popen.terminate()  # all at once; a second signal would cut the drain short
    assert [proxy.popen.wait(DEADLINE) or proxy.stop() for proxy in running.values()] == [0] * len(running)


def exchange(address: str, message: bytes) -> bytes:
    """The answer to one request, byte for byte."""
    note_secrets(message)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(message)
        answer, surplus = read_message(connection)
    assert surplus == b""
    return answer


def parted(message: bytes) -> tuple[list[bytes], list[tuple[bytes, bytes]], bytes]:
    """A message's first line in its three parts, its header lines, and its body."""
    top, *lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    pairs = [(name, value) for name, _, value in (line.partition(b":") for line in lines)]
    return top.split(b" ", 2), pairs, message.partition(b"\r\n\r\n")[2]


def notes(message: bytes, answer: bytes) -> dict[str, str]:
    """The warnings and worse that an answer gets, by their names, with their words."""
    now = time.time()
    linter = HttpResponseLinter(start_time=now)
    (method, target, *_), lines, _ = parted(message if b" " in message else b"? ?")
    linter.request = HttpRequestLinter(start_time=now)
    linter.request.process_request_topline(method, target, b"1.1")
    linter.request.process_headers(lines)
    linter.is_head_response = method == b"HEAD"
    (version, status, phrase), lines, body = parted(answer)
    linter.process_response_topline(version.removeprefix(b"HTTP/"), status, phrase)
    linter.process_headers(lines)
    linter.feed_content(body)
    linter.finish_content(True)
    found = [note for its in linter.notes for note in (its, *its.subnotes)]
    return {type(note).__name__: note.summary for note in found if note.level in (levels.BAD, levels.WARN)}


def unexcused(message: bytes, answer: bytes) -> dict[str, str]:
    return {name: words for name, words in notes(message, answer).items() if name not in REASONS}


def answered(address: str, message: bytes, status: int) -> bytes:
    """The answer, seen to be the one that was to be looked at."""
    answer = exchange(address, message)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    return answer


@pytest.mark.parametrize(("message", "status"), ADMISSION.values(), ids=ADMISSION)
def test_the_proxys_own_answers(proxies: dict[str, Proxy], message: bytes, status: int) -> None:
    assert unexcused(message, answered(proxies["announcing"].address, message, status)) == {}


@pytest.mark.parametrize(("fault", "status"), FAULTS.items())
def test_answers_to_v2s_faults(proxies: dict[str, Proxy], v2: Simulator, fault: str, status: int) -> None:
    with v2.fault(fault):
        answer = answered(proxies["announcing"].address, CALL, status)
    assert unexcused(CALL, answer) == {}


@pytest.mark.parametrize(("schedule", "status"), [("over", 410), ("dark", 410), ("down", 502)])
def test_answers_where_v2_is_not_asked(proxies: dict[str, Proxy], schedule: str, status: int) -> None:
    assert unexcused(CALL, answered(proxies[schedule].address, CALL, status)) == {}


@pytest.mark.parametrize(
    ("method", "path", "accept", "status"),
    [
        ("GET", "/", "text/html", 200),
        ("GET", "/metrics", "text/plain", 200),
        ("GET", "/metrics", "application/openmetrics-text; version=1.0.0", 200),
        ("GET", "/livez", "*/*", 200),
        ("GET", "/readyz", "*/*", 200),
        ("HEAD", "/readyz", "*/*", 200),
        ("POST", "/readyz", "*/*", 405),
        ("GET", "/else", "*/*", 404),
    ],
)
def test_the_admin_port(proxies: dict[str, Proxy], method: str, path: str, accept: str, status: int) -> None:
    message = head(f"accept: {accept}", "connection: close", method=method, path=path, length=None)
    assert unexcused(message, answered(proxies["announcing"].admin, message, status)) == {}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_needed(proxies: dict[str, Proxy], reason: str) -> None:
    message = ADMISSION["400 no user"][0]
    found = {
        *notes(CALL, exchange(proxies["announcing"].address, CALL)),
        *notes(message, exchange(proxies["announcing"].address, message)),
        *notes(CALL, exchange(proxies["over"].address, CALL)),
    }
    assert reason in found


@pytest.mark.parametrize(
    ("line", "note"),
    [
        (b"deprecation: true", "DEPRECATION_BAD_TYPE"),
        (b"sunset: 2024-06-30", "BAD_DATE_SYNTAX"),
        (b"retry-after: soon", "BAD_SYNTAX"),
        (b"content-length: 3", "CL_INCORRECT"),
        (b"link: <https://a b>; rel=x", "BAD_SYNTAX"),
    ],
)
def test_a_fault_would_be_seen(line: bytes, note: str) -> None:
    assert note in unexcused(CALL, b"HTTP/1.1 410 Gone\r\n%s\r\n\r\n" % line)
