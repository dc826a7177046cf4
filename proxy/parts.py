"""Each part of the proxy, made from the settings."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Optional

from proxy.contract.changes import CHANGES
from proxy.contract.envelope import ErrorTranslator
from proxy.overview import Overviews
from proxy.pipeline import Pipeline, Upstreams
from proxy.policy.manufacturers import Manufacturers
from proxy.rules import Endpoint, Rules
from proxy.setting_sections import UpstreamSettings
from proxy.settings import Settings, exports_spans
from proxy.shadow import Bounds, Shadow
from proxy.telemetry.scrape import Scrape
from proxy.telemetry.sinks import Telemetry
from proxy.wire.headers import ToUpstream
from proxy.wire.pool import Limits
from proxy.wire.senders import open_sender
from proxy.wire.server import CallerLimits
from proxy.wire.upstream import Upstream

if TYPE_CHECKING:
    from proxy.telemetry.spans import Spans

_log = logging.getLogger(__name__)


def make_rules(settings: Settings) -> Rules:
    """What a reload makes anew."""
    endpoints = (
        Endpoint(
            change,
            settings.policies(change),
            ErrorTranslator(change.renamed, settings.error_codes(change)),
            settings.deprecation(change),
            settings.rollout(change),
        )
        for change in CHANGES
    )
    digests = {name: listed.keys_sha256 for name, listed in settings.manufacturers.items()}
    return Rules(tuple(endpoints), Manufacturers(digests))


def make_overviews(settings: Settings, scrape: Scrape) -> Overviews:
    """What the admin page shows."""
    return Overviews(scrape, settings.upstreams.urls, settings.workers, time.time)


def make_pipeline(settings: Settings, rules: Rules, upstreams: Upstreams, telemetry: Telemetry) -> Pipeline:
    """One worker's."""
    to_upstream = ToUpstream(settings.trusted_networks)
    return Pipeline(rules, upstreams, to_upstream, telemetry, max_body_bytes=settings.max_body_bytes, now=time.time)


def caller_limits(settings: Settings) -> CallerLimits:
    """One worker's."""
    return CallerLimits(**{name: getattr(settings, name) for name in CallerLimits._fields})


@contextlib.asynccontextmanager
async def open_upstreams(settings: Settings, telemetry: Telemetry) -> AsyncIterator[Upstreams]:
    """One worker's, closed at the end. Raises OSError where a `ca_file` cannot be read.

    With v1 the shadow stands ready too, for a reload may ask for it.
    """
    open_one = partial(_open_upstream, max_response_bytes=settings.max_response_bytes)
    async with contextlib.AsyncExitStack() as opened:
        v2 = open_one("v2", settings.upstreams.v2)
        opened.push_async_callback(v2.aclose)
        if settings.upstreams.v1 is None:
            yield Upstreams(v2)
            return
        v1 = open_one("v1", settings.upstreams.v1)
        opened.push_async_callback(v1.aclose)
        apart = open_one(
            "the shadow's v2", settings.upstreams.v2.model_copy(update={"max_connections": Bounds().tasks})
        )
        opened.push_async_callback(apart.aclose)
        shadow = Shadow(apart, telemetry.compare)
        opened.push_async_callback(shadow.aclose)
        shadow.start()
        yield Upstreams(v2, v1, shadow)


def _open_upstream(name: str, its: UpstreamSettings, max_response_bytes: int) -> Upstream:
    limits = Limits(
        timeout=its.timeout,
        connect_timeout=its.connect_timeout,
        pool_timeout=its.connect_timeout,
        max_connections=its.max_connections,
        keepalive_expiry=its.keepalive_expiry,
        max_response_bytes=max_response_bytes,
    )
    sender = open_sender(its.url, its.transport, limits, str(its.ca_file) if its.ca_file else None)
    return Upstream(name, sender, its.breaker.rule())


def lacks_spans() -> bool:
    """Whether spans are asked for, but OpenTelemetry is not installed."""
    return exports_spans() and _spans_type() is None


def open_spans(settings: Settings) -> Optional["Spans"]:
    """For one worker, in its own process: they leave by a thread, which no fork would bring along."""
    its_type = _spans_type() if exports_spans() else None
    if its_type is None:
        return None
    try:
        return its_type({change.name: change.v1_path for change in CHANGES}, settings.upstreams.urls)
    except Exception as error:  # variables that the SDK refuses; the proxy works without spans
        _log.warning("spans: OpenTelemetry does not take its OTEL_* variables: %s", type(error).__name__)
        return None


def _spans_type() -> type["Spans"] | None:
    """Imported only where spans are asked for; None where OpenTelemetry is not installed."""
    with contextlib.suppress(ModuleNotFoundError):
        from proxy.telemetry.spans import Spans

        return Spans
    return None
