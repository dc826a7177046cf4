"""The admin port's page: its words and its formats. In a browser: test_page_in_chromium.py."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import pytest

from proxy.page import (
    CONTENT_SECURITY_POLICY,
    CallerRow,
    ConnectionsRow,
    Overview,
    RolloutRow,
    ScheduleRow,
    day,
    exact,
    iso,
    minute,
    relative,
    render,
    share,
    span,
    window,
)
from proxy.policy.deprecation import Brownout
from proxy.policy.rollout import Override, Rollout, Step
from tests.screenshot import CANARY, CONNECT, DAY, EMPTY, NOW, SAMPLE, UNTOUCHED, V2, at, caller


def words(overview: Overview) -> str:
    """The page's body without its tags."""
    _, _, body = render(overview).decode().partition("<body>")
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7_199, "119 min"),
        (7_200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 days"),
        (86_400 * 1_234.9, "1,234 days"),
    ],
)
def test_a_length_of_time(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [(-0.9, "now"), (0.9, "now"), (-1, "1 s ago"), (1, "in 1 s"), (-90, "90 s ago"), (172_800, "in 2 days")],
)
def test_a_moment_as_seen_from_now(moment: float, text: str) -> None:
    assert relative(NOW + moment, NOW) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0 %"),
        (0, 7, "0 %"),
        (7, 7, "100 %"),
        (1, 1_001, "< 0.1 %"),
        (1, 1_000, "0.1 %"),
        (1, 3, "33.3 %"),
        (999, 1_000, "99.9 %"),
        (9_999, 10_000, "> 99.9 %"),
    ],
)
def test_a_share(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_dates_are_utc() -> None:
    moment = at("2027-03-01T07:05:09")
    assert (iso(moment), exact(moment)) == ("2027-03-01T07:05:09Z", "2027-03-01 07:05:09 UTC")
    assert day(at("2027-06-30T23:59:59")) == "30 Jun 2027"
    assert minute(moment) == "1 Mar 2027, 07:05 UTC"
    assert window(Brownout(moment, moment + 3_600, 100, frozenset())) == "1 Mar 2027, 07:05 to 08:05 UTC"
    assert window(Brownout(moment, moment + 86_400, 100, frozenset())) == "1 Mar 2027, 07:05 to 2 Mar 2027, 07:05 UTC"


@pytest.mark.parametrize(
    ("row", "phase"),
    [
        (replace(CONNECT, deprecated_at=None, sunset_at=None), "no date set"),
        (replace(CONNECT, deprecated_at=NOW + 1), "not yet deprecated"),
        (replace(CONNECT, deprecated_at=NOW), "deprecated"),
        (replace(CONNECT, active=Brownout(NOW, NOW + 1, 100, frozenset())), "brownout"),
        (replace(CONNECT, sunset_at=NOW, active=Brownout(NOW, NOW + 1, 100, frozenset())), "past sunset"),
    ],
)
def test_where_an_endpoint_stands(row: ScheduleRow, phase: str) -> None:
    assert row.phase(NOW) == phase
    assert phase in words(replace(SAMPLE, schedules=(row,)))


@pytest.mark.parametrize(
    ("sunsets", "said"),
    [
        ((), "No sunset is set."),
        ((None,), "No sunset is set."),
        ((-2,), "Sunset was 2 days ago ."),
        ((-2, 9, 5, None), "Sunset in 5 days ."),
        ((-2, -9), "Sunset was 2 days ago ."),
    ],
)
def test_the_sunset_that_matters(sunsets: tuple[int | None, ...], said: str) -> None:
    rows = tuple(replace(CONNECT, sunset_at=None if days is None else NOW + days * 86_400) for days in sunsets)
    assert said in words(replace(SAMPLE, schedules=rows))


def test_what_is_empty_is_said_in_words() -> None:
    said = words(EMPTY)
    for sentence in (
        "No manufacturer is listed in the settings.",
        "No sunset is set.",
        "Deprecated no date set Sunset no date set After sunset v1 calls are still answered Next brownout none planned",
        "untried",
        "Answers 0 none yet Failures none Breaker closed Retries none",
        "Open 0 Refused none Timed out none",
        "No manufacturer is listed, and nobody has called since the start.",
    ):
        assert sentence in said
    assert "No upstream is set." in words(replace(EMPTY, upstreams=()))
    assert "No endpoint is deprecated." in words(replace(EMPTY, schedules=()))
    silent = words(replace(SAMPLE, rollouts=(), callers=(caller("acme"),)))
    assert "0 of 1 listed manufacturer called since the start." in silent
    assert "acme 0 not since the start 0 – –" in silent


def test_a_running_brownout_is_said_with_whom_it_hits() -> None:
    running = replace(CONNECT, active=Brownout(NOW - 60, NOW + 90, 12.5, frozenset(("acme", "unregistered"))))
    said = words(replace(SAMPLE, schedules=(running,)))
    assert "Brownout now 23 Nov 2026, 09:29 to 09:31 UTC 12.5 % of the callers, except acme, unregistered" in said
    assert "ends in 90 s" in said


@pytest.mark.parametrize(
    ("percent", "steps", "phase", "said"),
    [
        (100.0, (), "all to v2", "Share set 100 % Share seen"),
        (0.0, (), "all to v1", "Share set 0 % Share seen"),
        (0.01, (), "canary", "Share set 0.01 % Share seen"),
        (0.0, (Step(NOW, 99.99),), "canary", "Share set 99.99 % since 23 Nov 2026, 09:30 UTC, now Share seen"),
        (0.0, (Step(NOW + 90, 100),), "all to v1", "Steps to come 100 % 23 Nov 2026, 09:31 UTC, in 90 s Sticky by"),
        (50.0, (Step(NOW - DAY, 100), Step(NOW, 0)), "all to v1", "Share set 0 % since 23 Nov 2026, 09:30 UTC, now"),
    ],
)
def test_how_far_a_rollout_is(percent: float, steps: tuple[Step, ...], phase: str, said: str) -> None:
    row = replace(UNTOUCHED, rollout=Rollout(v2_percent=percent, steps=steps))
    assert row.phase(NOW) == phase
    shown = words(replace(SAMPLE, rollouts=(row,)))
    assert f"link_supplier {phase}" in shown
    assert said in shown


def test_a_rollout_is_said_whole() -> None:
    said = words(SAMPLE)
    for sentence in (
        "connect_nox_user canary Share set 10 % since 19 Nov 2026, 08:00 UTC, 4 days ago Share seen 3.4 %",
        "Share seen 3.4 % 6,035 of 179,465 calls since the start Steps to come",
        "Steps to come 25 % 25 Nov 2026, 08:00 UTC, in 46 h 50 % 30 Nov 2026, 08:00 UTC, in 6 days 75 % 3 Dec 2026,",
        "in 9 days and 1 more, the last to 100 % in 13 days",
        "Sticky by user Fallback to v1 where v2 took nothing connection_refused 4",
        "Forced choice NOX-Upstream is ignored Own settings borealis 0 % ecotherm 100 %, header obeyed",
        "connect_nox_user differing Share 5 % of what v1 answers, v2 is asked too Verdicts match 8,666",
        "Verdicts match 8,666 mismatch 3 dropped 2 Differing fields message 3",
    ):
        assert sentence in said


def test_a_rollout_that_has_not_begun_is_said_too() -> None:
    quiet = words(replace(SAMPLE, rollouts=(UNTOUCHED,)))
    assert "Share seen no call yet Steps to come none planned Sticky by user Fallback never Forced choice" in quiet
    assert "Own settings none" in quiet
    assert "link_supplier off Share v2 is not asked what v1 answers Upstreams" in quiet
    each = Rollout(sticky_by="none", falls_back=True, allow_header=True, shadow_percent=1)
    said = words(replace(SAMPLE, rollouts=(replace(UNTOUCHED, rollout=each),)))
    assert "Sticky by nothing: each call is drawn anew Fallback to v1 where v2 took nothing none yet" in said
    assert "Forced choice NOX-Upstream is obeyed" in said
    assert "link_supplier nothing compared Share 1 % " in said
    assert "Verdicts none yet Differing fields none" in said


def test_without_a_v1_nothing_is_said_of_it() -> None:
    said = words(replace(SAMPLE, rollouts=()))
    assert not re.search("Rollout|Shadow|Answered by|moved|own:", said)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (replace(CANARY, rollout=Rollout()), "off"),
        (replace(CANARY, verdicts=(("dropped", 9), ("v1_error", 2)), mismatches=()), "nothing compared"),
        (replace(CANARY, mismatches=()), "matching"),
        (CANARY, "differing"),
    ],
)
def test_what_the_shadow_found(row: RolloutRow, state: str) -> None:
    assert row.shadow == state
    said = words(replace(SAMPLE, rollouts=(row,)))
    assert f"connect_nox_user {state} Share" in said
    assert "Verdicts" in said


