"""The schedule of an endpoint's end, by the clock of the test: what is announced, who is refused, and when."""

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from httplint import HttpResponseLinter

from proxy.contract.errors import EndpointBrownout, EndpointGone, EndpointSunset
from proxy.contract.messages import Field
from proxy.policy.deprecation import Brownout, Deprecation

DOCS = "https://docs.nox.energy"
SUCCESSOR = "https://auth.nox.energy/v2/manufacturer/device-connections"
POLICY = "https://nox.energy/sunset?a=1,2;3"
LINKS = f'<{DOCS}>; rel="deprecation"; type="text/html", <{SUCCESSOR}>; rel="successor-version"'


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def announced(
    *, deprecated: str | None = None, sunset: str | None = None, policy: str | None = None
) -> tuple[Field, ...]:
    return Deprecation(
        documentation=DOCS,
        successor=SUCCESSOR,
        policy=policy,
        deprecated_at=at(deprecated) if deprecated else None,
        sunset_at=at(sunset) if sunset else None,
    ).announce()


@pytest.mark.parametrize(
    ("moment", "line"),
    [
        ("2023-06-30T23:59:59Z", b"@1688169599"),  # RFC 9745, section 2.1
        ("2023-07-01T01:59:59+02:00", b"@1688169599"),
        ("2023-06-30T23:59:59.999999Z", b"@1688169599"),
        ("2026-01-01T00:00:00Z", b"@1767225600"),
        ("2100-01-01T00:00:00Z", b"@4102444800"),
        ("1970-01-01T00:00:00Z", b"@0"),
        ("1969-12-31T23:59:59Z", b"@-1"),
    ],
)
def test_the_deprecation_header_is_a_structured_date(moment: str, line: bytes) -> None:
    assert announced(deprecated=moment) == ((b"deprecation", line), (b"link", LINKS.encode()))


@pytest.mark.parametrize(
    ("moment", "line"),
    [
        ("2024-06-30T23:59:59Z", b"Sun, 30 Jun 2024 23:59:59 GMT"),  # the contract; RFC 9745, section 4
        ("2018-12-31T23:59:59Z", b"Mon, 31 Dec 2018 23:59:59 GMT"),  # RFC 8594, section 3, but for its wrong "Sat"
        ("1994-11-06T08:49:37Z", b"Sun, 06 Nov 1994 08:49:37 GMT"),  # RFC 9110, section 5.6.7
        ("2024-07-01T01:59:59+02:00", b"Sun, 30 Jun 2024 23:59:59 GMT"),
        ("2024-06-30T18:59:59-05:00", b"Sun, 30 Jun 2024 23:59:59 GMT"),
        ("2024-06-30T23:59:59.999999Z", b"Sun, 30 Jun 2024 23:59:59 GMT"),
        ("2028-02-29T00:00:00Z", b"Tue, 29 Feb 2028 00:00:00 GMT"),
        ("2027-01-01T00:00:00Z", b"Fri, 01 Jan 2027 00:00:00 GMT"),
        ("9999-12-31T23:59:59Z", b"Fri, 31 Dec 9999 23:59:59 GMT"),
    ],
)
def test_the_sunset_header_is_an_http_date(moment: str, line: bytes) -> None:
    assert announced(sunset=moment) == ((b"sunset", line), (b"link", LINKS.encode()))


def test_every_header_and_link_that_is_set() -> None:
    assert announced(deprecated="2023-06-30T23:59:59Z", sunset="2024-06-30T23:59:59Z", policy=POLICY) == (
        (b"deprecation", b"@1688169599"),
        (b"sunset", b"Sun, 30 Jun 2024 23:59:59 GMT"),
        (b"link", f'{LINKS}, <{POLICY}>; rel="sunset"'.encode()),
    )


def test_only_links_where_nothing_is_set() -> None:
    assert announced() == ((b"link", LINKS.encode()),)


def test_another_reader_reads_the_same() -> None:
    """httplint's own parsers, by RFC 9651, RFC 9110 and RFC 8288."""
    lines = announced(deprecated="2023-06-30T23:59:59Z", sunset="2024-06-30T23:59:59Z", policy=POLICY)
    linter = HttpResponseLinter()
    linter.process_response_topline(b"1.1", b"201")
    linter.process_headers(list(lines))
    read = linter.headers.parsed
    assert read["deprecation"] == (datetime(2023, 6, 30, 23, 59, 59, tzinfo=UTC), {})
    assert read["sunset"] == datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC).timestamp()
    assert read["link"] == [
        (DOCS, {"rel": "deprecation", "type": "text/html"}),
        (SUCCESSOR, {"rel": "successor-version"}),
        (POLICY, {"rel": "sunset"}),
    ]
    assert [note.summary for note in linter.notes] == []


