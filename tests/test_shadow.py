"""The shadow in a running proxy: what v1 answers goes to v2 too, is compared and counted, and no caller notices."""

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import NamedTuple
from uuid import uuid4

import pytest

from proxy.policy.rollout import Rollout
from proxy.shadow import Bounds
from tests.processes import DEADLINE, Proxy, Reply, Simulator, call, eventually, read_message
from tests.wire.servers import unused_port

KEY = {"x-api-key": "demo-key"}
TO_V1, TO_V2 = KEY | {"nox-upstream": "v1"}, KEY | {"nox-upstream": "v2"}
USER, DEVICES = "user-of-the-shadow", ["heat-pump-1", "wallbox-2"]


def body(user: str = USER) -> bytes:
    return json.dumps({"manufacturer_user_id": user, "device_ids": DEVICES}).encode()


def start(v2_url: str, v1: str, percent: float = 100, **rollout: object) -> Proxy:
    """A proxy whose calls go to v1, unless `rollout` or their caller wishes else. v2 may take its time."""
    shadow = {"percent": percent, "accept_side_effects": True}
    return Proxy(
        v2_url,
        UPSTREAMS__V1__URL=f"http://{v1}",
        UPSTREAMS__V2__TIMEOUT="120",
        UPSTREAMS__V2__MAX_CONNECTIONS="1",
        CHANGES__CONNECT_NOX_USER__ROLLOUT=json.dumps(
            {"v2_percent": 0, "allow_header": True, **rollout, "shadow": shadow}
        ),
    )


@pytest.fixture(scope="module")
def shadowed(v1: Simulator, v2: Simulator) -> Iterator[Proxy]:
    proxy = start(v2.url, v1.address)
    yield proxy
    assert proxy.stop() == 0


def forgive(simulator: Simulator) -> None:
    """Ends its fault."""
    call(simulator.address, method="DELETE", path="/_simulator/fault")


Counts = dict[str, int]


def counts(exposition: str, series: str) -> Counts:
    """A shadow series by the label that is not the endpoint."""
    found = re.findall(rf'^nox_proxy_shadow_{series}_total{{.*="(.*?)"}} (\S+)$', exposition, re.MULTILINE)
    return {label: int(float(value)) for label, value in found}


def verdicts(proxy: Proxy) -> Counts:
    return counts(proxy.exposition(), "comparisons")


def fields(proxy: Proxy) -> Counts:
    return counts(proxy.exposition(), "mismatches")


def added(after: Counts, before: Counts) -> Counts:
    return {label: value - before.get(label, 0) for label, value in after.items() if value != before.get(label, 0)}


# What it finds


class Row(NamedTuple):
    """The faults that v1 and v2 have, and what is found."""

    v1: str | None
    v2: str | None
    verdict: str
    fields: Mapping[str, str] = {}
    reason: str | None = None
    key: str = "demo-key"