def test_settings_of_their_own_are_few_or_counted() -> None:
    many = {f"m-{number:03}": Override(number / 2) for number in range(200)}
    said = words(replace(SAMPLE, rollouts=(replace(CANARY, rollout=Rollout(overrides=many)),)))
    assert "Own settings m-000 0 % m-001 0.5 % m-002 1 %" in said
    assert "m-005 2.5 % and 194 more: see Manufacturers" in said


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (caller("acme", 7, v2=3), "acme 7 not since the start v1 4 v2 3 0 0 %"),
        (caller("acme", 7, direct=3), "v1 7 v2 direct 3 30.0 % moved 0 0 %"),
        (caller("acme", direct=3), "acme 0 not since the start v2 direct 3 100 % moved 0 –"),
        (replace(caller("acme"), override=Override(0.5)), "– own: 0.5 % 0 – –"),
        (replace(caller("acme"), override=Override(allow_header=False)), "– own: header ignored 0 – –"),
        (replace(caller("acme"), override=Override(2, allow_header=True)), "– own: 2 %, header obeyed 0 – –"),
        (replace(caller("acme", 1), listed=False), "acme no longer in the settings 1 not"),
    ],
)
def test_who_answered_a_manufacturer(row: CallerRow, cells: str) -> None:
    assert cells in words(replace(SAMPLE, callers=(row,)))