# One window, two that touch, and a sunset behind them all.
FIRST = Brownout(1_000.0, 1_010.5)
TOUCHING = Brownout(2_000.0, 2_010.0), Brownout(2_010.0, 2_020.0)
SUNSET = 3_000.0
WINDOWS = (FIRST, *TOUCHING)


def schedule(
    *brownouts: Brownout, gone_after_sunset: bool = False, sunset_at: float | None = SUNSET, deprecated_at: float = 0.0
) -> Deprecation:
    return Deprecation(
        documentation=DOCS,
        successor=SUCCESSOR,
        deprecated_at=deprecated_at,
        sunset_at=sunset_at,
        gone_after_sunset=gone_after_sunset,
        brownouts=brownouts,
    )


def told(its: Deprecation, now: float, caller: str = "acme", unit: str | None = None) -> str:
    """`served`, or the error_code and the header lines that belong to it."""
    try:
        its.admit(caller, unit or caller, now)
    except EndpointGone as gone:
        return " ".join([gone.error_code, *(f"{name.decode()}: {value.decode()}" for name, value in gone.fields)])
    return "served"


def before(moment: float) -> float:
    """The last moment before it that a clock can show."""
    return math.nextafter(moment, -math.inf)


EDGES = [
    (-1e9, "served"),
    (0.0, "served"),
    (before(1_000.0), "served"),
    (1_000.0, "endpoint_brownout retry-after: 11"),
    (1_000.5, "endpoint_brownout retry-after: 10"),
    (1_009.5, "endpoint_brownout retry-after: 1"),
    (1_010.0, "endpoint_brownout retry-after: 1"),
    (before(1_010.5), "endpoint_brownout retry-after: 1"),
    (1_010.5, "served"),
    (before(2_000.0), "served"),
    (2_000.0, "endpoint_brownout retry-after: 10"),
    (before(2_010.0), "endpoint_brownout retry-after: 1"),
    (2_010.0, "endpoint_brownout retry-after: 10"),
    (before(2_020.0), "endpoint_brownout retry-after: 1"),
    (2_020.0, "served"),
    (before(SUNSET), "served"),
]


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(("now", "answer"), EDGES)
def test_the_edges_of_the_windows(now: float, answer: str, gone: bool) -> None:
    assert told(schedule(*WINDOWS, gone_after_sunset=gone), now) == answer


@pytest.mark.parametrize("now", [SUNSET, math.nextafter(SUNSET, math.inf), SUNSET + 1e9])
def test_sunset_serves_on_or_ends_it(now: float) -> None:
    assert told(schedule(*WINDOWS), now) == "served"
    assert told(schedule(*WINDOWS, gone_after_sunset=True), now) == "endpoint_sunset"


def test_sunset_speaks_before_a_brownout_and_knows_no_exemption() -> None:
    window = Brownout(SUNSET - 10, SUNSET + 10, exempt=frozenset({"acme"}))
    gone = schedule(window, gone_after_sunset=True)
    assert told(gone, SUNSET - 1, "zenith") == "endpoint_brownout retry-after: 11"
    assert told(gone, SUNSET - 1, "acme") == "served"
    assert told(gone, SUNSET, "zenith") == told(gone, SUNSET, "acme") == "endpoint_sunset"
    assert told(schedule(window), SUNSET, "zenith") == "endpoint_brownout retry-after: 10"


@pytest.mark.parametrize("gone", [False, True])
def test_without_a_schedule_nobody_is_refused(gone: bool) -> None:
    for now in (-1e12, 0.0, 1.8e9, 1e12):
        assert told(schedule(sunset_at=None, gone_after_sunset=gone), now) == "served"


def test_deprecation_alone_refuses_nobody() -> None:
    assert told(schedule(sunset_at=None, deprecated_at=1.0), 1e9) == "served"


def test_the_errors_are_of_their_own_kinds() -> None:
    with pytest.raises(EndpointBrownout) as brownout:
        schedule(FIRST).admit("acme", "acme", 1_000.0)
    with pytest.raises(EndpointSunset) as sunset:
        schedule(gone_after_sunset=True).admit("acme", "acme", SUNSET)
    assert brownout.value.status == sunset.value.status == 410


