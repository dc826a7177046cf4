"""settings.md, a change's section `deprecation`: what a file and the variables say, and what a fault reads like."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from proxy.contract.changes import CHANGES
from proxy.policy.deprecation import Brownout
from proxy.settings import load
from tests.test_settings import faults

CHANGE = CHANGES[0]
SECTION = "changes.connect_nox_user.deprecation"
PREFIX = "NOX_PROXY_CHANGES__CONNECT_NOX_USER__DEPRECATION"
NO_MOMENT = "must be a date and time with its offset, as 2027-06-30T23:59:59Z"
NO_LINK = "a link is visible ASCII without <, > and quotes; write other characters percent-encoded"
NO_WEB_LINK = "a link is http or https, with a host and without a user"
SEVEN, EIGHT, NINE, TEN = (f"2027-03-01T{hour:02}:00:00Z" for hour in (7, 8, 9, 10))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "nox-proxy.toml"


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def windows(*spans: tuple[str, str], more: str = "") -> str:
    return "brownouts = [" + ", ".join(f"{{start = {start}, end = {end}{more}}}" for start, end in spans) + "]"


def deprecation_faults(written: Path, toml: str) -> tuple[str, ...]:
    """Of a section's own lines, without the section's name."""
    written.write_text(f"[manufacturers.acme]\n[{SECTION}]\n{toml}")
    said = faults(written)
    assert all(line.startswith(SECTION) for line in said), said
    return tuple(line.removeprefix(SECTION).removeprefix(".") for line in said)


def test_deprecation_by_default_announces_its_documentation_alone() -> None:
    schedule = load(None).deprecation(CHANGE)
    assert (schedule.deprecated_at, schedule.sunset_at, schedule.gone_after_sunset) == (None, None, False)
    assert (schedule.documentation, schedule.policy) == ("https://docs.nox.energy", None)
    assert schedule.successor == "https://auth.nox.energy/v2/manufacturer/device-connections"
    assert schedule.brownouts == ()


def test_a_schedule_in_the_file(written: Path) -> None:
    """Offsets are minded, windows are put in order, and two may touch."""
    written.write_text(
        f"""
        upstreams.v2.url = "http://127.0.0.1:9002/v2/"
        [manufacturers.acme]
        [{SECTION}]
        deprecated_at = 2026-01-01 01:00:00+01:00
        sunset_at = 2027-06-30T23:59:59.5Z
        after_sunset = "gone"
        documentation = "HTTPS://docs.example:8443/v1;a,b?c=d%20e#f"
        policy = "http://[::1]/sunset"
        [[{SECTION}.brownouts]]
        start = {EIGHT}
        end = {NINE}
        percent = 12
        exempt = ["acme", "unregistered", "acme"]
        [[{SECTION}.brownouts]]
        start = {SEVEN}
        end = {EIGHT}
        """
    )
    schedule = load(written).deprecation(CHANGE)
    assert schedule.deprecated_at == at("2026-01-01T00:00:00Z")
    assert schedule.sunset_at == at("2027-06-30T23:59:59.5Z")
    assert schedule.gone_after_sunset
    assert schedule.documentation == "HTTPS://docs.example:8443/v1;a,b?c=d%20e#f"
    assert schedule.policy == "http://[::1]/sunset"
    assert schedule.successor == "http://127.0.0.1:9002/v2/manufacturer/device-connections"
    assert schedule.brownouts == (
        Brownout(at(SEVEN), at(EIGHT), 100.0, frozenset()),
        Brownout(at(EIGHT), at(NINE), 12.0, frozenset({"acme", "unregistered"})),
    )


def test_sunset_may_come_with_the_deprecation(written: Path) -> None:
    """RFC 9745, section 4: it must not be earlier."""
    written.write_text(f"[{SECTION}]\ndeprecated_at = {SEVEN}\nsunset_at = 2027-03-01T08:00:00+01:00")
    schedule = load(written).deprecation(CHANGE)
    assert schedule.sunset_at == schedule.deprecated_at == at(SEVEN)


def test_a_schedule_in_variables(monkeypatch: pytest.MonkeyPatch, written: Path) -> None:
    """As JSON, whole or by its parts; times are texts there. What the file says stays where none overrides it."""
    written.write_text(f"[{SECTION}]\nsunset_at = {TEN}\nafter_sunset = 'gone'")
    monkeypatch.setenv("NOX_PROXY_WORKERS", "3")
    monkeypatch.setenv("NOX_PROXY_MANUFACTURERS", '{"acme": {}}')
    monkeypatch.setenv(f"{PREFIX}__DEPRECATED_AT", "2026-01-01T01:00:00+01:00")
    brownouts = [{"start": EIGHT, "end": NINE, "percent": 0.01, "exempt": ["acme"]}, {"start": SEVEN, "end": EIGHT}]
    monkeypatch.setenv(f"{PREFIX}__BROWNOUTS", json.dumps(brownouts))
    settings = load(written)
    schedule = settings.deprecation(CHANGE)
    assert settings.workers == 3
    assert (schedule.deprecated_at, schedule.sunset_at) == (at("2026-01-01T00:00:00Z"), at(TEN))
    assert schedule.gone_after_sunset
    assert schedule.brownouts == (
        Brownout(at(SEVEN), at(EIGHT)),
        Brownout(at(EIGHT), at(NINE), 0.01, frozenset({"acme"})),
    )
    whole = {"sunset_at": NINE, "after_sunset": "serve", "brownouts": brownouts[1:], "policy": "https://a/b"}
    monkeypatch.delenv(f"{PREFIX}__BROWNOUTS")
    monkeypatch.setenv(PREFIX, json.dumps(whole))
    schedule = load(written).deprecation(CHANGE)
    assert (schedule.sunset_at, schedule.gone_after_sunset, schedule.policy) == (at(NINE), False, "https://a/b")
    assert schedule.brownouts == (Brownout(at(SEVEN), at(EIGHT)),)


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("deprecated = 2026-01-01T00:00:00Z", "deprecated: unknown setting"),
        ("after_sunset = 'stop'", "after_sunset: must be 'serve' or 'gone'"),
        ("after_sunset = 'gone'", ': after_sunset = "gone" needs sunset_at'),
        (
            f"deprecated_at = {NINE}\nsunset_at = {EIGHT}",
            ": sunset_at is before deprecated_at (RFC 9745, section 4)",
        ),
        (
            "deprecated_at = 2027-03-01T08:00:00Z\nsunset_at = 2027-03-01T08:59:59+01:00",
            ": sunset_at is before deprecated_at (RFC 9745, section 4)",
        ),
        ("brownouts = {}", "brownouts: must be a list"),
        ("brownouts = [1]", "brownouts.0: must be a table"),
        (f"brownouts = [{{start = {SEVEN}}}]", "brownouts.0.end: is missing"),
        (f"brownouts = [{{end = {SEVEN}}}]", "brownouts.0.start: is missing"),
        (windows((SEVEN, EIGHT), more=", percnt = 1"), "brownouts.0.percnt: unknown setting"),
        (windows((SEVEN, EIGHT), (NINE, EIGHT)), "brownouts.1: its end is not after its start"),
        (windows((SEVEN, SEVEN)), "brownouts.0: its end is not after its start"),
        (windows((SEVEN, NINE), (EIGHT, TEN)), ": brownouts 0 and 1 overlap"),
        (windows((EIGHT, TEN), (SEVEN, NINE)), ": brownouts 0 and 1 overlap"),
        (windows((NINE, TEN), (SEVEN, EIGHT), (SEVEN, NINE)), ": brownouts 1 and 2 overlap"),
        (windows((SEVEN, TEN), (NINE, "2027-03-01T09:00:01Z")), ": brownouts 0 and 1 overlap"),
        (windows((SEVEN, EIGHT), ("2027-03-01T08:59:59+01:00", NINE)), ": brownouts 0 and 1 overlap"),
        (windows((SEVEN, EIGHT), (NINE, TEN), (SEVEN, EIGHT)), ": brownouts 0 and 2 overlap"),
        (windows((SEVEN, EIGHT), (SEVEN, EIGHT)), ": brownouts 0 and 1 overlap"),
        (windows((SEVEN, "08:00:00")), f"brownouts.0.end: {NO_MOMENT}"),
        (windows(("2027-03-01T07:00:00", EIGHT)), f"brownouts.0.start: {NO_MOMENT}"),
        *[
            (f"{name} = {value}", f"{name}: {NO_MOMENT}")
            for name in ("deprecated_at", "sunset_at")
            for value in (
                "2027-06-30T23:59:59",
                "2027-06-30",
                "23:59:59",
                '"2027-06-30T23:59:59Z"',
                "1798675199",
                "0.5",
            )
        ],
        *[
            (windows((SEVEN, EIGHT), more=f", percent = {percent}"), f"brownouts.0.percent: {said}")
            for percent, said in (
                ("-0.01", "must be greater than or equal to 0"),
                ("100.01", "must be less than or equal to 100"),
                ("inf", "must be less than or equal to 100"),
                ("nan", "must be "),
                ("true", "must be a number from 0 to 100"),
                ("'50'", "must be a number from 0 to 100"),
                ("[50]", "must be a number from 0 to 100"),
            )
        ],
        *[
            (windows((SEVEN, EIGHT), more=f", exempt = {names}"), f"brownouts.0.exempt{said}")
            for names, said in (
                ("['zenith']", ".0: not the name of a manufacturer"),
                ("['acme', 'Acme']", ".1: not the name of a manufacturer"),
                ("['']", ".0: not the name of a manufacturer"),
                ("['unauthenticated']", ".0: not the name of a manufacturer"),
                ("[1]", ".0: must be a valid string"),
                ("'acme'", ": must be a list"),
            )
        ],
        *[
            (f"{name} = {json.dumps(value)}", f"{name}: {said}")
            for name in ("documentation", "policy")
            for value, said in (
                ("", NO_WEB_LINK),
                ("docs.nox.energy", NO_WEB_LINK),
                ("/docs", NO_WEB_LINK),
                ("mailto:a@b", NO_WEB_LINK),
                ("javascript:alert()", NO_WEB_LINK),
                ("https:///docs", NO_WEB_LINK),
                ("https://me:hunter2@h/", NO_WEB_LINK),
                ("https://me@h/", NO_WEB_LINK),
                ("https://[::1/", "not a URL"),
                ("https://h/a b", NO_LINK),
                ("https://h/a>; rel=next, <b", NO_LINK),
                ('https://h/a"b', NO_LINK),
                ("https://h/\r\nset-cookie: a=b", NO_LINK),
                ("https://h/\ta", NO_LINK),
                ("https://h/\u00fc", NO_LINK),
                ("https://\u00fc/", NO_LINK),
                ("https://h/\u20ac", NO_LINK),
                ("https://h/\x7f", NO_LINK),
            )
        ],
    ],
)
def test_a_fault_of_a_schedule(written: Path, toml: str, line: str) -> None:
    (said,) = deprecation_faults(written, toml)
    assert said.startswith(line) if line.endswith(" ") else said == line
    assert "hunter2" not in said


@pytest.mark.parametrize("value", ["a\\b", "a^b", "a`b", "a{b}", "a|b", "a%zz", "a%2"])
def test_a_link_is_a_uri(written: Path, value: str) -> None:
    """RFC 8288, section 3: a link's target is a URI-Reference, and RFC 3986 gives it no such characters."""
    (said,) = deprecation_faults(written, f"documentation = 'https://h/{value}'")
    assert said.startswith("documentation: ")


