"""settings.md, `rollout`, `upstreams.v1` and a manufacturer's own share: what they say, and what is refused and why."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from proxy.contract.changes import CHANGES
from proxy.policy.rollout import Override, Rollout, Step
from proxy.settings import Settings, SettingsFault, load, load_text
from tests.processes import ROOT
from tests.test_settings import faults

CHANGE = CHANGES[0]
SECTION = "changes.connect_nox_user.rollout"
PREFIX = "NOX_PROXY_CHANGES__CONNECT_NOX_USER__ROLLOUT"
V1 = "[upstreams.v1]\nurl = 'http://127.0.0.1:9001'\n"
SEVEN, EIGHT, NINE = (f"2027-01-10T{hour:02}:00:00Z" for hour in (7, 8, 9))
SHADOW = "shadow = {percent = 5, accept_side_effects = true}"
NEEDS = "needs upstreams.v1.url"
UNACCEPTED = "accept_side_effects = true is missing: v2 creates users for shadow calls too"


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def of(toml: str) -> Settings:
    return load_text(toml.encode(), "nox-proxy.toml")


def said(toml: str) -> tuple[str, ...]:
    with pytest.raises(SettingsFault) as caught:
        of(toml)
    return caught.value.lines


def rollout(toml: str) -> Rollout:
    return of(f"{V1}[{SECTION}]\n{toml}").rollout(CHANGE)


def steps(*plan: tuple[str, float], before: float | None = 0.5) -> str:
    first = "" if before is None else f"v2_percent = {before}\n"
    return f"{first}steps = [" + ", ".join(f"{{at = {at}, v2_percent = {percent}}}" for at, percent in plan) + "]"


def test_by_default_v2_answers_everybody() -> None:
    assert load(None).rollout(CHANGE) == Rollout(salt="connect_nox_user")
    assert load(None).rollout(CHANGE).percent(0.0) == 100


def test_a_rollout_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "nox-proxy.toml"
    file.write_text(
        f"""
        {V1}
        timeout = 4
        max_connections = 7
        [{SECTION}]
        v2_percent = 0
        sticky_by = "manufacturer"
        salt = "second try"
        fallback = "not_sent"
        allow_header = true
        [[{SECTION}.steps]]
        at = {EIGHT}
        v2_percent = 0.01
        [[{SECTION}.steps]]
        at = 2027-01-10T10:00:00+01:00
        v2_percent = 99.99
        [{SECTION}.shadow]
        percent = 0.5
        accept_side_effects = true
        [manufacturers.acme]
        v2_percent = 10
        [manufacturers.volta]
        allow_header = false
        [manufacturers.zenith]
        """
    )
    settings = load(file)
    assert settings.rollout(CHANGE) == Rollout(
        v2_percent=0.0,
        steps=(Step(at(EIGHT), 0.01), Step(at(NINE), 99.99)),
        sticky_by="manufacturer",
        salt="second try",
        falls_back=True,
        allow_header=True,
        shadow_percent=0.5,
        overrides={"acme": Override(v2_percent=10.0), "volta": Override(allow_header=False)},
    )
    v1 = settings.upstreams.v1
    assert v1 is not None
    assert (v1.url, v1.timeout, v1.max_connections) == ("http://127.0.0.1:9001", 4, 7)
    assert (v1.connect_timeout, v1.keepalive_expiry, v1.transport, v1.ca_file) == (3, 15, "keepalive", None)


def test_v1_and_v2_may_share_a_host() -> None:
    """As they do in production, where v2 has a prefix."""
    settings = of("[upstreams.v1]\nurl = 'https://auth.nox.energy'")
    assert settings.upstreams.v1 is not None
    assert settings.upstreams.v2.url == settings.upstreams.v1.url + "/v2"


@pytest.mark.parametrize(
    "toml",
    [
        "v2_percent = 100",
        "v2_percent = 100\nsteps = []\nfallback = 'never'\nallow_header = false",
        steps((SEVEN, 100), (EIGHT, 100.0), before=100),
        "shadow = {percent = 0}",
        "shadow = {percent = 0, accept_side_effects = true}",
    ],
)
def test_what_sends_nobody_to_v1_needs_none(toml: str) -> None:
    settings = of(f"[{SECTION}]\n{toml}\n[manufacturers.acme]\nv2_percent = 100\nallow_header = false")
    assert settings.rollout(CHANGE).percent(at(NINE)) == 100


def test_every_hundredth_is_a_share() -> None:
    """Written as people write it, and as JSON does."""
    for hundredth in range(10_001):
        text = f"{hundredth // 100}.{hundredth % 100:02}"
        assert float(text) == hundredth / 100 == round(float(text), 2)
    for text in ("0", "1", "10.0", "0.01", "0.07", "0.29", "1.1", "33.33", "58.0", "99.99", "1e1", "100"):
        assert rollout(f"v2_percent = {text}").v2_percent == float(text)


def test_a_rollout_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its parts, and as JSON; times are texts there. What the file says stays where none overrides it."""
    plan = [{"at": EIGHT, "v2_percent": 1}, {"at": NINE, "v2_percent": 50.5}]
    monkeypatch.setenv("NOX_PROXY_UPSTREAMS__V1__URL", "http://127.0.0.1:9001/")
    monkeypatch.setenv("NOX_PROXY_UPSTREAMS__V1__TIMEOUT", "2.5")
    monkeypatch.setenv(f"{PREFIX}__V2_PERCENT", "0.25")
    monkeypatch.setenv(f"{PREFIX}__STEPS", json.dumps(plan))
    monkeypatch.setenv(f"{PREFIX}__STICKY_BY", "none")
    monkeypatch.setenv(f"{PREFIX}__ALLOW_HEADER", "true")
    monkeypatch.setenv(f"{PREFIX}__SHADOW__PERCENT", "5")
    monkeypatch.setenv(f"{PREFIX}__SHADOW__ACCEPT_SIDE_EFFECTS", "true")
    monkeypatch.setenv("NOX_PROXY_MANUFACTURERS__ACME__V2_PERCENT", "12.34")
    monkeypatch.setenv("NOX_PROXY_MANUFACTURERS__ACME__ALLOW_HEADER", "false")
    in_parts = of(f"[{SECTION}]\nv2_percent = 7\nsalt = 'from the file'")
    assert in_parts.upstreams.v1 is not None
    assert (in_parts.upstreams.v1.url, in_parts.upstreams.v1.timeout) == ("http://127.0.0.1:9001", 2.5)
    expected = Rollout(
        v2_percent=0.25,
        steps=(Step(at(EIGHT), 1.0), Step(at(NINE), 50.5)),
        sticky_by="none",
        salt="from the file",
        allow_header=True,
        shadow_percent=5.0,
        overrides={"acme": Override(12.34, False)},
    )
    assert in_parts.rollout(CHANGE) == expected
    for part in ("V2_PERCENT", "STEPS", "STICKY_BY", "ALLOW_HEADER", "SHADOW__PERCENT", "SHADOW__ACCEPT_SIDE_EFFECTS"):
        monkeypatch.delenv(f"{PREFIX}__{part}")
    for name in ("UPSTREAMS__V1__URL", "UPSTREAMS__V1__TIMEOUT", "MANUFACTURERS__ACME__V2_PERCENT"):
        monkeypatch.delenv(f"NOX_PROXY_{name}")
    whole = {"v2_percent": 0.25, "steps": plan, "sticky_by": "none", "allow_header": True}
    monkeypatch.setenv(PREFIX, json.dumps(whole))
    monkeypatch.setenv(f"{PREFIX}__SHADOW", '{"percent": 5, "accept_side_effects": true}')
    monkeypatch.setenv("NOX_PROXY_UPSTREAMS__V1", '{"url": "http://127.0.0.1:9001", "timeout": 2.5}')
    monkeypatch.setenv("NOX_PROXY_MANUFACTURERS", '{"acme": {"v2_percent": 12.34}}')
    assert of(f"[{SECTION}]\nsalt = 'from the file'") == in_parts


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("v2_percnt = 1", "v2_percnt: unknown setting"),
        *[
            (f"v2_percent = {percent}", f"v2_percent: {words}")
            for percent, words in (
                ("0.001", "a share comes in steps of 0.01"),
                ("99.999", "a share comes in steps of 0.01"),
                ("1e-9", "a share comes in steps of 0.01"),
                ("33.333333", "a share comes in steps of 0.01"),
                ("-0.01", "must be greater than or equal to 0"),
                ("100.01", "must be less than or equal to 100"),
                ("inf", "must be less than or equal to 100"),
                ("nan", "must be greater than or equal to 0"),
                ("'50'", "must be a number from 0 to 100"),
                ("true", "must be a number from 0 to 100"),
            )
        ],
        ("sticky_by = 'key'", "sticky_by: must be 'user', 'manufacturer' or 'none'"),
        ("fallback = 'always'", "fallback: must be 'never' or 'not_sent'"),
        ("fallback = true", "fallback: must be 'never' or 'not_sent'"),
        ("allow_header = 'yes'", "allow_header: must be true or false"),
        ("salt = ''", "salt: a salt is one or more printable characters"),
        ('salt = "a\\u0000"', "salt: a salt is one or more printable characters"),
        ("salt = 1", "salt: must be a valid string"),
        ("steps = {}", "steps: must be a list"),
        ("v2_percent = 0\nsteps = [50]", "steps.0: must be a table"),
        (f"v2_percent = 0\nsteps = [{{at = {SEVEN}}}]", "steps.0.v2_percent: is missing"),
        ("v2_percent = 0\nsteps = [{v2_percent = 1}]", "steps.0.at: is missing"),
        (steps((SEVEN, 1.001)), "steps.0.v2_percent: a share comes in steps of 0.01"),
        (steps((SEVEN, 1), (EIGHT, 101)), "steps.1.v2_percent: must be less than or equal to 100"),
        (
            steps(("2027-01-10T07:00:00", 1)),
            "steps.0.at: must be a date and time with its offset, as 2027-06-30T23:59:59Z",
        ),
        (
            steps((SEVEN, 1), before=None),
            ": steps need v2_percent beside them: it is the share before the first step",
        ),
        (steps((SEVEN, 1), (SEVEN, 2)), ": steps 0 and 1 are at the same time"),
        (steps((SEVEN, 1), ("2027-01-10T08:00:00+01:00", 1)), ": steps 0 and 1 are at the same time"),
        (steps((SEVEN, 1), (NINE, 5), (EIGHT, 2)), ": steps 1 and 2 are out of order: put the earlier first"),
        ("shadow = 5", "shadow: must be a table"),
        ("shadow = {}", "shadow.percent: is missing"),
        ("shadow = {percent = 0.005, accept_side_effects = true}", "shadow.percent: a share comes in steps of 0.01"),
        ("shadow = {percent = 5}", f"shadow: {UNACCEPTED}"),
        ("shadow = {percent = 5, accept_side_effects = false}", f"shadow: {UNACCEPTED}"),
        ("shadow = {percent = 5, accept_side_effects = 1}", "shadow.accept_side_effects: must be true or false"),
        ("shadow = {percent = 5, accept = true}", "shadow.accept: unknown setting"),
    ],
)
def test_a_fault_of_a_rollout(toml: str, line: str) -> None:
    (fault,) = said(f"{V1}[{SECTION}]\n{toml}")
    assert fault.removeprefix(SECTION).removeprefix(".") == line


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (f"[{SECTION}]\nv2_percent = 99.99", f"{SECTION}.v2_percent: under 100 {NEEDS}"),
        (f"[{SECTION}]\n{steps((SEVEN, 0), before=100)}", f"{SECTION}.steps.0.v2_percent: under 100 {NEEDS}"),
        (f"[{SECTION}]\nfallback = 'not_sent'", f'{SECTION}.fallback: "not_sent" {NEEDS}'),
        (f"[{SECTION}]\nallow_header = true", f"{SECTION}.allow_header: true {NEEDS}"),
        (f"[{SECTION}]\n{SHADOW}", f"{SECTION}.shadow.percent: over 0 {NEEDS}"),
        ("[manufacturers.acme]\nv2_percent = 0", f"manufacturers.acme.v2_percent: under 100 {NEEDS}"),
        ("[manufacturers.acme]\nallow_header = true", f"manufacturers.acme.allow_header: true {NEEDS}"),
    ],
)
def test_what_sends_a_call_to_v1_needs_one(toml: str, line: str) -> None:
    assert said(toml) == (line,)
    assert of(V1 + toml)


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("v2_percent = 1.001", "a share comes in steps of 0.01"),
        ("v2_percent = 101", "must be less than or equal to 100"),
        ("v2_percent = '1'", "must be a number from 0 to 100"),
        ("allow_header = 'v1'", "must be true or false"),
    ],
)
def test_a_fault_of_a_manufacturer(toml: str, line: str) -> None:
    assert said(f"{V1}[manufacturers.acme]\n{toml}") == (f"manufacturers.acme.{toml.partition(' ')[0]}: {line}",)


