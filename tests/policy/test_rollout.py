"""Which upstream answers: the rules as tables, and what must hold of every share, step, unit and salt."""

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.contract.errors import InvalidRequest
from proxy.policy.rollout import Override, Rollout, Step
from tests.policy.test_sticky import COUNT, SALT, mixed

NOW = 1_800_000_000.0
UNHASHABLE = "\ud800"
"""A lone surrogate: to hash it raises UnicodeEncodeError."""

hundredths = st.integers(0, 10_000)
shares = hundredths.map(lambda hundredth: hundredth / 100)
moments = st.floats(0, 4e9)


def share_of(percent: float, salt: str = SALT) -> Rollout:
    return Rollout(v2_percent=percent, salt=salt)


def taken(its: Rollout, units: list[str]) -> set[str]:
    """Whom v2 answers."""
    return {unit for unit in units if its.choose(None, unit, NOW) == "v2"}


def before(moment: float) -> float:
    """The last moment before it that a clock can show."""
    return math.nextafter(moment, -math.inf)


# The share


@pytest.mark.parametrize("percent", [0.01, 1.0, 10.0, 50.0, 99.99])
def test_the_share_seen_is_the_share_set(percent: float) -> None:
    """Within 0.5 points, and closer at the ends, where 0.5 points would let nobody or everybody pass.

    Users of every kind; that each kind is spread evenly is shown beside the places.
    """
    assert len(mixed()) == COUNT
    seen = len(taken(share_of(percent), mixed())) / COUNT * 100
    assert abs(seen - percent) <= (0.02 if percent in (0.01, 99.99) else 0.5)
    assert 0 < seen < 100


def test_the_share_seen_call_by_call() -> None:
    """`sticky_by = "none"`: a fresh unit a call."""
    its = Rollout(v2_percent=10.0, salt=SALT, sticky_by="none")
    drawn = os.urandom(16 * COUNT).hex()
    units = [drawn[start : start + 32] for start in range(0, len(drawn), 32)]
    seen = len(taken(its, units)) / COUNT * 100
    assert abs(seen - 10.0) <= 0.5


@given(st.text(), st.text(), hundredths, hundredths)
def test_a_growing_share_moves_nobody_back(unit: str, salt: str, one: int, other: int) -> None:
    lower, higher = (share_of(hundredth / 100, salt).choose(None, unit, NOW) for hundredth in sorted((one, other)))
    assert (lower, higher) != ("v2", "v1")


@settings(max_examples=10, deadline=None)
@given(st.text(), st.text())
def test_on_the_way_from_0_to_100_a_unit_moves_once(unit: str, salt: str) -> None:
    """Every share that can be set, one after the other."""
    chosen = [share_of(hundredth / 100, salt).choose(None, unit, NOW) for hundredth in range(10_001)]
    assert chosen == ["v1"] * chosen.count("v1") + ["v2"] * chosen.count("v2")
    assert (chosen[0], chosen[-1]) == ("v1", "v2")


@pytest.mark.parametrize(("percent", "chosen"), [(0.0, "v1"), (100.0, "v2")])
def test_none_and_all_need_no_hash(percent: float, chosen: str) -> None:
    assert share_of(percent).choose("acme", UNHASHABLE, NOW) == chosen
    assert Rollout(shadow_percent=percent).shadows(UNHASHABLE) == (percent == 100)
    with pytest.raises(UnicodeEncodeError):
        share_of(50.0).choose("acme", UNHASHABLE, NOW)


@pytest.mark.parametrize(
    ("unit", "first_share"),
    [
        ("user-4711", 18.36),
        ("1", 99.23),
        ("2", 41.84),
        ("3f0c9b9e-6f0e-4b7e-9d51-0c2a7d8f1a11", 30.46),
        ("anna@example.org", 42.94),
        ("acme", 50.1),
        ("0123abcd", 23.8),
    ],
)
def test_the_same_users_move_after_a_restart_and_an_upgrade(unit: str, first_share: float) -> None:
    """Taken down once: the first share, in steps of 0.01, at which v2 answers a unit."""
    assert share_of(first_share).choose(None, unit, NOW) == "v2"
    assert share_of(round(first_share - 0.01, 2)).choose(None, unit, NOW) == "v1"


