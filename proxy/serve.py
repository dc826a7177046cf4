"""Runs the proxy out of its parts.

With one worker a single process does all. With more, each worker answers callers in a process of its own, and
one beside them answers the admin port for all: see `workers.py`.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import stat
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from socket import socket

import uvloop

from proxy import __version__
from proxy.app import PublicApp, admin_app
from proxy.contract.changes import CHANGES
from proxy.direct import DirectDoor
from proxy.news import Receiver, Take
from proxy.parts import (
    caller_limits,
    lacks_spans,
    make_overviews,
    make_pipeline,
    make_rules,
    open_spans,
    open_upstreams,
)
from proxy.pipeline import Upstreams
from proxy.reload import Apply, Reloader, taker
from proxy.settings import Settings
from proxy.telemetry.access_log import LineWriter
from proxy.telemetry.block import Block
from proxy.telemetry.bugs import Formatter, tell_discreetly, tell_unhandled
from proxy.telemetry.metrics import Metrics, forget_running
from proxy.telemetry.scrape import Scrape
from proxy.telemetry.sinks import Telemetry
from proxy.wire.lifetime import LINGERERS
from proxy.wire.listener import Door, address_of, bind
from proxy.wire.server import CallerLimits, Server, obey_operator, raise_file_limit, run_servers
from proxy.workers import Supervisor, Worker, obey_supervisor, outlast_workers

STDOUT = 1
SAMPLE_SECONDS = 1.0
FORGET_SECONDS = 60.0
"""How long a key may be kept after its last call, with the head that it came in."""
ADMIN_LIMITS = CallerLimits(max_connections=1_000)
OTHER_FILES = 64 + ADMIN_LIMITS.max_connections + LINGERERS
"""What a process may have open beside the connections that are set."""

_log = logging.getLogger(__name__)

ObeyAndTake = Callable[[Take, Callable[[], None], Callable[[], None]], None]
"""Has the running loop call the first function with news, the second to drain, the third to end at once."""


def serve(file: Path | None) -> None:
    """Runs until SIGTERM or SIGINT. Raises SettingsFault, and OSError where an address cannot be had."""
    _keep_secrets()
    warn = partial(_warn, file)
    with contextlib.closing(Reloader(file, warn)) as reloader:
        _serve(reloader, warn)


def _keep_secrets() -> None:
    """No words of a bug of ours in the log, and no core file: what callers sent may be in either."""
    log = logging.StreamHandler()
    log.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[log], level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    tell_discreetly()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _run(main: Coroutine[None, None, None]) -> None:
    """To its end, in an event loop of its own."""

    async def discreetly() -> None:
        asyncio.get_running_loop().set_exception_handler(tell_unhandled)
        await main

    uvloop.run(discreetly())


def _serve(reloader: Reloader, warn: Callable[[Settings], None]) -> None:
    settings = reloader.settings
    public, admin = bind(*settings.listen), bind(*settings.admin_listen)
    blocks = [Block() for _ in range(settings.workers)]
    scrape = Scrape([*blocks, reloader.block], make_rules(settings), time.time)
    app = admin_app(scrape, make_overviews(settings, scrape))

    def say_started() -> None:
        _say_started(settings, address_of(public), address_of(admin))
        warn(settings)

    if settings.workers == 1:
        beside = Server(app, admin, limits=ADMIN_LIMITS, drain_seconds=1)
        obey = partial(_obey_alone, reloader)
        _run(_serve_public(settings, public, blocks[0], obey, [beside], show=[scrape.apply], on_started=say_started))
        return

    turns = os.memfd_create("turns") if settings.access_log else None  # a file that needs no place to be
    door = Door(settings.workers)

    def stop() -> None:
        door.close()
        public.close()

    def work(number: int, link: Receiver) -> None:
        admin.close()
        door.enter(number)
        obey, leave = partial(obey_supervisor, link), partial(door.leave, number)
        _run(_serve_public(reloader.settings, public, blocks[number], obey, turns=turns, leave=leave))

    def mourn(number: int) -> None:
        door.leave(number)
        forget_running(blocks[number])

    def administer(link: Receiver) -> None:
        public.close()
        scrape.apply(make_rules(reloader.settings))
        server = Server(app, admin, limits=ADMIN_LIMITS, drain_seconds=1)
        _run(run_servers(server, obey=partial(outlast_workers, link, taker(settings, scrape.apply))))

    workers = {
        f"worker {number + 1}": Worker(partial(work, number), partial(mourn, number))
        for number in range(settings.workers)
    }
    supervisor = Supervisor(workers, Worker(administer), reloader, drain_seconds=settings.drain_seconds)
    supervisor.run(on_started=say_started, on_stop=stop)


def warnings(file: Path | None, settings: Settings) -> list[str]:
    """What the settings allow, and their file's mode, and an operator should know."""
    found = [f"{file}: others can read it; chmod o-r"] if file is not None and _is_open_to_others(file) else []
    found += [
        f"changes.{change.name}.{field} = {policy!r}: v2 does not keep {field}; "
        + ("answers repeat what was sent, which is stored nowhere" if policy == "echo" else "answers hold none")
        for change in CHANGES
        for field, policy in settings.policies(change).items()
        if policy != "reject"
    ]
    rollouts = ((change, settings.rollout(change)) for change in CHANGES)
    found += [
        f"changes.{change.name}.rollout.shadow: it compares what v1 answers, and nobody is sent there"
        for change, its in rollouts
        if its.shadow_percent and its.v2_percent == 100 and not (its.steps or its.overrides or its.allow_header)
    ]
    files = OTHER_FILES + settings.max_connections + sum(its.max_connections for its in settings.upstreams.each)
    if files > (limit := raise_file_limit()):
        found.append(f"max_connections: {files} files may be open with all of them, and the system allows {limit}")
    if lacks_spans():
        found.append("OTEL_*: spans are asked for, but OpenTelemetry is not installed: ./deploy/venv otel")
    return found