@pytest.mark.parametrize("end", [1_010.0, 1_010.5, at("2027-03-01T10:00:00Z"), at("2027-03-01T10:00:00.000001Z")])
@pytest.mark.parametrize("left", [0.0, 1e-6, 0.1, 0.999, 1.0, 1.001, 2.5, 9.0, 9.999])
def test_retry_after_is_whole_and_ends_with_the_window(end: float, left: float) -> None:
    """Whoever waits that long is served, and waits no second in vain."""
    its = schedule(Brownout(end - 10, end), sunset_at=None)
    now = min(end - left, before(end))
    code, _, seconds = told(its, now).partition(" retry-after: ")
    assert code == "endpoint_brownout"
    assert seconds.isdecimal()
    assert int(seconds) >= 1
    assert now + int(seconds) - 1 < end <= now + int(seconds)
    assert told(its, now + int(seconds)) == "served"


@pytest.mark.parametrize(
    ("now", "active", "upcoming"),
    [
        (0.0, None, FIRST),
        (before(1_000.0), None, FIRST),
        (1_000.0, FIRST, TOUCHING[0]),
        (before(1_010.5), FIRST, TOUCHING[0]),
        (1_010.5, None, TOUCHING[0]),
        (2_000.0, TOUCHING[0], TOUCHING[1]),
        (before(2_010.0), TOUCHING[0], TOUCHING[1]),
        (2_010.0, TOUCHING[1], None),
        (before(2_020.0), TOUCHING[1], None),
        (2_020.0, None, None),
        (SUNSET, None, None),
    ],
)
def test_the_window_that_runs_and_the_next(now: float, active: Brownout | None, upcoming: Brownout | None) -> None:
    its = schedule(*WINDOWS)
    assert (its.active(now), its.next(now)) == (active, upcoming)


def test_the_exempt_pass_by_name_whatever_their_key() -> None:
    its = schedule(Brownout(0.0, 10.0, exempt=frozenset({"acme", "unregistered"})))
    assert told(its, 5.0, "acme", "any") == told(its, 5.0, "unregistered", "0123abcd") == "served"
    assert told(its, 5.0, "zenith", "acme").startswith("endpoint_brownout")


def test_an_exemption_counts_in_its_own_window_only() -> None:
    its = schedule(Brownout(0.0, 10.0, exempt=frozenset({"acme"})), Brownout(10.0, 20.0))
    assert [told(its, now) for now in (9.0, 10.0)] == ["served", "endpoint_brownout retry-after: 10"]


NAMES = [f"manufacturer-{number}" for number in range(50_000)] + [f"{number:08x}" for number in range(50_000)]
PERCENTAGES = [0.0, 0.01, 1.0, 10.0, 50.0, 99.99, 100.0]


def hit(percent: float, start: float = 0.0, caller: str | None = None) -> set[str]:
    """Who of all units gets 410."""
    window = Brownout(start, start + 10.0, percent)
    return {name for name in NAMES if window.covers(caller or name, name)}


@pytest.fixture(scope="module")
def by_percent() -> dict[float, set[str]]:
    return {percent: hit(percent) for percent in PERCENTAGES}


@pytest.mark.parametrize("percent", PERCENTAGES)
def test_the_share_is_what_was_asked(by_percent: dict[float, set[str]], percent: float) -> None:
    for kind in (NAMES[:50_000], NAMES[50_000:]):
        share = len(by_percent[percent].intersection(kind)) / len(kind) * 100
        assert abs(share - percent) <= (0.0 if percent in (0.0, 100.0) else 0.5)


def test_a_hundredth_of_a_percent_hits_somebody(by_percent: dict[float, set[str]]) -> None:
    """Ten are expected of 100,000; at 99.99 as many are spared."""
    assert 1 <= len(by_percent[0.01]) <= 30
    assert 1 <= len(NAMES) - len(by_percent[99.99]) <= 30


def test_a_higher_percentage_releases_nobody(by_percent: dict[float, set[str]]) -> None:
    for lower, higher in pairwise(PERCENTAGES):
        assert by_percent[lower] < by_percent[higher]


def test_every_window_hits_the_same(by_percent: dict[float, set[str]]) -> None:
    assert hit(10.0, start=1e9) == hit(10.0, caller="unregistered") == by_percent[10.0]


@pytest.mark.parametrize(
    ("unit", "is_hit"),
    [("acme", False), ("zenith", True), ("volta", False), ("0123abcd", True), ("fedcba98", True), ("ü", True)],
)
def test_the_same_callers_are_hit_after_a_restart_and_an_upgrade(unit: str, is_hit: bool) -> None:
    """Taken down once, for no law names them: Python's own hash, say, differs in each process."""
    assert Brownout(0.0, 10.0, 50.0).covers(unit, unit) == is_hit
