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
from proxy.wire.pool import Connections
from proxy.wire.upstream import UpstreamState
from tests.ruled import UNSCHEDULED, rules_of

KEY = Credential(b"k", "authorization", digest(b"k"))
ENDPOINT = "connect_nox_user"


IDLE_WORKER = [
    "nox_proxy_connections 0.0",
    "nox_proxy_connections_limit 0.0",
    "nox_proxy_connections_refused_total 0.0",
    'nox_proxy_caller_timeouts_total{kind="header"} 0.0',
    'nox_proxy_caller_timeouts_total{kind="body"} 0.0',
    "nox_proxy_draining 0.0",
]
"""What shows from the start."""


def sample_v2(metrics: Metrics, active: int | None = 2, idle: int | None = 3, *, breaker_open: bool = False) -> None:
    connections = None if active is None or idle is None else Connections(active, idle)
    metrics.sample_upstream("v2", UpstreamState(connections, 8, breaker_open, 5))


def exchange(**fields: object) -> Exchange:
    """A call of acme's that v2 answered, but for `fields`."""
    made = Exchange(b"id-1", endpoint=ENDPOINT, credential=KEY, listed="acme", attempts=[Attempt("v2", 0.5, 201)])
    made.upstream = "v2"
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
            *IDLE_WORKER,
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
        sample_v2(metrics, breaker_open=block is first)
        metrics.sample_callers(7, limit=50)
        metrics.draining(block is second)
    samples = exposed(first, second)
    assert "nox_proxy_requests_in_progress 2.0" in samples
    assert 'nox_proxy_upstream_connections{state="idle",upstream="v2"} 6.0' in samples
    assert 'nox_proxy_upstream_connections_limit{upstream="v2"} 16.0' in samples
    assert 'nox_proxy_breaker_open{upstream="v2"} 1.0' in samples
    assert 'nox_proxy_upstream_retry_budget{upstream="v2"} 10.0' in samples
    assert "nox_proxy_connections 14.0" in samples
    assert "nox_proxy_connections_limit 100.0" in samples
    assert "nox_proxy_draining 1.0" in samples
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
    sample_v2(killed, 1, 0, breaker_open=True)
    killed.sample_callers(7, limit=50)
    killed.finish(exchange(attempts=[], upstream="none", timed_out="header", status=408), seconds=0.2, now=1.0)
    killed.finish(
        exchange(attempts=[], upstream="none", outcome="too_many_connections", status=503), seconds=0.2, now=1.0
    )
    killed.draining(True)
    successor = Metrics(block)
    assert not Scrape([block], rules_of(), lambda: 0.0).is_ready()
    successor.begin()
    successor.finish(exchange(), seconds=0.2, now=2.0)
    samples = exposed(block)
    assert (
        'nox_proxy_requests_total{endpoint="connect_nox_user",manufacturer="acme",status="201",upstream="v2"} 2.0'
        in samples
    )
    assert "nox_proxy_connections_refused_total 1.0" in samples
    assert 'nox_proxy_caller_timeouts_total{kind="header"} 1.0' in samples
    for gauge in (
        "requests_in_progress",
        'upstream_connections{state="active",upstream="v2"}',
        'upstream_connections_limit{upstream="v2"}',
        'upstream_retry_budget{upstream="v2"}',
        'breaker_open{upstream="v2"}',
        "connections",
        "connections_limit",
        "draining",
    ):
        assert f"nox_proxy_{gauge} 0.0" in samples


def test_retries_show_a_zero_before_the_first() -> None:
    block = Block()
    metrics = Metrics(block)
    sample_v2(metrics)
    assert 'nox_proxy_upstream_retries_total{upstream="v2"} 0.0' in exposed(block)
    for attempt in (Attempt("v2", 0.1, 201, is_retry=True), Attempt("v2", 0.1, 201)):
        metrics.begin()
        metrics.finish(exchange(attempts=[attempt]), seconds=0.3, now=1.0)
    assert 'nox_proxy_upstream_retries_total{upstream="v2"} 1.0' in exposed(block)


def test_a_call_that_the_breaker_refused_took_no_time_of_the_upstreams() -> None:
    block = Block()
    metrics = Metrics(block)
    metrics.begin()
    metrics.finish(exchange(attempts=[Attempt("v2", failure="breaker_open")]), seconds=0.1, now=1.0)
    samples = exposed(block)
    assert 'nox_proxy_upstream_failures_total{reason="breaker_open",upstream="v2"} 1.0' in samples
    assert not [line for line in samples if "upstream_duration" in line]


def test_a_transport_that_does_not_tell_its_connections_has_a_limit_still() -> None:
    block = Block()
    sample_v2(Metrics(block), None, None)
    upstreams = [line for line in exposed(block) if 'upstream="v2"' in line]
    assert sorted(upstreams) == [
        'nox_proxy_breaker_open{upstream="v2"} 0.0',
        'nox_proxy_upstream_connections_limit{upstream="v2"} 8.0',
        'nox_proxy_upstream_retries_total{upstream="v2"} 0.0',
        'nox_proxy_upstream_retry_budget{upstream="v2"} 5.0',
    ]


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