ROWS = {
    "the same": Row(None, None, "match"),
    "the same error": Row(None, None, "match", key="a-key-of-nobody"),
    "v2 drifts": Row(None, "drift", "match"),
    "v1 packs it": Row("gzip", None, "match"),
    "another user": Row(None, "mismatch", "mismatch", {"data.nox_user_id": "value"}),
    "another status": Row(None, "status=409", "mismatch", {"status": "value"}),
    "v1 refuses": Row("status=403", None, "mismatch", {"status": "value"}),
    "v1 says more": Row("drift", None, "mismatch", {"other": "missing"}),
    "v1 has enough": Row("status=429", None, "v1_error", reason="429"),
    "v1 is switched off": Row("status=410", None, "v1_error", reason="410"),
    "v1 fails": Row("status=503", None, "v1_error", reason="503"),
    "v1 says something odd": Row("odd", None, "v1_error", reason="not_an_envelope"),
    "v2 fails": Row(None, "status=503", "v2_error", reason="503"),
    "v2's balancer fails": Row(None, "html", "v2_error", reason="502"),
    "v2 says something odd": Row(None, "odd", "v2_error", reason="http_protocol_error"),
    "v2 closes": Row(None, "close", "v2_error", reason="connection_terminated"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_it_finds(row: Row, shadowed: Proxy, v1: Simulator, v2: Simulator) -> None:
    """On the metrics and in the log, where names and kinds stand and no value. The caller gets what v1 says."""
    seen, named = verdicts(shadowed), fields(shadowed)
    v2.forget()
    for simulator, fault in ((v1, row.v1), (v2, row.v2)):
        if fault:
            simulator.order(fault)
    headers = {"x-api-key": row.key, "x-request-id": str(uuid4())}
    try:
        reply, direct = call(shadowed.address, body(), headers), call(v1.address, body(), headers)
        assert eventually(lambda: added(verdicts(shadowed), seen) == {row.verdict: 1})
    finally:
        forgive(v1)
        forgive(v2)
    assert reply.status == direct.status
    assert added(fields(shadowed), named) == dict.fromkeys(row.fields, 1)
    assert len(v2.calls()) == (0 if row.verdict == "v1_error" else 1)
    if row.verdict != "match":
        assert eventually(lambda: len(shadowed.lines(headers["x-request-id"])) == 2)
        (line,) = (line for line in shadowed.lines(headers["x-request-id"]) if "shadow" in line)
        assert line | {"time": ""} == {
            "time": "",
            "request_id": headers["x-request-id"],
            "endpoint": "connect_nox_user",
            "shadow": row.verdict,
            "reason": row.reason,
            "fields": row.fields,
        }


def test_what_v2_gets(shadowed: Proxy, v2: Simulator) -> None:
    """The call as it would be translated for its caller, with no line more; and no other series counts it."""
    seen, of_v2 = verdicts(shadowed), calls_to_v2(shadowed)
    v2.forget()
    call(shadowed.address, body(), {**KEY, "x-request-id": "one-of-two", "cookie": "a=b"})
    assert eventually(lambda: added(verdicts(shadowed), seen) == {"match": 1})
    (found,) = v2.calls()
    assert (found["method"], found["target"]) == ("POST", "/v2/manufacturer/device-connections")
    assert json.loads(found["body"]) == {"user_id": USER}
    headers = dict(found["headers"])
    assert (headers["x-api-key"], headers["x-request-id"]) == ("demo-key", "one-of-two")
    assert set(headers) == {
        *("host", "x-api-key", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "via"),
        *("x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
    }
    assert calls_to_v2(shadowed) == of_v2


def calls_to_v2(proxy: Proxy) -> dict[str, float]:
    """What the series of requests and upstreams say of v2."""
    return {name: value for name, value in proxy.metrics().items() if 'upstream="v2"' in name}


def test_v2_gets_the_call_after_v1_answered(v2: Simulator) -> None:
    v2.forget()
    answer = json.dumps({"success": True, "timestamp": 1, "data": {}}).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        proxy = start(v2.url, f"127.0.0.1:{listener.getsockname()[1]}")
        replies: list[Reply] = []
        caller = threading.Thread(target=lambda: replies.append(call(proxy.address, body(), KEY)))
        caller.start()
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(DEADLINE)
                read_message(connection)
                assert (v2.calls(), verdicts(proxy)) == ([], {})
                connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))
                caller.join(DEADLINE)
            assert [reply.body for reply in replies] == [answer]
            assert eventually(lambda: len(v2.calls()) == 1)
            surplus = {"data.manufacturer_user_id": 1, "data.nox_user_id": 1, "data.device_ids": 1}
            assert eventually(lambda: fields(proxy) == surplus)
        finally:
            caller.join(DEADLINE)
            assert proxy.stop() == 0


# Whose calls


def test_a_share_of_the_users_always_the_same(v1: Simulator, v2: Simulator) -> None:
    users = [f"user-{number}" for number in range(60)]
    plan = Rollout(shadow_percent=40.0, salt="connect_nox_user")
    chosen = [user for user in users if plan.shadows(user)]
    assert 0 < len(chosen) < 60
    v2.forget()
    proxy = start(v2.url, v1.address, 40)
    try:
        for user in (*users, *users):
            assert call(proxy.address, body(user), KEY).status == 201
        assert eventually(lambda: verdicts(proxy) == {"match": 2 * len(chosen)})
    finally:
        assert proxy.stop() == 0
    assert sorted(json.loads(each["body"])["user_id"] for each in v2.calls()) == sorted((*chosen, *chosen))


def test_what_v1_did_not_answer_has_no_shadow(shadowed: Proxy, v1: Simulator, v2: Simulator) -> None:
    """What v2 answers itself, and what broke off at v1. The call after them shows that nothing of them is to come."""
    seen = verdicts(shadowed)
    v2.forget()
    assert call(shadowed.address, body("one"), TO_V2).status == 201
    with v1.fault("close"):
        assert call(shadowed.address, body("two"), KEY).status == 502
    assert call(shadowed.address, body("three"), KEY).status == 201
    assert eventually(lambda: added(verdicts(shadowed), seen) == {"match": 1})
    assert [json.loads(each["body"])["user_id"] for each in v2.calls()] == ["one", "three"]


def test_what_fell_back_to_v1_has_no_shadow(v1: Simulator) -> None:
    """v2 has just shown that it takes nothing. A call that was v1's to answer has one, with the same v2."""
    proxy = start(f"http://127.0.0.1:{unused_port()}/v2", v1.address, v2_percent=100, fallback="not_sent")
    try:
        assert call(proxy.address, body(), KEY).status == 201
        assert call(proxy.address, body(), TO_V1).status == 201
        assert eventually(lambda: verdicts(proxy) == {"v2_error": 1})
    finally:
        assert proxy.stop() == 0
    assert counts(proxy.last_exposition, "comparisons") == {"v2_error": 1}


# No caller notices


@pytest.fixture
def stuck() -> Iterator[Simulator]:
    """A v2 that hangs."""
    simulator = Simulator("v2")
    simulator.order("hang")
    yield simulator
    simulator.stop()


def told(reply: Reply) -> tuple[int, list[str], object]:
    """What a caller can tell, but for times, IDs and addresses."""
    said = reply.json()
    del said["timestamp"]
    return reply.status, sorted(reply.headers), said


def test_a_hanging_v2_and_a_full_queue_reach_no_caller(v1: Simulator, stuck: Simulator) -> None:
    """Each is answered as without shadow; what does not fit is dropped and counted.

    v2's one connection is free for a caller meanwhile, and the end is not held up.
    """
    room, more = Bounds().tasks + Bounds().calls, 50
    without, proxy = start(stuck.url, v1.address, 0), start(stuck.url, v1.address, 100)
    slowest = 0.0
    try:
        expected = told(call(without.address, body(), KEY))
        for _ in range(room + more):
            began = perf_counter()
            assert told(call(proxy.address, body(), KEY)) == expected
            slowest = max(slowest, perf_counter() - began)
        assert slowest < DEADLINE / 4  # v2 would take two minutes
        assert verdicts(proxy) == {"dropped": more}
        assert len(stuck.calls()) == Bounds().tasks
        forgive(stuck)
        assert call(proxy.address, body(), TO_V2).status == 201
    finally:
        began = perf_counter()
        assert (proxy.stop(), without.stop()) == (0, 0)
    assert perf_counter() - began < DEADLINE / 2
    assert counts(without.last_exposition, "comparisons") == {}
    assert len(stuck.calls()) == Bounds().tasks + 1
