"""Runs the proxy out of its parts.

With one worker a single process does all. With more, each worker answers callers in a process of its own, and
one beside them answers the admin port for all: see `workers.py`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from socket import socket

import uvloop

from proxy import __version__
from proxy.app import PublicApp
from proxy.contract.changes import CHANGES
from proxy.parts import lacks_spans, make_admin_app, make_metrics, make_pipeline, open_spans, open_upstream
from proxy.settings import Settings
from proxy.telemetry.access_log import LineWriter
from proxy.telemetry.block import Block
from proxy.telemetry.metrics import Metrics, forget_running
from proxy.telemetry.sinks import Telemetry
from proxy.wire.server import Obey, Server, address_of, bind, obey_operator, run_servers
from proxy.wire.upstream import Upstream
from proxy.workers import Supervisor, Worker, obey_supervisor, outlast_workers

STDOUT = 1
SAMPLE_SECONDS = 1.0

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises OSError where an address cannot be had."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    public, admin = bind(*settings.listen), bind(*settings.admin_listen)
    blocks = [Block() for _ in range(settings.workers)]
    app = make_admin_app(settings, blocks)
    said = partial(_say_started, settings, address_of(public), address_of(admin))
    if settings.workers == 1:
        beside = Server(app, admin, drain_seconds=1)
        uvloop.run(_serve_public(settings, public, blocks[0], [beside], on_started=said))
        return

    turns = os.memfd_create("turns") if settings.access_log else None  # a file that needs no place to be

    def work(block: Block, lifeline: int) -> None:
        admin.close()
        obey = partial(obey_supervisor, lifeline)
        uvloop.run(_serve_public(settings, public, block, turns=turns, obey=obey))

    def administer(lifeline: int) -> None:
        public.close()
        server = Server(app, admin, drain_seconds=1)
        uvloop.run(run_servers(server, obey=partial(outlast_workers, lifeline)))

    workers = {
        f"worker {number}": Worker(partial(work, block), partial(forget_running, block))
        for number, block in enumerate(blocks, 1)
    }
    supervisor = Supervisor(workers, Worker(administer), drain_seconds=settings.drain_seconds)
    supervisor.run(on_started=said, on_stop=public.close)


def warnings(settings: Settings) -> list[str]:
    """What the settings allow and an operator should know."""
    found = [
        f"changes.{change.name}.{field} = {policy!r}: v2 does not keep {field}; "
        + ("answers repeat what was sent, which is stored nowhere" if policy == "echo" else "answers hold none")
        for change in CHANGES
        for field, policy in settings.policies(change).items()
        if policy != "reject"
    ]
    if lacks_spans():
        found.append("OTEL_*: spans are asked for, but OpenTelemetry is not installed: ./deploy/venv otel")
    return found


async def _serve_public(
    settings: Settings,
    listener: socket,
    block: Block,
    beside: Sequence[Server] = (),
    *,
    turns: int | None = None,
    obey: Obey = obey_operator,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    lines = LineWriter(STDOUT, turns) if settings.access_log else None
    metrics = make_metrics(settings, block)
    v2 = open_upstream("v2", settings)
    spans = open_spans(settings)
    pipeline = make_pipeline(settings, v2, Telemetry(metrics, lines, spans))
    server = Server(
        PublicApp(pipeline),
        listener,
        refuse=pipeline.refuse,
        max_header_bytes=settings.max_header_bytes,
        keepalive_timeout=settings.keepalive_timeout,
        drain_seconds=settings.drain_seconds,
    )

    def started() -> None:
        metrics.ready(True)
        on_started()

    try:
        async with _sampling(v2, metrics):
            await run_servers(server, beside, obey=obey, on_started=started, on_stop=lambda: metrics.ready(False))
    finally:
        metrics.ready(False)
        await v2.aclose()
        if lines is not None:
            lines.close()
        if spans is not None:
            spans.close()


def _say_started(settings: Settings, public: str, admin: str) -> None:
    _log.info(
        "nox-proxy %s: listening on http://%s, admin on http://%s, sending to %s",
        __version__,
        public,
        admin,
        settings.upstreams.v2.url,
    )
    for warning in warnings(settings):
        _log.warning(warning)


@contextlib.asynccontextmanager
async def _sampling(upstream: Upstream, metrics: Metrics) -> AsyncIterator[None]:
    """Looks at an upstream's connections each second, for they come and go without a request too."""

    async def sample() -> None:
        while (found := upstream.connections()) is not None:
            metrics.sample(upstream.name, found.active, found.idle)
            await asyncio.sleep(SAMPLE_SECONDS)

    sampler = asyncio.create_task(sample())
    try:
        yield
    finally:
        sampler.cancel()
