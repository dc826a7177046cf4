"""A reload: which settings a running proxy goes on with, which it names and leaves, and what cannot be."""

import pytest

from proxy.contract.changes import CHANGES
from proxy.policy.rollout import Override, Rollout
from proxy.settings import SettingsFault, reloaded
from tests.test_rollout_settings import NEEDS, NINE, SECTION, SHADOW, V1, at, of

CHANGE = CHANGES[0]
RUNNING = f"""
listen = "127.0.0.1:1"
workers = 2
{V1}timeout = 4
[upstreams.v2]
url = "http://127.0.0.1:9002/v2"
[{SECTION}]
v2_percent = 10
[manufacturers.acme]
v2_percent = 0
"""


def test_a_reload_takes_over_changes_and_manufacturers() -> None:
    text = RUNNING.replace("v2_percent = 10", "v2_percent = 20").replace("acme", "volta")
    text += "[changes.connect_nox_user]\ndevice_ids = 'reject'\nerror_codes = {'gone fishing' = 'gone'}\n"
    text += f"[changes.connect_nox_user.deprecation]\nsunset_at = {NINE}"
    running, read = of(RUNNING), of(text)
    settings, left = reloaded(running, read)
    assert settings == read
    assert left == ()
    assert running == of(RUNNING)
    assert settings.rollout(CHANGE).overrides == {"volta": Override(v2_percent=0.0)}
    assert settings.policies(CHANGE) == {"device_ids": "reject"}
    assert settings.error_codes(CHANGE) == {"gone fishing": "gone"}
    assert settings.deprecation(CHANGE).sunset_at == at(NINE)


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", ("listen",)),
        ("workers = 2", "workers = 3\ntrusted_proxies = []", ("workers", "trusted_proxies")),
        ("timeout = 4", "timeout = 5", ("upstreams.v1.timeout",)),
        ("/v2", '/v2/2"\ntransport = "httpx', ("upstreams.v2.url", "upstreams.v2.transport")),
        ("timeout = 4", "timeout = 4.0", ()),
    ],
)
def test_a_reload_names_what_it_leaves(old: str, new: str, left: tuple[str, ...]) -> None:
    """And goes on with the running ones, the successor's URL in the Link header among them."""
    running = of(RUNNING)
    settings, names = reloaded(running, of(RUNNING.replace(old, new).replace("v2_percent = 10", "v2_percent = 20")))
    assert names == left
    assert settings == of(RUNNING.replace("v2_percent = 10", "v2_percent = 20"))
    assert settings.deprecation(CHANGE).successor == running.deprecation(CHANGE).successor


WITHOUT_V1 = "workers = 2"


@pytest.mark.parametrize(
    ("toml", "wants"),
    [
        (f"[{SECTION}]\nv2_percent = 10", [f"{SECTION}.v2_percent: under 100"]),
        (
            f"[{SECTION}]\nfallback = 'not_sent'\n{SHADOW}",
            [f'{SECTION}.fallback: "not_sent"', f"{SECTION}.shadow.percent: over 0"],
        ),
        ("[manufacturers.acme]\nallow_header = true", ["manufacturers.acme.allow_header: true"]),
    ],
)
def test_a_reload_cannot_bring_a_v1(toml: str, wants: list[str]) -> None:
    with pytest.raises(SettingsFault) as caught:
        reloaded(of(WITHOUT_V1), of(f"workers = 2\n{V1}{toml}"))
    assert [*caught.value.lines] == [f"{want} {NEEDS}; only a restart changes upstreams.v1" for want in wants]


def test_nor_can_one_take_it_away() -> None:
    settings, left = reloaded(of(RUNNING), of(WITHOUT_V1))
    assert left == ("listen", "upstreams.v1", "upstreams.v2.url")
    assert settings.upstreams == of(RUNNING).upstreams
    assert settings.rollout(CHANGE) == Rollout(salt="connect_nox_user")


def test_a_v1_that_nothing_needs_is_only_named() -> None:
    settings, left = reloaded(of(WITHOUT_V1), of(f"{WITHOUT_V1}\n{V1}"))
    assert (settings, left) == (of(WITHOUT_V1), ("upstreams.v1",))
