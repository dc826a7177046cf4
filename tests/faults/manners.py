"""Manners of a v2: what it says, how it says it, and what else it does to a connection."""

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Callable, Iterator
from itertools import cycle

from tests.faults.v2 import Serve, Visit
from tests.wire.servers import End, Received, gone, read_request, reset

# What v2 says


def message(status: str, body: bytes, *lines: str) -> bytes:
    """An answer as it should be, but for what the lines say."""
    head = (f"HTTP/1.1 {status}", *lines, f"content-length: {len(body)}", "", "")
    return "\r\n".join(head).encode() + body


def connected(user: str) -> bytes:
    """v2's 201."""
    told = {"manufacturer_user_id": user, "nox_user_id": f"nox-{user}"}
    return message("201 Created", json.dumps(told).encode(), "content-type: application/json")


def _user(request: Received) -> str:
    user: str = json.loads(request.body)["user_id"]
    return user


# How it says it

Say = Callable[[bytes], bytes]
"""What becomes of a good answer."""


def answers(say: Say, then: End = "serve") -> Serve:
    """Answers in a manner of its own, and does as `then` says."""

    async def serve(visit: Visit) -> None:
        while (request := await read_request(visit.reader)) is not None:
            await visit.say(say(connected(_user(request))))
            if then == "reset":
                reset(visit.writer)
            if then == "hold":
                await gone(visit.reader)
            if then != "serve":
                return

    return serve


def in_turns(*manners: Serve) -> Serve:
    """One manner for each connection, and from the first again."""

    async def serve(visit: Visit) -> None:
        await manners[visit.number % len(manners)](visit)

    return serve


def all_of_it(answer: bytes) -> bytes:
    return answer


def none_of_it(_: bytes) -> bytes:
    return b""


def up_to(end: int) -> Say:
    return lambda answer: answer[:end]


def instead(answer: bytes) -> Say:
    return lambda _: answer


def without_last_chunk(answer: bytes) -> bytes:
    """Without the last chunk."""
    _, _, body = answer.partition(b"\r\n\r\n")
    return b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body)


def counted(more: int) -> Say:
    """Says that its body is as many bytes longer than it is."""

    def say(answer: bytes) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        lines, _, length = head.rpartition(b" ")
        return b"%s %d\r\n\r\n%s" % (lines, int(length) + more, body)

    return say


def with_another(answer: bytes) -> bytes:
    """And the most of one that nobody asked for: the next answer would be taken for its end."""
    return answer + connected("somebody-else")[:-9]


# Manners that are more than words


async def closes(_: Visit) -> None:
    """As soon as the connection is there."""


async def resets(visit: Visit) -> None:
    reset(visit.writer)


async def answers_slowly(visit: Visit) -> None:
    request = await read_request(visit.reader)
    for byte in connected(_user(request)) if request else b"":
        await visit.say(bytes([byte]))
        await asyncio.sleep(1)


async def waits_a_little(visit: Visit) -> None:
    """So that there are calls under way when v2 goes."""
    while (request := await read_request(visit.reader)) is not None:
        await asyncio.sleep(0.1)
        await visit.say(connected(_user(request)))


def closes_after(seconds: float) -> Serve:
    """Answers, and closes where no next request comes in time, or in its middle."""

    async def serve(visit: Visit) -> None:
        request = await read_request(visit.reader)
        await visit.say(connected(_user(request)) if request else b"")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await visit.reader.read(1)

    return serve


def pours(head: str, piece: bytes) -> Serve:
    """A hundred pieces of 1 MiB."""

    async def serve(visit: Visit) -> None:
        visit.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        await read_request(visit.reader)
        await visit.say(f"HTTP/1.1 201 Created\r\n{head}\r\n".encode())
        for _ in range(100):
            await visit.say(piece)

    return serve


def fails_in_bursts() -> Serve:
    """20 calls, then as many that are well."""
    failure = message("500 Internal Server Error", b'{"error": "Internal server error"}')
    turns: Iterator[bool] = cycle([True] * 20 + [False] * 20)

    def say(answer: bytes) -> bytes:
        return failure if next(turns) else answer

    return answers(say)


GARBAGE = tuple(
    line + b"\r\n\r\n"  # without an end httpx's parser waits for more
    for line in (
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.6",
        b"HTTP/9.9 999 \xff",
        b"HTTP/1.1 OK",
        b"HTTP/1.1 201 Created\r\ncontent-length: 1, 2",
        b"HTTP/1.1 201 Created\r\n: no name",
        b"\0" * 100,
        random.Random(5).randbytes(4096),  # it begins with no H
    )
)
HTML = b"<!doctype html><title>502 Bad Gateway</title><h1>Bad Gateway</h1>"