def test_another_salt_takes_others() -> None:
    """Of the 10 % that each takes, they share one in ten, as two draws would."""
    one, other = (taken(share_of(10.0, salt), mixed()) for salt in (SALT, "second try"))
    assert abs(len(one & other) / COUNT * 100 - 1.0) <= 0.2


@given(st.text(), shares)
def test_who_calls_does_not_count_without_an_override(unit: str, percent: float) -> None:
    its = share_of(percent)
    assert its.choose(None, unit, NOW) == its.choose("acme", unit, NOW)


# The steps

STEPS = (Step(1_000.0, 1.0), Step(2_000.0, 10.0), Step(2_000.5, 50.0), Step(3_000.0, 0.0))


@pytest.mark.parametrize(
    ("now", "percent", "to_come"),
    [
        (-1e12, 0.5, STEPS[0]),
        (0.0, 0.5, STEPS[0]),
        (before(1_000.0), 0.5, STEPS[0]),
        (1_000.0, 1.0, STEPS[1]),
        (before(2_000.0), 1.0, STEPS[1]),
        (2_000.0, 10.0, STEPS[2]),
        (before(2_000.5), 10.0, STEPS[2]),
        (2_000.5, 50.0, STEPS[3]),
        (before(3_000.0), 50.0, STEPS[3]),
        (3_000.0, 0.0, None),
        (1e12, 0.0, None),
    ],
)
def test_the_edges_of_the_steps(now: float, percent: float, to_come: Step | None) -> None:
    its = Rollout(v2_percent=0.5, steps=STEPS)
    assert (its.percent(now), next(iter(its.to_come(now)), None)) == (percent, to_come)
    assert its.begun(now) + its.to_come(now) == STEPS
    assert its.percent_of("acme", now) == its.percent_of(None, now) == percent


def test_without_steps_the_share_stands_still() -> None:
    for now in (-1e12, 0.0, NOW, 1e12):
        assert (share_of(12.5).percent(now), share_of(12.5).to_come(now)) == (12.5, ())


@given(shares, st.dictionaries(moments, shares, max_size=6), st.lists(moments, min_size=1), st.data())
def test_the_clock_alone_says_which_step_counts(
    first: float, by_time: dict[float, float], clocks: list[float], data: st.DataObject
) -> None:
    """Two replicas, made apart and asked in different orders, choose alike; the last step with `at` <= now counts."""
    plan = tuple(Step(at, by_time[at]) for at in sorted(by_time))
    one, other = (Rollout(v2_percent=first, steps=plan, salt=SALT) for _ in range(2))
    asked = {now: one.choose(None, "user-4711", now) for now in clocks}
    for now in data.draw(st.permutations([*clocks, *by_time])):
        counts = first
        for at in sorted(by_time):
            counts = by_time[at] if at <= now else counts
        assert other.percent(now) == counts
        assert other.choose(None, "user-4711", now) == asked.get(now, share_of(counts).choose(None, "user-4711", now))
        assert [step.at for step in other.to_come(now)] == sorted(at for at in by_time if at > now)


@given(st.text(), st.lists(hundredths, min_size=2, max_size=8, unique=True))
def test_steps_that_grow_move_nobody_back(unit: str, drawn: list[int]) -> None:
    growing = sorted(drawn)
    plan = tuple(Step(float(number), hundredth / 100) for number, hundredth in enumerate(growing[1:], 1))
    its = Rollout(v2_percent=growing[0] / 100, steps=plan, salt=SALT)
    chosen = [its.choose(None, unit, float(now)) for now in range(len(growing))]
    assert chosen == sorted(chosen)


# One manufacturer's own

OVERRIDDEN = Rollout(
    v2_percent=0.0,
    steps=(Step(NOW, 100.0),),
    salt=SALT,
    overrides={"acme": Override(v2_percent=0.0), "volta": Override(v2_percent=100.0), "zenith": Override()},
)


