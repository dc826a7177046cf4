"""The budget of retries, on a clock that the tests set."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.retry import RetryBudget


def spent(budget: RetryBudget, now: float) -> int:
    """How many it gives until it is used up."""
    return next(count for count in range(1_000) if not budget.take(now))


def test_one_in_ten_calls_may_be_tried_again() -> None:
    budget = RetryBudget()
    for calls, left in ((9, 0), (1, 1), (9, 1), (81, 10)):
        for _ in range(calls):
            budget.call(now=0.0)
        assert budget.left(now=0.0) == left
    assert spent(budget, now=0.0) == 10
    assert budget.left(now=0.0) == 0


def test_calls_of_ten_seconds_ago_count_no_more() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.call(now=0.0)
    assert budget.left(now=9.9) == 10
    assert budget.left(now=11.0) == 0


@given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=300))
def test_never_more_than_a_tenth_of_the_calls(steps: list[tuple[float, bool]]) -> None:
    """Of all there were, however they came: so a dead upstream is asked for at most 1.1 connects a call."""
    budget, now, retries = RetryBudget(), 0.0, 0
    for calls, (wait, fails) in enumerate(steps, 1):
        now += wait
        budget.call(now)
        retries += fails and budget.take(now)
        assert retries <= calls / 10
