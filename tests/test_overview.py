"""What the admin page is told: counts as workers note them, and the rules in force."""

from proxy.contract.changes.connect_nox_user import connect_nox_user
from proxy.contract.envelope import ErrorTranslator
from proxy.overview import Overviews
from proxy.page import CallerRow, ConnectionsRow, RolloutRow
from proxy.policy.deprecation import Deprecation
from proxy.policy.manufacturers import Manufacturers
from proxy.policy.rollout import Override, Rollout
from proxy.rules import Endpoint, Rules
from proxy.telemetry import series as names
from proxy.telemetry.block import Block
from proxy.telemetry.scrape import Scrape
from proxy.telemetry.series import Series

NOW = 1_795_403_271.0
CALL = "connect_nox_user"
ROLLOUT = Rollout(v2_percent=10, overrides={"borealis": Override(0)})


class Counted:
    """Overviews of what two workers counted."""

    def __init__(self, rules: Rules, *upstreams: str) -> None:
        self.blocks = [Block(65_536) for _ in range(2)]
        urls = {name: f"https://{name}.example" for name in upstreams}
        self.scrape = Scrape(self.blocks, rules, lambda: NOW)
        self.overviews = Overviews(self.scrape, urls, 2, lambda: NOW)

    def note(self, series: Series, *labels: str, value: float = 1, block: int = 0) -> None:
        its = self.blocks[block]
        its.cells[its.place((series.name, labels), series.width)] += value

    def callers(self) -> dict[str, CallerRow]:
        return {row.manufacturer: row for row in self.overviews.take().callers}


def rules_of(*listed: str, rollout: Rollout = ROLLOUT) -> Rules:
    """The rules of an endpoint, and of those that call it."""
    deprecation = Deprecation(documentation="https://docs.example", successor="https://v2.example")
    endpoint = Endpoint(connect_nox_user, {}, ErrorTranslator({}, {}), deprecation, rollout)
    return Rules((endpoint,), Manufacturers(dict.fromkeys(listed, ())))


def test_calls_are_told_by_who_answered_them() -> None:
    """v2's own calls are none of v1's, and what has no path of ours is nobody's."""
    counted = Counted(rules_of("acme", "borealis"), "v1", "v2")
    for endpoint, manufacturer, upstream, status, times in (
        (CALL, "acme", "v2", "201", 5),
        (CALL, "acme", "v1", "201", 3),
        (CALL, "acme", "v2", "504", 1),
        (CALL, "acme", "none", "410", 9),
        ("passthrough_v1", "acme", "v1", "404", 7),
        ("passthrough_v2", "acme", "v2", "500", 4),
        ("passthrough_v2", "unregistered", "v2", "200", 2),
        ("unmatched", "unauthenticated", "none", "404", 99),
    ):
        counted.note(names.REQUESTS, endpoint, manufacturer, upstream, status, value=times)
    counted.note(names.REQUESTS, CALL, "acme", "v2", "201", value=10, block=1)
    callers = counted.callers()
    acme = callers["acme"]
    assert (acme.calls, acme.errors, acme.v1, acme.v2, acme.direct) == (35, 8, 10, 16, 4)
    assert (acme.upstreams, acme.listed) == ((("v1", 10), ("v2", 16), ("v2 direct", 4)), True)
    assert {name: (row.calls, row.direct) for name, row in callers.items() if row is not acme} == {
        "borealis": (0, 0),
        "unregistered": (0, 2),
    }
    assert callers["borealis"].override == Override(0)
    (row,) = counted.overviews.take().rollouts
    assert (row.endpoint, row.v1, row.v2) == (CALL, 3, 16)


def test_a_rollout_has_its_own_counts() -> None:
    counted = Counted(rules_of(), "v1", "v2")
    counted.note(names.FALLBACKS, CALL, "connection_refused", value=2)
    counted.note(names.FALLBACKS, CALL, "dns_error", value=3, block=1)
    for verdict in ("match", "mismatch", "match"):
        counted.note(names.SHADOW, CALL, verdict)
    counted.note(names.SHADOW_MISMATCHES, CALL, "data.nox_user_id", value=6)
    counted.note(names.SHADOW_MISMATCHES, "another", "status", value=6)
    assert counted.overviews.take().rollouts == (
        RolloutRow(
            CALL,
            ROLLOUT,
            v1=0,
            v2=0,
            fallbacks=(("dns_error", 3), ("connection_refused", 2)),
            verdicts=(("match", 2), ("mismatch", 1)),
            mismatches=(("data.nox_user_id", 6),),
        ),
    )
    assert [row.name for row in counted.overviews.take().upstreams] == ["v1", "v2"]
    assert Counted(rules_of(), "v2").overviews.take().rollouts == ()


def test_limits_and_what_they_held_back_are_of_all_workers() -> None:
    counted = Counted(rules_of(), "v1", "v2")
    for block in (0, 1):
        counted.note(names.UPSTREAM_LIMIT, "v2", value=512, block=block)
        counted.note(names.RETRIES, "v2", value=2, block=block)
        counted.note(names.CALLERS, value=7, block=block)
        counted.note(names.CALLERS_LIMIT, value=5_000, block=block)
        counted.note(names.REFUSED, value=3, block=block)
        counted.note(names.TIMEOUTS, "header", value=0, block=block)
        counted.note(names.TIMEOUTS, "body", block=block)
    counted.note(names.BREAKER_OPEN, "v2", block=1)
    counted.note(names.DRAINING, block=1)
    overview = counted.overviews.take()
    v1, v2 = overview.upstreams
    assert (v2.limit, v2.retries, v2.breakers_open) == (1_024, 4, 1)
    assert (v1.limit, v1.retries, v1.breakers_open) == (0, 0, 0)
    assert overview.connections == ConnectionsRow(open=14, limit=10_000, refused=6, timeouts=(("body", 2),))
    assert overview.draining == 1


def test_a_reload_changes_what_is_shown() -> None:
    """Who was taken out of the settings stays as long as it has calls."""
    counted = Counted(rules_of("acme", "borealis"), "v1", "v2")
    before = counted.overviews.take()
    assert (before.settings_read, before.reload_failed) == (None, False)
    counted.note(names.REQUESTS, CALL, "acme", "v2", "201")
    counted.note(names.REQUESTS, CALL, "borealis", "v2", "201", value=0)
    counted.note(names.RELOAD_AT, value=NOW - 5)
    counted.note(names.RELOAD_OK, value=0)
    counted.scrape.apply(rules_of("calor", rollout=Rollout(v2_percent=3)))
    after = counted.overviews.take()
    assert (after.settings_read, after.reload_failed) == (NOW - 5, True)
    assert [row.manufacturer for row in after.listed] == ["calor"]
    assert {name: row.note for name, row in counted.callers().items()} == {
        "acme": "no longer in the settings",
        "calor": None,
    }
    assert after.rollouts[0].rollout.percent(NOW) == 3
    counted.note(names.RELOAD_OK, value=1)
    assert not counted.overviews.take().reload_failed
