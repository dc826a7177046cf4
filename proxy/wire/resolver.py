"""The addresses of hosts, looked up once for all who ask at the same time."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable

PATIENCE = 10.0
"""Seconds after which a lookup is waited for no longer by those who come then; they begin another."""

LookUp = Callable[[str, int], Awaitable[list[str]]]
"""A host's addresses, for connections to a port. Raises OSError, which socket.gaierror is, or UnicodeError."""


async def look_up(host: str, port: int) -> list[str]:
    """By the system's resolver, in a thread of its own, which holds up neither other lookups nor the process's end."""
    with contextlib.suppress(socket.gaierror):
        return _ask(host, port, socket.AI_NUMERICHOST)  # an address needs no asking
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(answer: list[str] | OSError | UnicodeError) -> None:
        if found.cancelled():
            return
        if isinstance(answer, list):
            found.set_result(answer)
        else:
            found.set_exception(answer)

    def ask() -> None:
        answer: list[str] | OSError | UnicodeError
        try:
            answer = _ask(host, port)
        except (OSError, UnicodeError) as error:
            answer = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, answer)

    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    return await found


def _ask(host: str, port: int, flags: int = 0) -> list[str]:
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)]


class Resolver:
    """Keeps no address longer than its lookup runs.

    A lookup goes on until the system gives it up, whether or not anybody still waits for it. With one for each call
    those of a resolver that hangs would be as many as the calls.
    """

    def __init__(self, look_up: LookUp = look_up, patience: float = PATIENCE) -> None:
        self._look_up = look_up
        self._patience = patience
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """At least one. Raises what the lookup raises."""
        place = (host, port)
        running = self._running.get(place)
        return await asyncio.shield(running or self._begin(place))

    def _begin(self, place: tuple[str, int]) -> asyncio.Future[list[str]]:
        self._running[place] = running = asyncio.ensure_future(self._look_up(*place))
        patience = asyncio.get_running_loop().call_later(self._patience, self._running.pop, place, None)

        def end(_: asyncio.Future[list[str]]) -> None:
            patience.cancel()
            if self._running.get(place) is running:
                del self._running[place]
            if not running.cancelled():
                running.exception()  # it is heard, though nobody may wait for it any more

        running.add_done_callback(end)
        return running