@pytest.mark.parametrize(
    ("manufacturer", "earlier", "later"),
    [("acme", "v1", "v1"), ("volta", "v2", "v2"), ("zenith", "v1", "v2"), ("boreal", "v1", "v2"), (None, "v1", "v2")],
)
def test_an_override_wins_over_the_share_and_its_steps(manufacturer: str | None, earlier: str, later: str) -> None:
    assert OVERRIDDEN.choose(manufacturer, "user-4711", before(NOW)) == earlier
    assert OVERRIDDEN.choose(manufacturer, "user-4711", NOW) == later


def test_the_share_of_all_knows_no_override() -> None:
    assert (OVERRIDDEN.percent(before(NOW)), OVERRIDDEN.percent(NOW)) == (0.0, 100.0)
    assert (OVERRIDDEN.percent_of("volta", 0.0), OVERRIDDEN.percent_of("acme", NOW)) == (100.0, 0.0)


@given(st.text(), shares, shares, st.lists(shares, max_size=3))
def test_an_override_is_that_share_whatever_counts_for_others(
    unit: str, common: float, its_own: float, steps: list[float]
) -> None:
    plan = tuple(Step(float(number), percent) for number, percent in enumerate(steps))
    its = Rollout(v2_percent=common, steps=plan, salt=SALT, overrides={"acme": Override(v2_percent=its_own)})
    without = Rollout(v2_percent=common, steps=plan, salt=SALT)
    for now in (-1.0, 0.0, 0.5, 1.0, 2.0):
        assert its.choose("acme", unit, now) == share_of(its_own).choose(None, unit, now)
        assert its.choose("zenith", unit, now) == its.choose(None, unit, now) == without.choose(None, unit, now)


# The forced choice


@pytest.mark.parametrize("for_all", [False, True])
@pytest.mark.parametrize("its_own", [None, False, True])
@pytest.mark.parametrize(
    ("asked", "forced"),
    [
        ((), None),
        ((b"v1",), "v1"),
        ((b"v2",), "v2"),
        ((b"v1", b"v1"), "v1"),
        ((b"v2", b"v2", b"v2"), "v2"),
        ((b"v1", b"v2"), "fault"),
        ((b"v2", b"v1"), "fault"),
        ((b"v1", b""), "fault"),
        ((b"", b"v1"), "fault"),
        ((b"",), "fault"),
        ((b"V1",), "fault"),
        ((b"v3",), "fault"),
        ((b"v1, v1",), "fault"),
        ((b" v1",), "fault"),
        ((b"v1\xff",), "fault"),
    ],
)
def test_a_choice_counts_where_it_is_allowed(
    for_all: bool, its_own: bool | None, asked: tuple[bytes, ...], forced: str | None
) -> None:
    """A manufacturer's own permission or refusal wins over the common one."""
    its = Rollout(allow_header=for_all, overrides={"acme": Override(allow_header=its_own)})
    for manufacturer, allowed in (
        ("acme", for_all if its_own is None else its_own),
        ("zenith", for_all),
        (None, for_all),
    ):
        if allowed and forced == "fault":
            with pytest.raises(InvalidRequest, match=r"^NOX-Upstream must be v1 or v2$"):
                its.forced(manufacturer, asked)
        else:
            assert its.forced(manufacturer, asked) == (forced if allowed else None)


# The shadow


@pytest.mark.parametrize("v2_percent", [5.0, 50.0])
def test_the_shadow_is_of_those_that_v1_answers_whoever_they_are(v2_percent: float) -> None:
    """Among them its share is the one set. By the rollout's own salt the first 5 % would be v2's already."""
    its = Rollout(v2_percent=v2_percent, shadow_percent=5.0, salt=SALT)
    left = [unit for unit in mixed() if its.choose(None, unit, NOW) == "v1"]
    assert abs(sum(map(its.shadows, left)) / len(left) * 100 - 5.0) <= 0.5


@given(st.text(), st.text(), hundredths, hundredths)
def test_a_growing_shadow_leaves_nobody_out(unit: str, salt: str, one: int, other: int) -> None:
    lower, higher = (Rollout(shadow_percent=part / 100, salt=salt).shadows(unit) for part in sorted((one, other)))
    assert lower <= higher
