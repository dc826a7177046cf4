"""The schedule at work (contract.md, admission 8 and "Deprecation headers"), on running proxies.

It is long for its tables: every kind of answer of a v1 path, by one worker, by two, and by ASGI alone.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from proxy.policy.credentials import digest
from tests.processes import DEADLINE, ROOT, Proxy, Reply, Simulator, Wire, call, eventually
from tests.test_admission import GOOD, JSON, KEY, failed, succeeded
from tests.test_reload import Operated

SCHEDULE = "CHANGES__CONNECT_NOX_USER__DEPRECATION"
DOCS, POLICY = "https://docs.example/v1?a=1,2", "https://nox.example/sunset;v1"
DEPRECATED, SUNSET = "2023-06-30T23:59:59Z", "2024-06-30T23:59:59Z"
NAMES = ("deprecation", "sunset", "link")
ENDPOINT = 'endpoint="connect_nox_user"'
MANUFACTURERS = json.dumps(
    {"acme": {"keys_sha256": [digest(b"demo-key")]}, "zenith": {"keys_sha256": [digest(b"z-1"), digest(b"z-2")]}}
)
LIMIT = 1_000


def announced(reply: Reply) -> dict[str, str]:
    """The three headers, those that came."""
    return {name: reply.headers[name] for name in NAMES if name in reply.headers}


def whole_schedule(v2: Simulator) -> dict[str, str]:
    """What the contract has the proxy below say, by its own examples."""
    successor = f'<{v2.url}/manufacturer/device-connections>; rel="successor-version"'
    return {
        "deprecation": "@1688169599",
        "sunset": "Sun, 30 Jun 2024 23:59:59 GMT",
        "link": f'<{DOCS}>; rel="deprecation"; type="text/html", {successor}, <{POLICY}>; rel="sunset"',
    }


def ask(address: str, message: bytes) -> Reply:
    """The answer to raw bytes."""
    with Wire(address) as wire:
        wire.send(message)
        return wire.answer()


def head(
    *lines: str, method: str = "POST", path: str = "/manufacturers/nox", key: str = "demo-key", length: int = 0
) -> bytes:
    named = (f"{method} {path} HTTP/1.1", "host: a", f"x-api-key: {key}", *lines, f"content-length: {length}")
    return "\r\n".join((*named, "", "")).encode()


@pytest.fixture(autouse=True)
def _fresh(v2: Simulator) -> None:
    v2.forget()


@pytest.fixture(
    scope="module",
    params=[{"WORKERS": "1"}, {"WORKERS": "2"}, {"door": "asgi"}],
    ids=["one worker", "two workers", "by ASGI"],
)
def manner(request: pytest.FixtureRequest) -> dict[str, str]:
    """What a proxy is started with besides."""
    return dict(request.param)


@pytest.fixture(scope="module")
def start(manner: dict[str, str]) -> Iterator[Callable[..., Proxy]]:
    """Starts proxies by their schedule and other settings; all are stopped."""
    started: list[Proxy] = []

    def begin(v2_url: str, schedule: object, **settings: str) -> Proxy:
        own = {"MANUFACTURERS": MANUFACTURERS, "UPSTREAMS__V2__TIMEOUT": "0.5", SCHEDULE: json.dumps(schedule)}
        started.append(Proxy(v2_url, cwd=ROOT, **manner, **own, **settings))
        return started[-1]

    yield begin
    for proxy in started:
        proxy.popen.terminate()  # all at once; a second signal would cut the drain short
    assert [proxy.popen.wait(DEADLINE) or proxy.stop() for proxy in started] == [0] * len(started)


@pytest.fixture(scope="module")
def operated(manner: dict[str, str], tmp_path_factory: pytest.TempPathFactory, v2: Simulator) -> Iterator[Operated]:
    """One whose schedule its operator changes."""
    file = tmp_path_factory.mktemp("settings") / "nox-proxy.toml"
    running = Operated(file, v2, MANUFACTURERS=MANUFACTURERS, **manner)
    yield running
    assert running.stop() == 0


def brownouts(*windows: str) -> str:
    """The settings, of TOML's inline tables."""
    return f"[changes.connect_nox_user.deprecation]\nbrownouts = [{', '.join(windows)}]"


