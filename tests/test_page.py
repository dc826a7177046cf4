"""The admin port's page: its words and its formats. In a browser: test_page_in_chromium.py."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import pytest

from proxy.page import (
    CONTENT_SECURITY_POLICY,
    Overview,
    ScheduleRow,
    day,
    exact,
    iso,
    relative,
    render,
    share,
    span,
    window,
)
from proxy.policy.deprecation import Brownout
from tests.screenshot import CONNECT, EMPTY, NOW, SAMPLE, at, caller


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
        "Answers 0 none yet Failures none",
        "No manufacturer is listed, and nobody has called since the start.",
    ):
        assert sentence in said
    assert "No upstream is set." in words(replace(EMPTY, upstreams=()))
    assert "No endpoint is deprecated." in words(replace(EMPTY, schedules=()))
    silent = words(replace(SAMPLE, callers=(caller("acme"),)))
    assert "0 of 1 listed manufacturer called since the start." in silent
    assert "acme 0 not since the start 0 – –" in silent


def test_a_running_brownout_is_said_with_whom_it_hits() -> None:
    running = replace(CONNECT, active=Brownout(NOW - 60, NOW + 90, 12.5, frozenset(("acme", "unregistered"))))
    said = words(replace(SAMPLE, schedules=(running,)))
    assert "Brownout now 23 Nov 2026, 09:29 to 09:31 UTC 12.5 % of the callers, except acme, unregistered" in said
    assert "ends in 90 s" in said


def test_the_policy_names_what_stands_inline_and_nothing_else() -> None:
    document = render(SAMPLE).decode()
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        (inline,) = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", document, re.DOTALL)
        source = b64encode(sha256(inline.encode()).digest()).decode()
        assert f"; {directive} 'sha256-{source}';" in CONTENT_SECURITY_POLICY
    for directive in ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert directive in CONTENT_SECURITY_POLICY.split("; ")
    assert not re.search(r"unsafe|\*|https?:", CONTENT_SECURITY_POLICY)