def test_every_fault_of_a_rollout_has_its_line() -> None:
    contradictions = f"{steps((SEVEN, 1), (SEVEN, 2), (SEVEN, 3), before=None)}\n"
    assert len(said(f"{V1}[{SECTION}]\n{contradictions}")) == 3
    wanting = f"{steps((SEVEN, 1), (EIGHT, 2))}\nfallback = 'not_sent'\nallow_header = true\n{SHADOW}\n"
    assert len(said(f"[{SECTION}]\n{wanting}[manufacturers.acme]\nv2_percent = 1\nallow_header = true")) == 8


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("__V2_PERCENT", "many", ".v2_percent: must be a valid number, unable to parse string as a number"),
        ("__V2_PERCENT", "0.001", ".v2_percent: a share comes in steps of 0.01"),
        ("__V2_PERCENT", "50", f".v2_percent: under 100 {NEEDS}"),
        ("__STEPS", "[", ".steps: a list or table in a variable is JSON"),
        ("__STEPS", '[{"at": 1798675199, "v2_percent": 100}]', ".steps.0.at: must be a date and time with its offset"),
        ("__SHADOW", "[", ".shadow: must be a table"),
        ("__SHADOW__PERCENT", "5", ".shadow: accept_side_effects = true is missing"),
        ("__ALLOW_HEADER", "", ".allow_header: must be a valid boolean"),
    ],
)
def test_a_rollouts_variable_at_fault(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    (fault,) = faults(None)
    assert fault.startswith(SECTION + line)


def test_the_readmes_examples_are_valid() -> None:
    """With every commented line taken in, but for a file that is not there."""
    found = re.search(
        r"<!-- settings: the defaults -->\n```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert found
    lines = [line.removeprefix("# ") for line in found[1].splitlines() if not line.startswith("# ca_file")]
    settings = of("\n".join(lines).replace('["…"]', f'["{"ab" * 32}"]'))
    its = settings.rollout(CHANGE)
    assert its.steps
    assert its.shadow_percent
    assert its.overrides["acme"].v2_percent
    assert settings.upstreams.v1 is not None
