"""Callers of v1 on kept connections: each with one call after the other, and a note of all that came of it."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from tests.processes import Reply
from tests.sent import note_secrets

ABREAST = 8
"""As many callers begin in the same moment, and the others in turn after them."""
PATIENCE = 30.0
"""Seconds after which a caller gives a call up."""
HEADERS = {"x-api-key": "demo-key", "content-type": "application/json"}
USER = "user-of-fault-"
"""What every user's ID begins with."""

_numbers = count()


class Call(NamedTuple):
    """One call as its caller saw it, from its first byte to the last of its answer."""

    number: int
    user: str
    seconds: float = 0.0
    starved: float = 0.0
    """Seconds in which the threads that it takes had work to do and the machine was busy with others."""
    reply: Reply | None = None
    wrong: str = ""
    """What else came, or why nothing whole did."""

    @property
    def answer(self) -> tuple[int, str]:
        """Status and `error_code`, which is empty in a success; (0, "") where no answer came."""
        return (self.reply.status, str(self.reply.json().get("error_code", ""))) if self.reply else (0, "")


def new_call(padding: int = 0) -> Call:
    """A call that no other is like; `padding` makes it as many bytes longer."""
    number = next(_numbers)
    return Call(number, f"{USER}{number}-{'x' * padding}")


class Callers:
    """Of the proxy at `address`. `threads`: the directories in /proc of those that a call takes."""

    def __init__(self, address: str, threads: Sequence[Path]) -> None:
        note_secrets(json.dumps({"manufacturer_user_id": USER}).encode(), HEADERS)
        self._address = address
        self._threads = [thread for thread in threads if (thread / "schedstat").exists()]  # not with every kernel

    async def call_once(self) -> Call:
        """One call on a connection of its own."""
        with closing(_Line(self._address, self._threads)) as line:
            return await line.make(new_call())

    async def call_for(self, seconds: float, number: int, pace: float, padding: int = 0) -> list[Call]:
        """A number of callers. Each makes a call every `pace` seconds, or later, when its last one was answered."""
        end = asyncio.get_running_loop().time() + seconds
        delays = [pace * (place // ABREAST * ABREAST) / number for place in range(number)]
        each = (self._keep_calling(delay, end, pace, padding) for delay in delays)
        return list(chain.from_iterable(await asyncio.gather(*each)))

    async def _keep_calling(self, delay: float, end: float, pace: float, padding: int) -> list[Call]:
        loop = asyncio.get_running_loop()
        calls: list[Call] = []
        with closing(_Line(self._address, self._threads)) as line:
            await asyncio.sleep(delay)
            while (begun := loop.time()) < end:
                call = await line.make(new_call(padding))
                surplus = await line.listen(min(begun + pace, end))
                calls.append(call if not surplus else call._replace(wrong=f"{call.wrong} then {surplus}"))
        return calls


class _Line:
    """A caller's connection; opened anew where it was closed."""

    def __init__(self, address: str, threads: Sequence[Path]) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._threads = threads
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def make(self, call: Call) -> Call:
        """The call with what came of it."""
        loop = asyncio.get_running_loop()
        begun, starved = loop.time(), self._starved()
        reply, wrong = None, ""
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await self._exchange(_packets(call))
        except (OSError, EOFError, ValueError, KeyError) as error:  # TimeoutError is an OSError
            wrong = repr(error)
        if reply is None or reply.headers.get("connection") == "close":
            self.close()
        return Call(call.number, call.user, loop.time() - begun, self._starved() - starved, reply, wrong)

    async def listen(self, until: float) -> str:
        """What comes until then though nothing was asked for."""
        try:
            async with asyncio.timeout_at(until):
                surplus = await self._reader.read(1000) if self._reader else await asyncio.Future()
        except TimeoutError:
            return ""
        except ConnectionError as error:
            surplus = repr(error).encode()
        self.close()
        return repr(surplus or "closed")

    async def _exchange(self, packets: Sequence[bytes]) -> Reply:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        for packet in packets:
            self._writer.write(packet)
            await asyncio.sleep(0)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head[:-4].decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        if len(headers) != len(pairs) or "transfer-encoding" in headers or not status.startswith("HTTP/1.1 "):
            raise ValueError(head)
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(status.split()[1]), headers, body)

    def _starved(self) -> float:
        """Seconds until now, as the kernel counts them."""
        return sum(int((thread / "schedstat").read_text().split()[1]) for thread in self._threads) / 1e9

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def _packets(call: Call) -> Sequence[bytes]:
    """Every second call's body is a packet of its own, as many clients have it."""
    body = b'{"manufacturer_user_id": "%s"}' % call.user.encode()
    lines = {"host": "a", **HEADERS, "x-request-id": f"call-{call.number}", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    whole = f"POST /manufacturers/nox HTTP/1.1\r\n{head}\r\n".encode()
    return (whole, body) if call.number % 2 else (whole + body,)
