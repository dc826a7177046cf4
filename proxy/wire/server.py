"""The servers: uvicorn with our protocol class, one loop, a drain."""

import asyncio
import contextlib
import math
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import monotonic
from typing import Any, NamedTuple

import uvicorn

from proxy.wire.direct import DirectProtocol, Heads
from proxy.wire.driver import Stage
from proxy.wire.listener import BACKLOG, accept_waiting, turn_away_newcomers
from proxy.wire.protocol import Refuse, ServerProtocol, refuse_plainly

MOMENT = 0.05
"""The share of a drain's time in which new connections are still taken: who sends them has yet to hear of it."""
MOMENT_SECONDS = 5.0
"""At most."""

LONG_TURN = 0.005
"""Seconds that a turn of the event loop takes with some dozens of calls in it."""

CANCEL_TURNS = 5
"""Of the event loop, in which what is cancelled comes to its end: of one wait within another each takes one."""

OPERATORS = (signal.SIGTERM, signal.SIGINT)
"""The signals by which an operator stops a process."""

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI app: Starlette's type for it and uvicorn's differ in words only."""


def raise_file_limit() -> int:
    """Lets the process open as many files as it may; returns how many that are. Each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class CallerLimits(NamedTuple):
    """What a server's callers are held to; times in seconds."""

    max_connections: int = ServerProtocol.max_connections
    max_header_bytes: int = ServerProtocol.max_header_bytes
    header_timeout: float = ServerProtocol.header_timeout
    body_timeout: float = ServerProtocol.body_timeout
    keepalive_timeout: float = 75.0


class Server:
    """One app on one listening socket. With `heads`, whole requests that they know go the direct way instead.

    `dates_answers`: each gets a Date, where the app gives none. `leave` is called when it stops taking callers, and
    tells whether no other process takes any from the socket either.
    """

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        *,
        protocol: type[ServerProtocol] = ServerProtocol,
        refuse: Refuse = refuse_plainly,
        heads: Heads | None = None,
        dates_answers: bool = True,
        limits: CallerLimits | None = None,
        drain_seconds: float = 20.0,
        leave: Callable[[], bool] = lambda: True,
    ) -> None:
        self.limits = limits = limits or CallerLimits()
        self._listener = listener
        self._moment = min(MOMENT * drain_seconds, MOMENT_SECONDS)
        its: dict[str, object] = {**limits._asdict(), "refuse": staticmethod(refuse), "turned_away": set()}
        if heads is not None:
            protocol, its = (
                DirectProtocol,
                {**its, "heads": heads, "requests": Stage(heads.settle), "answers": Stage(heads.settle)},
            )
        self._protocol: type[ServerProtocol] = type("Protocol", (protocol,), its)
        config = uvicorn.Config(
            app,
            http=self._protocol,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            date_header=dates_answers,
            access_log=False,
            log_config=None,
            backlog=BACKLOG,
            timeout_keep_alive=math.ceil(limits.keepalive_timeout),
        )
        config.timeout_graceful_shutdown = drain_seconds - self._moment  # type: ignore[assignment]  # wait_for takes it
        self._uvicorn = _Uvicorn(config, leave)
        self._protocol.arrived = staticmethod(self._uvicorn.take_in_others)

    async def run(self) -> None:
        """Serves until it has drained."""
        await self._uvicorn.serve(sockets=[self._listener])

    async def started(self) -> None:
        """Returns once connections are accepted."""
        await self._uvicorn.has_started.wait()

    def connections(self) -> int:
        """How many are open."""
        return len(self._uvicorn.server_state.connections)

    def drain(self) -> None:
        """Has each answer close its connection; a moment later stops accepting, and finishes what runs."""
        self._protocol.draining = True
        for connection in self._uvicorn.server_state.connections:
            assert isinstance(connection, ServerProtocol)
            connection.drain()
        asyncio.get_running_loop().call_later(self._moment, self.stop)

    def stop(self) -> None:
        """Stops accepting, and finishes what runs."""
        self._uvicorn.should_exit = True

    def end(self) -> None:
        """Ends at once."""
        self._uvicorn.should_exit = self._uvicorn.force_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: two servers share the process's."""

    def __init__(self, config: uvicorn.Config, leave: Callable[[], bool]) -> None:
        super().__init__(config)
        self._leave = leave
        self.has_started = asyncio.Event()
        self._listeners: list[socket.socket] = []
        self._arriving: set[asyncio.Task[object]] = set()
        self._takes_in = False
        self._took_in_at = 0.0
        self._at_once = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._listeners = sockets or []
        await super().startup(sockets)
        self.has_started.set()

    def take_in_others(self) -> None:
        """Those who wait behind one who was accepted: with long turns of the event loop ever more in each.

        libuv accepts one a turn (its pull request 3696), so the last of some hundreds who come at once to a busy worker
        would wait for seconds. Taken all together they would leave nobody to the other workers.
        """
        if not self._takes_in:
            self._takes_in = True
            asyncio.get_running_loop().call_soon(self._take_in)

    def _take_in(self) -> None:
        now = monotonic()
        self._at_once = 2 * self._at_once + 1 if now - self._took_in_at > LONG_TURN else 0
        self._takes_in, self._took_in_at = False, now
        waiting: list[socket.socket] = []
        for listener in self._listeners:
            waiting += accept_waiting(listener, self._at_once - len(waiting))
        if len(waiting) < self._at_once:
            self._at_once = 0
        self._hear(waiting)

    def _hear(self, accepted: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for connection in accepted:
            arriving = loop.create_task(loop.connect_accepted_socket(self._make_protocol, connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes in first who waits to be accepted: closing the socket would reset them.

        None of them is heard before it is closed, or callers who come all the time would keep it open.
        """
        self._listeners = []
        waiting: list[socket.socket] = []
        for listener in sockets or ():
            if self._leave():
                turn_away_newcomers(listener)
            waiting += accept_waiting(listener)
        for server in self.servers:
            server.close()
        self._hear(waiting)
        if self._arriving:
            await asyncio.wait(self._arriving)
        await super().shutdown(sockets)
        for running in self.server_state.tasks:  # after a second signal; the loop itself cancels tasks alone
            running.cancel()
        for _ in range(CANCEL_TURNS):
            await asyncio.sleep(0)

    def _make_protocol(self) -> asyncio.Protocol:
        made = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn's own startup has it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        assert isinstance(made, asyncio.Protocol)
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


Obey = Callable[[Callable[[], None], Callable[[], None]], None]
"""Has the running loop call the first function to drain, the second to end at once."""


def obey_operator(drain: Callable[[], None], end: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT drains, a second ends."""
    first = iter((drain,))
    loop = asyncio.get_running_loop()
    for number in OPERATORS:
        loop.add_signal_handler(number, lambda: next(first, end)())


async def run_servers(
    first: Server,
    others: Sequence[Server] = (),
    *,
    obey: Obey = obey_operator,
    on_started: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Runs until it is told to stop. The others (the admin side) answer until the first has drained."""
    stopped = False

    def drain() -> None:
        nonlocal stopped
        stopped = True
        on_stop()
        first.drain()

    obey(drain, first.end)
    async with asyncio.TaskGroup() as tasks:
        for server in others:
            tasks.create_task(server.run())
        main = tasks.create_task(first.run())
        for server in (first, *others):
            await server.started()
        if not stopped:
            on_started()
        await main
        for server in others:
            server.stop()
