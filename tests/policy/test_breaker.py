"""The breaker, on a clock that the tests set."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.contract.errors import BreakerOpen
from proxy.policy.breaker import Breaker, BreakerRule, Verdict

RULE = BreakerRule(failures=3, ratio=0.5, min_requests=10, window=10.0, open_for=5.0)


def tell(breaker: Breaker, verdicts: str, now: float = 0.0) -> None:
    """A call after another: `+` succeeded, `-` failed, `?` unknown."""
    said: dict[str, Verdict] = {"+": "succeeded", "-": "failed", "?": "unknown"}
    for verdict in verdicts:
        breaker.tell(breaker.admit(now), said[verdict], now)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(RULE)
    tell(breaker, "---", now)
    return breaker


def is_open(breaker: Breaker) -> bool:
    return breaker.is_open


def refused(breaker: Breaker, now: float) -> int:
    """The seconds that a caller is told to wait."""
    with pytest.raises(BreakerOpen) as caught:
        breaker.admit(now)
    return int(dict(caught.value.fields)[b"retry-after"])


@pytest.mark.parametrize(
    ("verdicts", "opens"),
    [
        ("--", False),
        ("---", True),
        ("--+--+--", False),
        ("--?-", True),
        ("???", False),
        ("+-" * 4 + "+", False),
        ("+-" * 5, True),
        ("+" * 20 + "--" + "+--" * 6, False),
        ("+" * 6 + "--+--", False),
        ("+" * 5 + "--+--", False),
        ("+" * 3 + "--+--+-", True),
    ],
)
def test_it_opens_by_failures_in_a_row_or_by_their_ratio(verdicts: str, opens: bool) -> None:
    breaker = Breaker(RULE)
    tell(breaker, verdicts)
    assert is_open(breaker) == opens


def test_what_is_older_than_the_window_counts_no_more() -> None:
    breaker = Breaker(RULE)
    tell(breaker, "+-+-+-+-+", now=0.0)
    tell(breaker, "-", now=10.1)
    assert not is_open(breaker)
    tell(breaker, "+-+-+-+--", now=10.1)
    assert is_open(breaker)


def test_while_it_is_open_nothing_is_asked_and_callers_hear_how_long() -> None:
    breaker = opened(now=100.0)
    assert [refused(breaker, now) for now in (100.0, 100.5, 103.9, 104.999)] == [5, 5, 2, 1]


def test_half_open_it_has_one_trial_at_a_time() -> None:
    breaker = opened()
    trial = breaker.admit(5.0)
    assert is_open(breaker)
    assert refused(breaker, 5.0) == refused(breaker, 60.0) == 1
    breaker.tell(trial, "succeeded", 6.0)
    assert not is_open(breaker)
    tell(breaker, "--", now=6.0)
    assert not is_open(breaker)


def test_a_trial_that_fails_has_it_stay_open() -> None:
    breaker = opened()
    breaker.tell(breaker.admit(5.0), "failed", 6.0)
    assert refused(breaker, 6.0) == 5
    breaker.admit(11.0)


def test_a_trial_without_a_verdict_makes_room_for_another() -> None:
    breaker = opened()
    breaker.tell(breaker.admit(5.0), "unknown", 6.0)
    breaker.admit(6.0)


def test_calls_of_an_earlier_era_are_no_trial() -> None:
    """Those that were on their way when it opened, and then when it closed, say nothing of now."""
    breaker = Breaker(RULE)
    early = [breaker.admit(0.0) for _ in range(5)]
    tell(breaker, "---")
    breaker.tell(early.pop(), "succeeded", 1.0)
    assert refused(breaker, 1.0) == 4
    trial = breaker.admit(5.0)
    breaker.tell(early.pop(), "failed", 5.0)
    breaker.tell(early.pop(), "unknown", 5.0)
    assert refused(breaker, 5.0) == 1
    breaker.tell(trial, "succeeded", 5.0)
    for each in early:
        breaker.tell(each, "failed", 5.0)
    tell(breaker, "-")
    assert not is_open(breaker)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("+-?")), max_size=60))
def test_it_is_never_stuck(steps: list[tuple[float, str]]) -> None:
    """Whatever became of the calls: after `open_for` one is admitted, and one good one closes it."""
    breaker, now = Breaker(RULE), 0.0
    for wait, verdict in steps:
        now += wait
        with suppress(BreakerOpen):
            tell(breaker, verdict, now)
    tell(breaker, "+", now + RULE.open_for)
    assert not is_open(breaker)