def _is_open_to_others(file: Path) -> bool:
    """Whether everybody who comes to it may read it; of a pipe that says nothing."""
    with contextlib.suppress(OSError):
        mode = file.stat().st_mode
        return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)
    return False


def _obey_alone(reloader: Reloader, take: Take, drain: Callable[[], None], end: Callable[[], None]) -> None:
    """For the one process that does all: the operator is obeyed, and the settings are read, here."""
    obey_operator(drain, end)
    reloader.hand_to(take)


async def _serve_public(
    settings: Settings,
    listener: socket,
    block: Block,
    obey: ObeyAndTake,
    beside: Sequence[Server] = (),
    *,
    turns: int | None = None,
    show: Sequence[Apply] = (),
    on_started: Callable[[], None] = lambda: None,
    leave: Callable[[], bool] = lambda: True,
) -> None:
    metrics, rules = Metrics(block), make_rules(settings)
    metrics.await_first_calls(rules)

    def started() -> None:
        gc.collect()
        gc.freeze()  # what stands by now stands for good: the collector need not look at it with each call's values
        metrics.ready(True)
        on_started()

    def stopping() -> None:
        metrics.ready(False)
        metrics.draining(True)

    with _opened_telemetry(settings, metrics, turns) as telemetry:
        async with open_upstreams(settings, telemetry) as upstreams:
            pipeline = make_pipeline(settings, rules, upstreams, telemetry)
            door = DirectDoor(pipeline, settings.max_body_bytes)
            server = Server(
                PublicApp(pipeline),
                listener,
                refuse=pipeline.refuse,
                heads=door,
                dates_answers=False,  # an upstream's answer may bring its own Date
                limits=caller_limits(settings),
                drain_seconds=settings.drain_seconds,
                leave=leave,
            )
            take = taker(settings, metrics.await_first_calls, pipeline.apply, door.apply, *show)
            async with _sampling(upstreams, server, metrics), _each(FORGET_SECONDS, door.forget):
                await run_servers(server, beside, obey=partial(obey, take), on_started=started, on_stop=stopping)


@contextlib.contextmanager
def _opened_telemetry(settings: Settings, metrics: Metrics, turns: int | None) -> Iterator[Telemetry]:
    """One worker's sinks, and no request is in them at the end."""
    lines = LineWriter(STDOUT, turns) if settings.access_log else None
    spans = open_spans(settings)
    try:
        yield Telemetry(metrics, lines, spans)
    finally:
        metrics.ready(False)
        metrics.draining(False)
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
        " and ".join(settings.upstreams.urls.values()),
    )


def _warn(file: Path | None, settings: Settings) -> None:
    for warning in warnings(file, settings):
        _log.warning(warning)


def _sampling(upstreams: Upstreams, server: Server, metrics: Metrics) -> AbstractAsyncContextManager[None]:
    """Looks each second at what changes without a request too."""

    def sample() -> None:
        for upstream in (upstreams.v1, upstreams.v2):
            if upstream is not None:
                metrics.sample_upstream(upstream.name, upstream.state())
        metrics.sample_callers(server.connections(), server.limits.max_connections)

    return _each(SAMPLE_SECONDS, sample)


@contextlib.asynccontextmanager
async def _each(seconds: float, act: Callable[[], None]) -> AsyncIterator[None]:
    """At once, and again after each so many seconds."""

    async def repeat() -> None:
        while True:
            act()
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
