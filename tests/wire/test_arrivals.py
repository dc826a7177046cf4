"""Callers who come at once, on the event loop that serves them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from time import monotonic

import uvloop

from proxy.wire.listener import bind
from proxy.wire.server import Server

CALLERS = 200
TURNS = 20
"""Of the event loop: far fewer than callers."""
TURN_SECONDS = 0.01
"""As a turn with a hundred calls takes."""


async def _unasked(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError("nobody asks")


@contextlib.asynccontextmanager
async def serving(listener: socket.socket) -> AsyncIterator[Server]:
    server = Server(_unasked, listener)
    running = asyncio.create_task(server.run())
    await server.started()
    try:
        yield server
    finally:
        server.end()
        await running


async def work() -> None:
    """One turn of the event loop."""
    end = monotonic() + TURN_SECONDS
    while monotonic() < end:
        pass
    await asyncio.sleep(0)


async def heard_in_a_few_turns() -> int:
    with contextlib.ExitStack() as callers:
        listener = bind("127.0.0.1", 0)
        async with serving(listener) as server:
            for _ in range(CALLERS):  # the kernel connects them, before the event loop has a turn
                callers.enter_context(socket.create_connection(listener.getsockname()))
            for _ in range(TURNS):
                await work()
            return server.connections()


def test_a_busy_worker_hears_all_who_wait_in_a_few_turns() -> None:
    assert uvloop.run(heard_in_a_few_turns()) == CALLERS