def test_a_reload_is_said_where_it_is_known() -> None:
    assert "settings read 4 days ago as of" in words(SAMPLE)
    assert not re.search("settings read|reloaded", words(EMPTY))
    failed = "could not be reloaded; the last good ones were read at 2026-11-19 08:30:00 UTC. The log says why."
    assert failed in words(replace(SAMPLE, reload_failed=True))
    assert "could not be reloaded. The log says why." in words(replace(EMPTY, reload_failed=True))


@pytest.mark.parametrize(
    ("workers", "is_open", "said"),
    [
        (1, 0, "Breaker closed Retries"),
        (1, 1, "Breaker open nothing is sent but one trial at a time Retries"),
        (3, 2, "Breaker open in 2 of 3 workers nothing is sent but one trial at a time Retries"),
    ],
)
def test_where_a_breaker_is_open(workers: int, is_open: int, said: str) -> None:
    upstream = replace(V2, breakers_open=is_open)
    assert said in words(replace(SAMPLE, workers=workers, upstreams=(upstream,)))


def test_what_is_limited_is_said_with_its_limit() -> None:
    said = words(replace(SAMPLE, upstreams=(V2,), connections=ConnectionsRow(9_999, 10_000, 1_234, (("body", 3),))))
    assert "Retries 2 Connections 3 active, 9 idle, of 1,024" in said
    assert "Open 9,999 of 10,000 Refused 1,234 Timed out body 3" in said
    silent = replace(V2, active=None, idle=None)
    assert "Connections not known , of 1,024" in words(replace(SAMPLE, upstreams=(silent,)))


def test_workers_that_drain_are_told() -> None:
    assert "2 workers settings" in words(SAMPLE)
    assert "2 workers, 1 draining settings" in words(replace(SAMPLE, draining=1))


def test_the_policy_names_what_stands_inline_and_nothing_else() -> None:
    document = render(SAMPLE).decode()
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        (inline,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", document, re.DOTALL)
        source = b64encode(sha256(inline.encode()).digest()).decode()
        assert f"; {directive} 'sha256-{source}';" in CONTENT_SECURITY_POLICY
    for directive in ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert directive in CONTENT_SECURITY_POLICY.split("; ")
    assert not re.search(r"unsafe|\*|https?:", CONTENT_SECURITY_POLICY)
