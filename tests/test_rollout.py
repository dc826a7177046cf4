"""The rollout on running proxies: who is sent to v1 and who to v2."""

import json
from collections.abc import Iterator

import pytest

from proxy.policy.credentials import digest
from proxy.policy.rollout import Rollout
from tests.processes import Proxy, Reply, Wire, call
from tests.test_admission import GOOD, KEY, failed, succeeded
from tests.two_upstreams import NAMES, Section, Upstreams, key_of, manufacturers

SALT = "connect_nox_user"
Headers = dict[str, str]


@pytest.fixture(autouse=True)
def _fresh(both: Upstreams) -> None:
    both.forget()


def connect(proxy: Proxy, user: str = "u-1", headers: Headers = KEY, **more: str) -> Reply:
    return call(proxy.address, json.dumps({"manufacturer_user_id": user}).encode(), {**headers, **more})


USERS = tuple(f"user-{number}" for number in range(50))
CHOICES = ("v1", "v2")


@pytest.fixture(scope="module")
def shared(both: Upstreams) -> Iterator[Proxy]:
    """A share that took effect with a step of long ago; one is to come in years."""
    steps = [{"at": "2020-01-01T00:00:00Z", "v2_percent": 40}, {"at": "2090-01-01T00:00:00Z", "v2_percent": 100}]
    own: dict[str, Section] = {
        "acme": {"v2_percent": 0},
        "boreal": {"v2_percent": 100},
        "corvid": {"allow_header": True},
    }
    with both.proxy({"v2_percent": 0, "steps": steps}, MANUFACTURERS=manufacturers(**own)) as proxy:
        yield proxy


def by_choice(users: tuple[str, ...]) -> dict[str, set[str]]:
    """Whom the policy itself sends where."""
    plan = Rollout(v2_percent=40, salt=SALT)
    chosen = {name: {user for user in users if plan.choose(None, user, 0) == name} for name in CHOICES}
    assert all(len(found) > 5 for found in chosen.values())
    return chosen


def test_a_user_stays_where_the_policy_sends_it(shared: Proxy, both: Upstreams) -> None:
    """Whatever key it comes by: v2's answers are translated, v1's say themselves who they are."""
    for headers in (KEY, {"authorization": "ApiKey demo-key"}, KEY):
        for user in USERS:
            assert succeeded(connect(shared, user, headers), user, ())
    chosen = by_choice(USERS)
    at_v1, at_v2 = both.users()
    assert at_v1 == dict.fromkeys(chosen["v1"], 3)
    assert at_v2 == dict.fromkeys(chosen["v2"], 3)
    assert shared.metrics()['nox_proxy_rollout_v2_ratio{endpoint="connect_nox_user"}'] == 0.4


@pytest.mark.parametrize(("name", "upstream"), [("acme", "v1"), ("boreal", "v2")])
def test_a_manufacturers_own_share(shared: Proxy, both: Upstreams, name: str, upstream: str) -> None:
    """It counts instead of the steps; a header does not, for it is not allowed."""
    for user in USERS[:10]:
        connect(shared, user, key_of(name), **{"nox-upstream": "v1" if upstream == "v2" else "v2"})
    assert both.asked() == [upstream] * 10


@pytest.mark.parametrize("forced", CHOICES)
def test_a_forced_choice(shared: Proxy, both: Upstreams, forced: str) -> None:
    """Of a manufacturer that may; v2 does not hear of it."""
    for user in USERS[:10]:
        connect(shared, user, key_of("corvid"), **{"nox-upstream": forced})
    heard = [name for one in both for came in one.calls() for name, _ in came["headers"] if name == "nox-upstream"]
    assert (both.asked(), heard) == ([forced] * 10, [])


