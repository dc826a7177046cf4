"""The servers: uvicorn with our protocol class, one loop, a drain."""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import uvicorn

from proxy.wire.address import authority
from proxy.wire.protocol import Refuse, ServerProtocol, refuse_plainly

OPERATORS = (signal.SIGTERM, signal.SIGINT)
"""The signals by which an operator stops a process."""

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI app: Starlette's type for it and uvicorn's differ in words only."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """`host:port` as bound."""
    return authority(*listener.getsockname()[:2])


class Server:
    """One app on one listening socket. `dates_answers`: each gets a Date, where the app gives none."""

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        *,
        protocol: type[ServerProtocol] = ServerProtocol,
        refuse: Refuse = refuse_plainly,
        dates_answers: bool = True,
        max_header_bytes: int = ServerProtocol.max_header_bytes,
        keepalive_timeout: float = 75.0,
        drain_seconds: float = 20.0,
    ) -> None:
        self._listener = listener
        config = uvicorn.Config(
            app,
            http=type("Protocol", (protocol,), {"max_header_bytes": max_header_bytes, "refuse": staticmethod(refuse)}),
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            date_header=dates_answers,
            access_log=False,
            log_config=None,
            timeout_keep_alive=math.ceil(keepalive_timeout),
            timeout_graceful_shutdown=math.ceil(drain_seconds),
        )
        self._uvicorn = _Uvicorn(config)

    async def run(self) -> None:
        """Serves until it has drained."""
        await self._uvicorn.serve(sockets=[self._listener])

    async def started(self) -> None:
        """Returns once connections are accepted."""
        await self._uvicorn.has_started.wait()

    def drain(self) -> None:
        """Stops accepting and finishes what runs."""
        self._uvicorn.should_exit = True

    def end(self) -> None:
        """Ends at once."""
        self._uvicorn.should_exit = self._uvicorn.force_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: two servers share the process's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

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
            server.drain()