ANNOUNCED = {"deprecated_at": DEPRECATED, "sunset_at": SUNSET, "documentation": DOCS, "policy": POLICY}


@pytest.fixture(scope="module")
def announcing(v2: Simulator, start: Callable[..., Proxy]) -> Proxy:
    return start(v2.url, ANNOUNCED, MAX_BODY_BYTES=str(LIMIT))


ONE = len(GOOD)
BEGUN = b"POST /manufacturers/nox HTTP/1.1\r\n"
ANSWERS = {
    "201": (head(length=ONE) + GOOD, 201),
    "201 with a slash": (head(path="/manufacturers/nox/", length=ONE) + GOOD, 201),
    "201 with a query": (head(path="/manufacturers/nox?a=/b", length=ONE) + GOOD, 201),
    "201 by an absolute target": (head(path="http://b/manufacturers/nox", length=ONE) + GOOD, 201),
    "201 by HTTP/1.0": ((head(length=ONE) + GOOD).replace(b"HTTP/1.1", b"HTTP/1.0"), 201),
    "400 no JSON": (head(length=2) + b"{]", 400),
    "400 no user": (head(length=2) + b"{}", 400),
    "400 a malformed chunk": (head().replace(b"content-length: 0", b"transfer-encoding: chunked") + b"no\r\n", 400),
    "401 no key": (head(key=""), 401),
    "401 two keys": (head("x-api-key: b"), 401),
    "401 an unfit key": (head(key="a b"), 401),
    "401 of v2": (head(key="unknown", length=ONE) + GOOD, 401),
    "405": (head(method="GET"), 405),
    "405 with a slash": (head(method="DELETE", path="/manufacturers/nox/"), 405),
    "405 to HEAD": (head("connection: close", method="HEAD"), 405),
    "413 announced": (head(length=LIMIT + 1), 413),
    "413 found": (
        head().replace(b"content-length: 0", b"transfer-encoding: chunked") + b"7d0\r\n" + b"x" * 2_000 + b"\r\n",
        413,
    ),
    "415 an encoding": (head("content-encoding: gzip", length=ONE) + GOOD, 415),
    "415 a media type": (head("content-type: text/plain", length=ONE) + GOOD, 415),
    "502 a loop": (head("via: 1.1 nox-proxy"), 502),
    "400 no Host": (BEGUN + b"x-api-key: demo-key\r\n\r\n", 400),
    "400 no Host, with a slash": (b"POST /manufacturers/nox/?a HTTP/1.1\r\nx: y\r\n\r\n", 400),
    "400 two Hosts": (BEGUN + b"host: a\r\nhost: b\r\n\r\n", 400),
    "400 a bad Host": (BEGUN + b"host: a b\r\n\r\n", 400),
    "400 a bad length": (BEGUN + b"host: a\r\ncontent-length: x\r\n\r\n", 400),
    "400 a bad line": (BEGUN + b"host: a\r\nno colon\r\n\r\n", 400),
    "400 a bad first line": (BEGUN + b"no colon\r\n\r\n", 400),
    "400 half a request line": (b"POST /manufacturers/nox\r\n\r\n", 400),
    "400 no header at all": (BEGUN + b"\r\n", 400),
    "400 a user in the target": (b"POST http://a@b/manufacturers/nox HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "417": (head("expect: 200-ok"), 417),
    "431": (BEGUN + b"host: a\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    "431 a first line without an end": (BEGUN + b"x: " + b"y" * 300_000, 431),
    "431 a second line without an end": (BEGUN + b"host: a\r\nx: " + b"y" * 300_000, 431),
    "431 a query": (b"POST /manufacturers/nox?" + b"y" * 40_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431),
}


@pytest.mark.parametrize(("message", "status"), ANSWERS.values(), ids=ANSWERS)
def test_every_answer_of_a_v1_path_announces(announcing: Proxy, v2: Simulator, message: bytes, status: int) -> None:
    reply = ask(announcing.address, message)
    assert (reply.status, announced(reply)) == (status, whole_schedule(v2))


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        *[(fault, 502) for fault in ("close", "cut", "garbage", "html", "odd", "gzip", "status=302")],
        ("hang", 504),
        *[(f"status={status}", status) for status in (400, 401, 403, 404, 409, 410, 429, 500, 503, 599)],
    ],
)
def test_so_does_every_answer_that_v2_caused(announcing: Proxy, v2: Simulator, fault: str, status: int) -> None:
    with v2.fault(fault):
        reply = ask(announcing.address, ANSWERS["201"][0])
    assert (reply.status, announced(reply)) == (status, whole_schedule(v2))


