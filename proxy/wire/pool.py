"""Keep-alive connections to upstreams: the bytes of a request in, a slim answer out.

The only promise that needs care: an exchange that is answered, fails, times out or is cancelled gives its
slot back, and its connection is kept only if nothing is left over on it. Connections are opened only where
none is idle, so there are never more of them than slots.
"""

import asyncio
import ssl
from collections import deque
from typing import NamedTuple

import httpx

from proxy.wire.answer import Answer, AnswerHeads
from proxy.wire.connection import Connection
from proxy.wire.resolver import Resolver


class Origin(NamedTuple):
    """Where connections go. IPv6 addresses stand without brackets."""

    scheme: str
    host: str
    port: int


class Limits(NamedTuple):
    """Times in seconds."""

    timeout: float = 10.0
    """The whole exchange, from the wait for a connection to the last byte."""
    connect_timeout: float = 3.0
    """The making of a new connection, name resolution and TLS included."""
    pool_timeout: float = 3.0
    """The wait for a free connection."""
    max_connections: int = 512
    """To one origin."""
    keepalive_expiry: float = 15.0
    max_response_bytes: int = 1_048_576


class Connections(NamedTuple):
    """Open connections: with a call on them (or being made for one), and without."""

    active: int
    idle: int


class Pool:
    """Connections by origin. `tls` verifies certificates; there is no way to turn that off."""

    def __init__(self, limits: Limits, tls: ssl.SSLContext, resolver: Resolver | None = None) -> None:
        self.limits = limits
        self._tls = tls
        self._resolver = resolver or Resolver()
        self._known: AnswerHeads = {}
        self._lanes: dict[Origin, _Lane] = {}

    async def exchange(
        self, origin: Origin, message: bytes, *, limits: Limits | None = None, without_body: bool = False
    ) -> Answer:
        """Sends a whole request and returns the whole answer.

        `limits` may hold other times for this exchange. Raises httpx.PoolTimeout, ConnectTimeout, ConnectError
        (in all three nothing was sent), ReadTimeout or RemoteProtocolError.
        """
        limits = limits or self.limits
        lane = self._lanes.get(origin) or self._open_lane(origin)
        now = lane.time()
        deadline = now + limits.timeout
        if lane.active < lane.slots:
            lane.active += 1
        else:
            await lane.wait_for_slot(min(now + limits.pool_timeout, deadline))
        connection = None
        try:
            connection = lane.take_idle() or await self._connect_apart(origin, limits, deadline)
            return await connection.exchange(message, deadline, without_body=without_body)
        finally:
            lane.give_back(connection)

    def connections(self) -> Connections:
        """Of all origins, now."""
        lanes = self._lanes.values()
        return Connections(sum(lane.active for lane in lanes), sum(lane.idle for lane in lanes))

    async def aclose(self) -> None:
        """Closes the idle connections; those at work close with their exchange."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()

    def _open_lane(self, origin: Origin) -> "_Lane":
        lane = self._lanes[origin] = _Lane(self.limits.max_connections, self.limits.keepalive_expiry)
        return lane

    async def _connect_apart(self, origin: Origin, limits: Limits, deadline: float) -> Connection:
        """In a task of its own: the caller may have none, and the timeouts need one."""
        making = asyncio.create_task(self._connect(origin, limits, deadline))
        try:
            return await making
        except asyncio.CancelledError:
            if making.done() and not making.cancelled() and making.exception() is None:
                making.result().close()  # it was made in the same moment
            raise
        finally:
            del making  # an error of its own would refer back to it by this frame

    async def _connect(self, origin: Origin, limits: Limits, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(limits.max_response_bytes, self._known)
        try:
            until = min(loop.time() + limits.connect_timeout, deadline)
            async with asyncio.timeout_at(until):
                await self._reach(origin, connection, until)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:  # ssl.SSLError and socket.gaierror are among them
            raise httpx.ConnectError(f"no connection: {type(error).__name__}") from error
        except asyncio.CancelledError:
            connection.close()  # it may have been made in the same moment
            raise
        return connection

    async def _reach(self, origin: Origin, connection: Connection, until: float) -> None:
        """To the first of the host's addresses that takes a connection. None has more than its share of the time."""
        loop = asyncio.get_running_loop()
        secure = origin.scheme == "https"
        addresses = await self._resolver.addresses(origin.host, origin.port)
        for others, address in zip(range(len(addresses))[::-1], addresses, strict=True):
            try:
                async with asyncio.timeout((until - loop.time()) / (others + 1)):
                    await loop.create_connection(
                        lambda: connection,
                        address,
                        origin.port,
                        ssl=self._tls if secure else None,
                        server_hostname=origin.host if secure else None,
                    )
                return
            except OSError as error:  # TimeoutError is one
                if not others or isinstance(error, ssl.SSLError):
                    raise


class _Lane:
    """The slots and idle connections of one origin. The last one used is the first one taken."""

    def __init__(self, slots: int, expiry: float) -> None:
        self.slots = slots
        self.active = 0
        """The slots taken; one more may be taken without a wait as long as some are free."""
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._expiry = expiry
        self._idle: deque[Connection] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def wait_for_slot(self, until: float) -> None:
        """First come, first served. Raises httpx.PoolTimeout."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        timer = self._loop.call_at(until, _miss, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # it came in the same moment
                self.give_back()
            raise
        finally:
            timer.cancel()

    def give_back(self, connection: Connection | None = None) -> None:
        """A slot, to who waits longest if anybody does, with its connection if there came to be one."""
        if connection is not None:
            if connection.reusable and not self._closed:
                connection.idle_since = self.time()
                self._idle.append(connection)
                if self._sweep is None:
                    self._sweep_later(self._expiry)
            else:
                connection.close()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1

    def take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if self.time() - connection.idle_since < self._expiry and connection.is_quiet():
                return connection
            connection.close()
        return None

    def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().close()

    def _sweep_later(self, delay: float) -> None:
        self._sweep = self._loop.call_later(delay, self._close_expired)

    def _close_expired(self) -> None:
        self._sweep = None
        now = self.time()
        while self._idle and now - self._idle[0].idle_since >= self._expiry:
            self._idle.popleft().close()
        if self._idle:
            self._sweep_later(self._idle[0].idle_since + self._expiry - now)


def _miss(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(httpx.PoolTimeout("no connection came free in time"))
