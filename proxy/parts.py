"""Each part of the proxy, made from the settings."""

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from proxy.app import admin_app
from proxy.contract.changes import CHANGES
from proxy.contract.envelope import ErrorTranslator
from proxy.overview import Overviews
from proxy.pipeline import Endpoint, Pipeline
from proxy.policy.manufacturers import Manufacturers
from proxy.settings import Settings, exports_spans
from proxy.telemetry.block import Block
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.scrape import Scrape
from proxy.telemetry.sinks import Telemetry
from proxy.wire.headers import ToUpstream
from proxy.wire.pool import Limits
from proxy.wire.server import App
from proxy.wire.upstream import Upstream, open_sender

if TYPE_CHECKING:
    from proxy.telemetry.spans import Spans

_log = logging.getLogger(__name__)


def make_metrics(settings: Settings, block: Block) -> Metrics:
    """One worker's, in its block."""
    metrics = Metrics(block)
    for change in CHANGES:
        for name in settings.manufacturers:
            metrics.await_first_call(change.name, name)
    return metrics


def make_admin_app(settings: Settings, blocks: Sequence[Block]) -> App:
    """It reads the blocks of all workers."""
    schedules = [(change, settings.deprecation(change)) for change in CHANGES]
    by_name = {change.name: schedule for change, schedule in schedules}
    scrape = Scrape(blocks, by_name, list(settings.manufacturers), time.time)
    urls = {"v2": settings.upstreams.v2.url}
    overviews = Overviews(scrape, urls, schedules, settings.manufacturers, settings.workers, time.time)
    return admin_app(scrape, overviews)


def make_pipeline(settings: Settings, v2: Upstream, telemetry: Telemetry) -> Pipeline:
    """One worker's."""
    return Pipeline(
        _endpoints(settings),
        v2,
        ToUpstream(settings.trusted_networks),
        Manufacturers({name: listed.keys_sha256 for name, listed in settings.manufacturers.items()}),
        telemetry,
        max_body_bytes=settings.max_body_bytes,
        now=time.time,
    )


def _endpoints(settings: Settings) -> dict[bytes, Endpoint]:
    endpoints: dict[bytes, Endpoint] = {}
    for change in CHANGES:
        errors = ErrorTranslator(change.renamed, settings.error_codes(change))
        endpoint = Endpoint(change, settings.policies(change), errors, settings.deprecation(change))
        endpoints |= dict.fromkeys(change.v1_paths, endpoint)
    return endpoints


def open_upstream(name: str, settings: Settings) -> Upstream:
    """Raises OSError where `ca_file` cannot be read."""
    its = settings.upstreams.v2
    limits = Limits(
        timeout=its.timeout,
        connect_timeout=its.connect_timeout,
        pool_timeout=its.connect_timeout,
        max_connections=its.max_connections,
        keepalive_expiry=its.keepalive_expiry,
        max_response_bytes=settings.max_response_bytes,
    )
    return Upstream(name, open_sender(its.url, its.transport, limits, str(its.ca_file) if its.ca_file else None))


def lacks_spans() -> bool:
    """Whether spans are asked for, but OpenTelemetry is not installed."""
    return exports_spans() and _spans_type() is None


def open_spans(settings: Settings) -> Optional["Spans"]:
    """For one worker, in its own process: they leave by a thread, which no fork would bring along."""
    its_type = _spans_type() if exports_spans() else None
    if its_type is None:
        return None
    try:
        return its_type({change.name: change.v1_path for change in CHANGES}, {"v2": settings.upstreams.v2.url})
    except Exception as error:  # variables that the SDK refuses; the proxy works without spans
        _log.warning("spans: OpenTelemetry does not take its OTEL_* variables: %s", type(error).__name__)
        return None


def _spans_type() -> type["Spans"] | None:
    """Imported only where spans are asked for; None where OpenTelemetry is not installed."""
    with contextlib.suppress(ModuleNotFoundError):
        from proxy.telemetry.spans import Spans

        return Spans
    return None
