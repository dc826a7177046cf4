"""The addresses of hosts, looked up once for all who ask at the same time."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

LookUp = Callable[[str, int], Awaitable[list[str]]]
"""A host's addresses, for connections to a port. Raises OSError, which socket.gaierror is, or UnicodeError."""


async def look_up(host: str, port: int) -> list[str]:
    """By the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Resolver:
    """Keeps no address longer than its lookup runs.

    A lookup holds one of a few threads until the system gives it up, whether or not anybody still waits for it. With
    one for each call, those of a resolver that hangs would stand before all that come when it is well again.
    """

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """At least one. Raises what the lookup raises."""
        place = (host, port)
        running = self._running.get(place)
        if running is None:
            self._running[place] = running = asyncio.ensure_future(self._look_up(host, port))
            running.add_done_callback(lambda _: self._running.pop(place))
        return await asyncio.shield(running)