def test_nor_does_v2s_url_break_the_link_that_names_it(written: Path) -> None:
    written.write_text("[upstreams.v2]\nurl = 'http://h/v2>;rel=next,<http://h'")
    (said,) = faults(written)
    assert said.startswith("upstreams.v2.url: ")


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999999Z"]
)
def test_a_moment_that_no_http_date_can_say(written: Path, moment: str) -> None:
    """In GMT its year is 0 or 10000; unseen here, it would end the start with a traceback."""
    written.write_text(f"[{SECTION}]\nsunset_at = {moment}")
    (said,) = faults(written)
    assert said.startswith(f"{SECTION}.sunset_at: ")


@pytest.mark.parametrize(
    ("toml", "lines"),
    [
        (f"sunset_at = 1\nafter_sunset = 'x'\n{windows((EIGHT, SEVEN), (NINE, NINE))}", 4),
        (f"deprecated_at = {NINE}\nsunset_at = {EIGHT}\n{windows((SEVEN, NINE), (EIGHT, TEN))}", 2),
        (f"after_sunset = 'gone'\n{windows((SEVEN, NINE), (EIGHT, TEN))}", 2),
        (windows((SEVEN, EIGHT), (NINE, TEN), more=", exempt = ['zenith']"), 2),
        (windows((SEVEN, TEN), (EIGHT, "2027-03-01T08:30:00Z"), (NINE, "2027-03-01T09:30:00Z")), 2),
    ],
)
def test_every_fault_of_a_schedule_has_its_line(written: Path, toml: str, lines: int) -> None:
    assert len(deprecation_faults(written, toml)) == lines


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("", "gone", ": a list or table in a variable is JSON"),
        ("", "[]", ": must be a table"),
        ("__BROWNOUTS", "[", ".brownouts: a list or table in a variable is JSON"),
        ("__SUNSET_AT", "", f".sunset_at: {NO_MOMENT}"),
        ("__SUNSET_AT", "2027-06-30T23:59:59", f".sunset_at: {NO_MOMENT}"),
        ("__SUNSET_AT", "2027-06-30", f".sunset_at: {NO_MOMENT}"),
        ("__SUNSET_AT", "1798675199", f".sunset_at: {NO_MOMENT}"),
        ("__SUNSET_AT", "Sun, 30 Jun 2024 23:59:59 GMT", f".sunset_at: {NO_MOMENT}"),
        ("", '{"sunset_at": 1798675199}', f".sunset_at: {NO_MOMENT}"),
        ("__BROWNOUTS", '[{"start": "7", "end": "2027-03-01T08:00:00Z"}]', f".brownouts.0.start: {NO_MOMENT}"),
        (
            "__BROWNOUTS",
            '[{"start": "2027-03-01T07:00:00Z", "end": "2027-03-01T08:00:00Z", "percent": "nan"}]',
            ".brownouts.0.percent: must be greater than or equal to 0",
        ),
    ],
)
def test_a_schedules_variable_at_fault(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    (said,) = faults(None)
    assert said == SECTION + line
