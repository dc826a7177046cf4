"""Builds the proxy from its settings and runs it: the one place where all parts meet."""

import logging
import time

import uvloop

from proxy import __version__
from proxy.app import PublicApp, admin_app
from proxy.contract.changes import CHANGES
from proxy.contract.envelope import ErrorTranslator
from proxy.pipeline import Endpoint, Pipeline
from proxy.policy.manufacturers import Manufacturers
from proxy.settings import Settings, UpstreamSettings
from proxy.telemetry import LineWriter, Telemetry
from proxy.wire.headers import ToUpstream
from proxy.wire.pool import Limits
from proxy.wire.server import Server, run_servers
from proxy.wire.upstream import Upstream, open_sender

STDOUT = 1

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises OSError where an address or `ca_file` cannot be had."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    uvloop.run(_serve(settings))


def warnings(settings: Settings) -> list[str]:
    """What the settings allow and an operator should know."""
    return [
        f"changes.{change.name}.{field} = {policy!r}: v2 does not keep {field}; "
        + ("answers repeat what was sent, which is stored nowhere" if policy == "echo" else "answers hold none")
        for change in CHANGES
        for field, policy in settings.policies(change).items()
        if policy != "reject"
    ]


async def _serve(settings: Settings) -> None:
    lines = LineWriter(STDOUT) if settings.access_log else None
    telemetry = Telemetry(_manufacturers(settings), lines)
    v2 = _open_upstream("v2", settings.upstreams.v2, settings.max_response_bytes)
    pipeline = _pipeline(settings, v2, telemetry)
    readiness = _Readiness()
    public = Server(
        PublicApp(pipeline),
        *settings.listen,
        refuse=pipeline.refuse,
        max_header_bytes=settings.max_header_bytes,
        keepalive_timeout=settings.keepalive_timeout,
        drain_seconds=settings.drain_seconds,
    )
    admin = Server(admin_app(telemetry, lambda: readiness.ready), *settings.admin_listen, drain_seconds=1)

    def on_started() -> None:
        readiness.ready = True
        _log.info(
            "nox-proxy %s: listening on http://%s, admin on http://%s, sending to %s",
            __version__,
            public.address,
            admin.address,
            settings.upstreams.v2.url,
        )
        for warning in warnings(settings):
            _log.warning(warning)

    try:
        await run_servers(public, [admin], on_started=on_started, on_stop=readiness.drain)
    finally:
        await v2.aclose()
        if lines is not None:
            lines.close()


class _Readiness:
    """Ready once started, not while draining."""

    ready = False

    def drain(self) -> None:
        self.ready = False


def _pipeline(settings: Settings, v2: Upstream, telemetry: Telemetry) -> Pipeline:
    return Pipeline(
        _endpoints(settings),
        v2,
        ToUpstream(settings.trusted_networks),
        telemetry,
        max_body_bytes=settings.max_body_bytes,
        now=time.time,
    )


def _endpoints(settings: Settings) -> dict[bytes, Endpoint]:
    return {
        path: Endpoint(change, settings.policies(change), ErrorTranslator(change.renamed, settings.error_codes(change)))
        for change in CHANGES
        for path in change.v1_paths
    }


def _manufacturers(settings: Settings) -> Manufacturers:
    return Manufacturers({name: listed.keys_sha256 for name, listed in settings.manufacturers.items()})


def _open_upstream(name: str, its: UpstreamSettings, max_response_bytes: int) -> Upstream:
    limits = Limits(
        timeout=its.timeout,
        connect_timeout=its.connect_timeout,
        pool_timeout=its.connect_timeout,
        max_connections=its.max_connections,
        keepalive_expiry=its.keepalive_expiry,
        max_response_bytes=max_response_bytes,
    )
    return Upstream(name, open_sender(its.url, its.transport, limits, str(its.ca_file) if its.ca_file else None))
