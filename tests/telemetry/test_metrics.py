"""What one Exchange adds, and what a successor of a killed worker finds."""

from collections.abc import Callable

from proxy import __version__
from proxy.policy.credentials import Credential, digest
from proxy.policy.deprecation import Brownout, Deprecation
from proxy.telemetry.block import Block
from proxy.telemetry.exchange import Attempt, Exchange
from proxy.telemetry.exposition import Exposition
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.scrape import Scrape
from tests.ruled import UNSCHEDULED, rules_of

KEY = Credential(b"k", "authorization", digest(b"k"))
ENDPOINT = "connect_nox_user"


def exchange(**fields: object) -> Exchange:
    """A call of acme's that v2 answered, but for `fields`."""
    made = Exchange(b"id-1", endpoint=ENDPOINT, credential=KEY, listed="acme", attempts=[Attempt("v2", 0.5, 201)])
    made.status, made.outcome = 201, "answered"
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def exposed(*blocks: Block, schedule: Deprecation | None = None, now: Callable[[], float] = lambda: 0.0) -> list[str]:
    """The samples, without buckets and sums."""
    scrape = Scrape(blocks, rules_of(schedule or UNSCHEDULED, digests={"acme": ()}), now)
    text = Exposition().write(scrape.values(), "")[0].decode()
    return [
        line for line in text.splitlines() if not line.startswith("#") and "bucket" not in line and "_sum" not in line
    ]


def test_the_series_of_one_call() -> None:
    block = Block()
    metrics = Metrics(block)
    metrics.begin()
    attempt = Attempt("v2", 0.5, failure="dns_error", drifted=True)
    made = exchange(attempts=[attempt], unmapped=("device_ids",))
    metrics.finish(made, seconds=0.7, now=1_000.5)
    assert sorted(exposed(block)) == sorted(
        [
            "nox_proxy_requests_in_progress 0.0",
            'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="acme",status="201",upstream="v2"} 1.0',
            'nox_proxy_request_duration_seconds_count{endpoint="connect_nox_user",upstream="v2"} 1.0',
            'nox_proxy_upstream_duration_seconds_count{upstream="v2"} 1.0',
            'nox_proxy_upstream_failures_total{reason="dns_error",upstream="v2"} 1.0',
            'nox_proxy_upstream_drift_total{kind="unknown_field",upstream="v2"} 1.0',
            'nox_proxy_legacy_last_seen_timestamp_seconds{endpoint="connect_nox_user",manufacturer="acme"} 1000.5',
            'nox_proxy_unmapped_fields_total{endpoint="connect_nox_user",field="device_ids",manufacturer="acme"} 1.0',
            'nox_proxy_credential_scheme_total{manufacturer="acme",scheme="authorization"} 1.0',
            'nox_proxy_brownout_active{endpoint="connect_nox_user"} 0.0',
            'nox_proxy_rollout_v2_ratio{endpoint="connect_nox_user"} 1.0',
            f'nox_proxy_build_info{{version="{__version__}"}} 1.0',
        ]
    )


def test_a_listed_caller_shows_before_its_first_call() -> None:
    block = Block()
    Metrics(block).await_first_calls(rules_of(digests={"acme": ()}))
    assert (
        'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="acme",status="201",upstream="v2"} 0.0'
        in exposed(block)
    )


def test_several_workers_add_up_but_the_latest_call_is_one() -> None:
    first, second = Block(), Block()
    for block, now in ((first, 20.0), (second, 10.0)):
        metrics = Metrics(block)
        metrics.begin()
        metrics.begin()
        metrics.finish(exchange(), seconds=0.2, now=now)
        metrics.sample("v2", 2, 3)
    samples = exposed(first, second)
    assert "nox_proxy_requests_in_progress 2.0" in samples
    assert 'nox_proxy_upstream_connections{state="idle",upstream="v2"} 6.0' in samples
    assert 'nox_proxy_request_duration_seconds_count{endpoint="connect_nox_user",upstream="v2"} 2.0' in samples
    assert (
        'nox_proxy_legacy_last_seen_timestamp_seconds{endpoint="connect_nox_user",manufacturer="acme"} 20.0' in samples
    )


def test_a_successor_keeps_the_counts_and_forgets_what_was_going_on() -> None:
    block = Block()
    killed = Metrics(block)
    killed.ready(True)
    killed.begin()
    killed.finish(exchange(), seconds=0.2, now=1.0)
    killed.begin()
    killed.sample("v2", 1, 0)
    successor = Metrics(block)
    assert not Scrape([block], rules_of(), lambda: 0.0).is_ready()
    successor.begin()
    successor.finish(exchange(), seconds=0.2, now=2.0)
    samples = exposed(block)
    assert (
        'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="acme",status="201",upstream="v2"} 2.0'
        in samples
    )
    assert "nox_proxy_requests_in_progress 0.0" in samples
    assert 'nox_proxy_upstream_connections{state="active",upstream="v2"} 0.0' in samples


def test_a_schedule_as_it_stands_at_each_moment() -> None:
    schedule = Deprecation(
        documentation="https://d",
        successor="https://s",
        deprecated_at=5.0,
        sunset_at=100.0,
        brownouts=(Brownout(10.0, 20.0, exempt=frozenset({"acme"})), Brownout(30.0, 40.0)),
    )

    def at(now: float) -> dict[str, float]:
        lines = (line.rsplit(" ", 1) for line in exposed(schedule=schedule, now=lambda: now))
        return {name.removeprefix("nox_proxy_").replace(ENDPOINT, "e"): float(value) for name, value in lines}

    always = {'deprecation_timestamp_seconds{endpoint="e"}': 5.0, 'sunset_timestamp_seconds{endpoint="e"}': 100.0}
    build = {f'build_info{{version="{__version__}"}}': 1.0, 'rollout_v2_ratio{endpoint="e"}': 1.0}

    def expected(active: float, start: float | None = None, end: float = 0.0, acme: float = 0.0) -> dict[str, float]:
        now = {**always, **build, 'brownout_active{endpoint="e"}': active}
        if start is None:
            return now
        return now | {
            'next_brownout_start_timestamp_seconds{endpoint="e"}': start,
            'next_brownout_end_timestamp_seconds{endpoint="e"}': end,
            'next_brownout_covers{endpoint="e",manufacturer="acme"}': acme,
            'next_brownout_covers{endpoint="e",manufacturer="unregistered"}': 1.0,
        }

    assert at(9.9) == expected(0.0, 10.0, 20.0, acme=0.0)
    assert at(10.0) == expected(1.0, 30.0, 40.0, acme=1.0)
    assert at(20.0) == expected(0.0, 30.0, 40.0, acme=1.0)
    assert at(30.0) == expected(1.0)
    assert at(40.0) == expected(0.0)