@pytest.mark.parametrize("answer", ["201", "413 announced", "400 no Host"])
def test_each_header_is_one_line(announcing: Proxy, answer: str) -> None:
    with Wire(announcing.address) as wire:
        wire.send(ANSWERS[answer][0])
        wire.half_close()
        names = [line.partition(b":")[0] for line in wire.rest().split(b"\r\n")]
    assert [names.count(name.encode()) for name in NAMES] == [1, 1, 1]


def test_so_does_a_502_while_v2_is_down(start: Callable[..., Proxy]) -> None:
    with socket.socket() as bound:  # a port that is taken, and refuses
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v2"
        reply = call(start(url, ANNOUNCED).address, GOOD, JSON)
    assert failed(reply, 502, "upstream_unavailable")
    assert reply.headers["deprecation"] == "@1688169599"
    assert f'<{url}/manufacturer/device-connections>; rel="successor-version"' in reply.headers["link"]


UNCOVERED = {
    "an unknown path": (head(path="/", length=ONE) + GOOD, 404),
    "two slashes": (head(path="/manufacturers/nox//"), 404),
    "v2's own path": (head(path="/v2/manufacturer/device-connections"), 404),
    "another method there": (head(method="GET", path="/manufacturers"), 404),
    "no Host there": (b"POST /manufacturers HTTP/1.1\r\nx: y\r\n\r\n", 400),
    "431 there": (b"POST /manufacturers HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431),
    "a v1 path in the query": (b"POST /?/manufacturers/nox HTTP/1.1\r\nx: y\r\n\r\n", 400),
    "nonsense": (b"nonsense\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "a path that goes on and on": (b"POST /manufacturers/nox" + b"x" * 300_000, 431),
}


@pytest.mark.parametrize(("message", "status"), UNCOVERED.values(), ids=UNCOVERED)
def test_no_other_answer_does(announcing: Proxy, message: bytes, status: int) -> None:
    reply = ask(announcing.address, message)
    assert (reply.status, announced(reply)) == (status, {})


def test_a_connections_answers_announce_each_for_itself(announcing: Proxy, v2: Simulator) -> None:
    """What was said of one request's path is not said of the next."""
    with Wire(announcing.address) as wire:
        for message, expected in (
            (ANSWERS["201"][0], whole_schedule(v2)),
            (head(method="GET", path="/"), {}),
            (ANSWERS["400 no user"][0], whole_schedule(v2)),
            (b"nonsense\r\n\r\n", {}),
        ):
            wire.send(message)
            assert announced(wire.answer()) == expected


@pytest.mark.parametrize("body", [GOOD, b"{}"])
def test_without_a_schedule_there_is_the_link_alone(proxy: Proxy, v2: Simulator, body: bytes) -> None:
    successor = f'<{v2.url}/manufacturer/device-connections>; rel="successor-version"'
    assert announced(ask(proxy.address, head(length=len(body)) + body)) == {
        "link": f'<https://docs.nox.energy>; rel="deprecation"; type="text/html", {successor}'
    }


# 410

OVER = {"deprecated_at": DEPRECATED, "sunset_at": SUNSET, "after_sunset": "gone"}
WINDOW = ("2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z")
DARK = {"brownouts": [{"start": WINDOW[0], "end": WINDOW[1], "exempt": ["acme"]}]}


@pytest.fixture(scope="module")
def over(v2: Simulator, start: Callable[..., Proxy]) -> Proxy:
    return start(v2.url, OVER)


@pytest.fixture(scope="module")
def dark(v2: Simulator, start: Callable[..., Proxy]) -> Proxy:
    return start(v2.url, DARK, MAX_BODY_BYTES=str(LIMIT))


def test_after_its_sunset_the_endpoint_is_gone(over: Proxy, v2: Simulator) -> None:
    for key in ("demo-key", "z-1", "stranger"):
        reply = call(over.address, GOOD, {"x-api-key": key})
        assert failed(reply, 410, "endpoint_sunset")
        assert "retry-after" not in reply.headers
        assert {**announced(reply), "link": ""} == {**whole_schedule(v2), "link": ""}
        assert 'rel="successor-version"' in reply.headers["link"]
    assert v2.calls() == []


@pytest.mark.parametrize(
    "lines",
    [{"x-api-key": "z-1"}, {"x-api-key": "z-2"}, {"authorization": "ApiKey stranger"}, {"x-api-key": "s" * 512}],
)
def test_during_a_brownout_v2_gets_nothing(dark: Proxy, v2: Simulator, lines: dict[str, str]) -> None:
    end = datetime.fromisoformat(WINDOW[1]).timestamp()
    asked = time.time()
    reply = call(dark.address, GOOD, lines)
    assert failed(reply, 410, "endpoint_brownout")
    assert end <= time.time() + int(reply.headers["retry-after"])
    assert asked + int(reply.headers["retry-after"]) < end + 1
    assert 'rel="successor-version"' in reply.headers["link"]
    assert v2.calls() == []


@pytest.mark.parametrize("lines", [KEY, {"authorization": "ApiKey demo-key"}])
def test_the_exempt_are_served_meanwhile(dark: Proxy, v2: Simulator, lines: dict[str, str]) -> None:
    assert succeeded(call(dark.address, GOOD, lines))
    assert len(v2.calls()) == 1


BIG = b"x" * (LIMIT + 1)
ORDER = [
    (b"POST /manufacturers/nox HTTP/1.1\r\nx-api-key: z-1\r\n\r\n", 400),
    (head(path="/else", key="z-1"), 404),
    (head(method="GET", key="z-1"), 405),
    (head("via: 1.1 nox-proxy", key="z-1"), 502),
    (head(key=""), 401),
    (head("x-api-key: z-2", key="z-1"), 401),
    (head(key="z 1"), 401),
    (head(key="z-1", length=len(BIG)) + BIG, 410),
    (head("content-encoding: gzip", key="z-1", length=2) + b"{}", 410),
    (head("content-type: text/plain", key="z-1", length=2) + b"{}", 410),
    (head(key="z-1", length=2) + b"{]", 410),
    (head(key="z-1", length=2) + b"{}", 410),
    (head(length=len(BIG)) + BIG, 413),
]


@pytest.mark.parametrize(("message", "status"), ORDER)
def test_the_eighth_check_is_the_eighth(dark: Proxy, v2: Simulator, message: bytes, status: int) -> None:
    assert ask(dark.address, message).status == status
    assert v2.calls() == []


def test_a_410_before_the_body_was_read_closes(over: Proxy, dark: Proxy) -> None:
    for running in (over, dark):
        with Wire(running.address) as wire:
            wire.send(head(key="z-1"))
            reply = wire.answer()
            assert (reply.status, reply.headers.get("connection")) == (410, None)
            wire.send(head(key="z-1", length=ONE))
            reply = wire.answer()
            assert (reply.status, reply.headers.get("connection")) == (410, "close")
            wire.half_close()
            assert wire.is_closed()


def test_whom_a_410_counts_for(dark: Proxy) -> None:
    """An unlisted key is `unregistered`, for v2 cannot judge it; no key, or an unfit one, is nobody's."""
    wanted = (("zenith", 410), ("unregistered", 410), ("unauthenticated", 401))

    def counts() -> list[float]:
        metrics = dark.metrics()
        requests = {name: value for name, value in metrics.items() if name.startswith("nox_proxy_requests_total{")}
        labels = [
            {ENDPOINT, f'manufacturer="{its}"', 'upstream="none"', f'status="{status}"'} for its, status in wanted
        ]
        return [sum(n for name, n in requests.items() if set(name[25:-1].split(",")) == its) for its in labels]

    before, sent = counts(), durations(dark)
    for key in ("z-1", "z-2", "stranger-1", "stranger-2", "stranger-3", "", "a b"):
        ask(dark.address, head(key=key, length=ONE) + GOOD)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 3, 2]
    assert durations(dark) == sent
    for manufacturer in ("zenith", "unregistered"):
        last_seen = f'nox_proxy_legacy_last_seen_timestamp_seconds{{{ENDPOINT},manufacturer="{manufacturer}"}}'
        assert dark.metrics()[last_seen] == pytest.approx(time.time(), abs=60)


def durations(running: Proxy) -> dict[str, float]:
    """What /metrics says of the calls to upstreams."""
    return {name: value for name, value in running.metrics().items() if "upstream_duration" in name}


# the schedule on /metrics

ACTIVE = f"nox_proxy_brownout_active{{{ENDPOINT}}}"
GAUGES = ("deprecation_timestamp", "sunset_timestamp", "brownout_active", "next_brownout")


def gauges(running: Proxy) -> dict[str, float]:
    """What /metrics says of the schedule."""
    return {name: value for name, value in running.metrics().items() if any(word in name for word in GAUGES)}


def test_the_gauges_of_what_is_set(announcing: Proxy, dark: Proxy, proxy: Proxy) -> None:
    assert gauges(announcing) == {
        f"nox_proxy_deprecation_timestamp_seconds{{{ENDPOINT}}}": 1688169599,
        f"nox_proxy_sunset_timestamp_seconds{{{ENDPOINT}}}": 1719791999,
        ACTIVE: 0,
    }
    assert gauges(dark) == {ACTIVE: 1}
    assert gauges(proxy) == {ACTIVE: 0}


def test_the_gauges_of_the_next_brownout(operated: Operated) -> None:
    """Of the first that has not begun, while another runs."""
    operated.reload(
        brownouts(
            "{start = 2090-01-01T00:00:00Z, end = 2090-01-01T01:00:00Z}",
            '{start = 2080-01-01T00:00:00Z, end = 2080-01-01T00:30:00.5Z, exempt = ["acme"]}',
            "{start = 2020-01-01T00:00:00Z, end = 2080-01-01T00:00:00Z, percent = 0}",
        )
    )
    assert gauges(operated) == {
        ACTIVE: 1,
        f"nox_proxy_next_brownout_start_timestamp_seconds{{{ENDPOINT}}}": 3471292800,
        f"nox_proxy_next_brownout_end_timestamp_seconds{{{ENDPOINT}}}": 3471294600.5,
        **{
            f'nox_proxy_next_brownout_covers{{{ENDPOINT},manufacturer="{name}"}}': covered
            for name, covered in (("acme", 0), ("zenith", 1), ("unregistered", 1))
        },
    }


def test_a_share_of_the_unlisted_is_hit_too(operated: Operated) -> None:
    """Each of their keys is a caller of its own, so a window of 50 % hits half of them: not none."""
    operated.reload(brownouts("{start = 2080-01-01T00:00:00Z, end = 2080-01-01T01:00:00Z, percent = 50}"))
    assert gauges(operated)[f'nox_proxy_next_brownout_covers{{{ENDPOINT},manufacturer="unregistered"}}'] == 1


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


class Look(NamedTuple):
    """An answer and the gauges, with the moments between which they were had."""

    asked: float
    came: float
    status: int
    active: float
    has_next: bool


def test_a_brownout_begins_and_ends_while_the_proxy_runs(operated: Operated) -> None:
    """To the moment: what is had wholly before it, in it and after it."""
    begin = time.time() + 2
    end = begin + 2
    operated.reload(brownouts(f"{{start = {moment(begin)}, end = {moment(end)}}}"))
    looks: list[Look] = []

    def look() -> bool:
        asked = time.time()
        status, told = call(operated.address, GOOD, KEY).status, gauges(operated)
        looks.append(Look(asked, time.time(), status, told.pop(ACTIVE), bool(told)))
        return asked > end + 0.2

    assert eventually(look)
    assert {its[2:] for its in looks if its.came < begin} == {(201, 0, True)}
    assert {its[2:] for its in looks if its.asked >= begin and its.came < end} == {(410, 1, False)}
    assert {its[2:] for its in looks if its.asked >= end} == {(201, 0, False)}
