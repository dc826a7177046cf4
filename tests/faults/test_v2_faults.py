"""v2 at fault in each way of the table while callers are active: what they get, what v2 sees, and what is left over.

All faults run once, those behind one proxy in turn and the proxies beside each other; the tests judge what was seen.
"""

from collections import Counter

import pytest

from tests.faults.callers import Call
from tests.faults.observing import Lane, Observation, observe_all
from tests.faults.table import CREATED, DEADLINE, FAULTS, MIB, NAMED, OVERLOADED, TIMEOUT, UNAVAILABLE
from tests.test_admission import succeeded

CALLERS = 64
LASTING = 10.0
"""Seconds of each fault."""
MARGIN = 0.5
"""Seconds beyond the deadline."""

OUT_OF_REACH = {f"UPSTREAMS__V2__BREAKER__{name}": "1000000" for name in ("FAILURES", "MIN_REQUESTS")}
"""The breaker's settings with which it never opens, so that each call meets the fault."""

NOT_SENT = ("connection_refused", "connection_timeout", "connection_limit_reached", "destination_unavailable")
BREAKABLE = ("refused", "never answers", "500s in bursts")


def lanes() -> list[Lane]:
    """Those that take longest first. Of the second transport's callers there are fewer: each costs ten times more.

    As few come by ASGI alone: what follows its door is the same.
    """
    plain, tls, nowhere = (
        [fault.name for fault in FAULTS if fault.place == place] for place in ("plain", "tls", "nowhere")
    )
    theirs = {"UPSTREAMS__V2__TRANSPORT": "httpx", **OUT_OF_REACH}
    return [
        *(Lane("keepalive", plain[n::4], OUT_OF_REACH, CALLERS, LASTING) for n in range(4)),
        Lane("httpx", plain, theirs, CALLERS // 4, LASTING / 5, pace=1.0),
        Lane("by ASGI", plain, OUT_OF_REACH, CALLERS // 4, LASTING / 5, pace=1.0, door="asgi"),
        Lane("breaker", BREAKABLE, {}, CALLERS, LASTING, recovery=10.0),
        *(Lane("keepalive", faults, OUT_OF_REACH, CALLERS, LASTING) for faults in (tls, nowhere)),
        *(Lane("httpx", faults, theirs, CALLERS // 4, LASTING / 5, pace=1.0) for faults in (tls, nowhere)),
    ]


ROWS = sorted((lane.name, fault) for lane in lanes() for fault in lane.faults)


@pytest.fixture(scope="module")
def all_seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Observation]:
    return observe_all(lanes(), tmp_path_factory.mktemp("faults"))


@pytest.fixture(params=ROWS, ids=" ".join)
def seen(request: pytest.FixtureRequest, all_seen: dict[tuple[str, str], Observation]) -> Observation:
    return all_seen[request.param]


def is_well_formed(call: Call) -> bool:
    """Whether it got one v1 envelope that is its own, and not a byte more."""
    assert call.reply is not None, call.wrong
    assert call.wrong == ""
    told, headers = call.reply.json(), call.reply.headers
    assert headers["x-request-id"] == f"call-{call.number}"
    if call.reply.status == 201:
        assert told["data"]["nox_user_id"] == f"nox-{call.user}"
        return succeeded(call.reply, call.user, ())
    assert headers["content-type"] == "application/json"
    assert list(told) == ["success", "timestamp", "error", "error_code", "message"]
    assert (told["success"], type(told["timestamp"])) == (False, int)
    assert told["error"] == told["message"] != ""
    return call.reply.status != 503 or int(headers["retry-after"]) >= 1


def says_not_sent(call: Call) -> bool:
    said = call.reply.headers.get("proxy-status", "") if call.reply else ""
    return call.answer in (UNAVAILABLE, OVERLOADED) or any(f"error={reason}" in said for reason in NOT_SENT)


def test_each_call_gets_one_well_formed_answer(seen: Observation) -> None:
    assert len(seen.calls) >= seen.lane.callers
    assert all(map(is_well_formed, seen.calls))


def test_the_answers_are_those_of_the_contract(seen: Observation) -> None:
    """A breaker within reach opens, but not before the fault was seen. On a machine too busy any may be late."""
    told = Counter(call.answer for call in seen.calls)
    fault = NAMED[seen.fault]
    must = {*fault.answers, OVERLOADED} - {CREATED} if seen.lane.name == "breaker" else {*fault.answers}
    too_busy = all(call.starved > DEADLINE / 2 for call in seen.calls if call.answer == TIMEOUT)
    assert must <= {*told} <= {*must, *fault.answers, *fault.may, *([TIMEOUT] if too_busy else [])}, told


def test_every_answer_comes_in_time(seen: Observation) -> None:
    """Of the proxy's own time: that in which it could not run is the machine's."""
    assert max(call.seconds - call.starved for call in seen.calls) <= DEADLINE + MARGIN


def test_v2_sees_no_call_twice(seen: Observation) -> None:
    """And none at all where it was not reached, or not trusted."""
    calls = Counter(call.number for call in seen.calls)
    assert seen.taken.heads <= calls
    assert seen.taken.bodies <= calls
    assert not seen.taken.calls() or NAMED[seen.fault].answers != (UNAVAILABLE,)


def test_what_v2_took_up_is_not_said_to_be_unsent(seen: Observation) -> None:
    taken = seen.taken.calls()
    assert not any(says_not_sent(call) for call in seen.calls if call.number in taken)
    assert not any(call.answer == CREATED for call in seen.calls if call.number not in taken)


def test_the_metrics_count_what_the_callers_got(seen: Observation) -> None:
    assert seen.counted == Counter(call.reply.status for call in seen.calls if call.reply)


def test_memory_stays_bounded(seen: Observation) -> None:
    """By a few of the largest answers a caller, whatever v2 pours: httpx holds the parts of one several times."""
    assert seen.growth < CALLERS * 4 * MIB


def test_nothing_is_left_over(seen: Observation) -> None:
    assert seen.before.in_progress == seen.before.connections == 0
    assert seen.after.is_within(seen.before), (seen.before, seen.after)


def test_the_next_call_succeeds(seen: Observation) -> None:
    assert is_well_formed(seen.next_call)
    assert seen.next_call.answer == (UNAVAILABLE if seen.lane.place == "nowhere" else CREATED)