@pytest.mark.parametrize("asked", ["v3", "V1", "v1, v2", "", "v1\r\nnox-upstream: v2"])
@pytest.mark.parametrize("name", ["corvid", "demo"])
def test_a_choice_that_is_none(shared: Proxy, both: Upstreams, asked: str, name: str) -> None:
    """A mistake of whom it is allowed; nothing at all of anybody else."""
    head = f"POST /manufacturers/nox HTTP/1.1\r\nhost: a\r\nx-api-key: {name}-key\r\nnox-upstream: {asked}\r\n"
    with Wire(shared.address) as wire:
        wire.send(f"{head}content-length: {len(GOOD)}\r\n\r\n".encode() + GOOD)
        reply = wire.answer()
    if name == "demo":
        assert succeeded(reply)
        assert len(both.asked()) == 1
    else:
        assert failed(reply, 400, "invalid_request")
        assert reply.json()["message"] == "NOX-Upstream must be v1 or v2"
        assert both.asked() == []


KEYS = tuple(f"key-of-{number}" for number in range(30))


@pytest.fixture(scope="module")
def by_manufacturer(both: Upstreams) -> Iterator[Proxy]:
    """Whoever v2 would answer may send no device_ids."""
    two = {"acme": {"keys_sha256": [digest(b"acme-key"), digest(b"acme-key-2")]}}
    rollout = {"v2_percent": 50, "sticky_by": "manufacturer"}
    with both.proxy(rollout, {"device_ids": "reject"}, MANUFACTURERS=manufacturers(**two)) as proxy:
        yield proxy


def test_a_manufacturer_stays_together(by_manufacturer: Proxy, both: Upstreams) -> None:
    """All its users, by all its keys; one that no list names goes by its key."""
    plan = Rollout(v2_percent=50, salt=SALT)
    seen = set()
    for key in (*KEYS, *(f"{name}-key" for name in NAMES), "acme-key-2"):
        unit = next((name for name in NAMES if key.startswith(name)), digest(key.encode())[:8])
        for user in USERS[:3]:
            connect(by_manufacturer, user, {"x-api-key": key})
        expected = plan.choose(None, unit, 0)
        assert both.asked() == [expected] * 3
        seen.add(expected)
    assert seen == {*CHOICES}


def test_only_v2_has_no_room_for_device_ids(by_manufacturer: Proxy, both: Upstreams) -> None:
    """Where v1 answers, nothing is lost, so nothing is refused."""
    plan = Rollout(v2_percent=50, salt=SALT)
    refused = 0
    for key in KEYS:
        reply = call(by_manufacturer.address, GOOD, {"x-api-key": key})
        if plan.choose(None, digest(key.encode())[:8], 0) == "v2":
            assert failed(reply, 400, "device_ids_unsupported")
            assert both.asked() == []
            refused += 1
        else:
            assert reply.status == 401
            assert [came["body"] for came in both.v1.calls()] == [GOOD.decode()]
            assert both.asked() == ["v1"]
    assert 0 < refused < len(KEYS)


@pytest.fixture(scope="module")
def by_chance(both: Upstreams) -> Iterator[Proxy]:
    """All may choose but acme."""
    rollout = {"v2_percent": 50, "sticky_by": "none", "allow_header": True}
    with both.proxy(rollout, MANUFACTURERS=manufacturers(acme={"allow_header": False})) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("name", "asked", "answers"),
    [("demo", {}, {"v1", "v2"}), ("demo", {"nox-upstream": "v1"}, {"v1"}), ("demo", {"nox-upstream": "v2"}, {"v2"}),
     ("acme", {"nox-upstream": "v2"}, {"v1", "v2"})],
)  # fmt: skip
def test_each_call_by_itself(by_chance: Proxy, both: Upstreams, name: str, asked: Headers, answers: set[str]) -> None:
    """Of one user: unless it chooses, one of them gets all 50 calls once in 10^15 runs."""
    for _ in range(50):
        connect(by_chance, "u-1", {**key_of(name), **asked})
    assert {*both.asked()} == answers
