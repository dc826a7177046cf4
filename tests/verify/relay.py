"""A deployment with one thing broken: a relay in front of the proxy that changes what comes back."""

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from typing import Any, Self

from proxy.contract.messages import Field
from proxy.wire.answer import Answer
from proxy.wire.client import Client

Break = Callable[[Answer], Answer | None]
"""Changes an answer; None closes the connection instead."""


class Relay:
    """Hands each call on as it came, and its answer back as `breaks` has it. `base` is a path in front of all others.

    With `raw` set it does not listen at all: it says those bytes, and then closes the connection or keeps it.
    """

    def __init__(self, address: str, base: bytes = b"") -> None:
        self._proxy = Client(f"http://{address}")
        self._base = base
        self._tasks: set[asyncio.Task[None]] = set()
        self.breaks: Break = lambda answer: answer
        self.raw: tuple[bytes, bool] | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._attend, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._base.decode()}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._proxy.aclose()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                if self.raw is None:
                    while await self._hand_on(reader, writer):
                        pass
                else:
                    said, closes = self.raw
                    writer.write(said)
                    while not closes and await reader.read(65_536):
                        pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether another call may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *others = head[:-4].split(b"\r\n")
        method, path, _ = line.split(b" ")
        assert path.startswith(self._base)
        lines: list[Field] = [(name, value) for name, _, value in (other.partition(b": ") for other in others)]
        answer = self.breaks(
            await self._proxy.send(method, path[len(self._base) :], lines[1:], await _body(reader, dict(lines)))
        )
        if answer is None:
            return False
        fields = [line for line in answer.fields if line[0] != b"content-length"]
        fields.append((b"content-length", b"%d" % len(answer.body)))
        written = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        writer.write(b"HTTP/1.1 %d Said\r\n%s\r\n%s" % (answer.status, written, answer.body))
        return (b"connection", b"close") not in answer.fields


async def _body(reader: asyncio.StreamReader, fields: dict[bytes, bytes]) -> bytes:
    """As it is framed; what is announced as very long does not come."""
    if b"transfer-encoding" in fields:
        body = b""
        while not body.endswith(b"\r\n0\r\n\r\n"):
            body += await reader.read(65_536)
        return body
    length = int(fields.get(b"content-length", b"0"))
    return await reader.readexactly(length) if length < 1 << 24 else b""


def status(number: int) -> Break:
    return lambda answer: Answer(number, answer.fields, answer.body)


def without(name: bytes) -> Break:
    return lambda answer: Answer(answer.status, tuple(each for each in answer.fields if each[0] != name), answer.body)


def with_header(name: bytes, value: bytes) -> Break:
    """Instead of the one that is there."""
    others = without(name)

    def change(answer: Answer) -> Answer:
        kept = others(answer)
        assert kept is not None
        return Answer(answer.status, (*kept.fields, (name, value)), answer.body)

    return change


def edited(**values: object) -> Break:
    """The envelope with other values."""
    return lambda answer: Answer(
        answer.status, answer.fields, json.dumps({**json.loads(answer.body), **values}).encode()
    )


def data(**values: object) -> Break:
    """A 201's `data` with other values; other answers as they are."""

    def change(answer: Answer) -> Answer:
        told: dict[str, Any] = json.loads(answer.body)
        if answer.status != 201:
            return answer
        return Answer(201, answer.fields, json.dumps({**told, "data": {**told["data"], **values}}).encode())

    return change


def html(answer: Answer) -> Answer:
    return Answer(200, ((b"content-type", b"text/html"),), b"<html>")


def gone(_: Answer) -> None:
    return None


def every_second(breaks: Break) -> Break:
    """Breaks the first answer, the third and so on."""
    broken: list[Answer] = []

    def change(answer: Answer) -> Answer | None:
        broken.append(answer)
        return breaks(answer) if len(broken) % 2 else answer

    return change


def rewritten(name: bytes, pattern: bytes, text: bytes) -> Break:
    """A header's value, changed by a pattern."""

    def change(answer: Answer) -> Answer:
        fields = tuple((each, re.sub(pattern, text, value) if each == name else value) for each, value in answer.fields)
        return Answer(answer.status, fields, answer.body)

    return change
