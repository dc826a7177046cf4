"""The callers' side, fed with anything in any pieces over real sockets: what it promises of each input."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import uvloop

from proxy.app import PublicApp
from proxy.direct import DirectDoor
from proxy.pipeline import Pipeline, Upstreams
from proxy.rules import Rules
from proxy.telemetry.block import Block
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.sinks import Telemetry
from proxy.wire.answer import Answer
from proxy.wire.headers import ToUpstream
from proxy.wire.listener import address_of, bind
from proxy.wire.pool import Limits
from proxy.wire.server import CallerLimits, Server
from proxy.wire.upstream import Upstream
from tests.fuzz.inputs import Check, Target, splits
from tests.ruled import rules_of

MAX_BODY = 64
MAX_HEADER = 512
BOUND = 10.0
"""Seconds within which a conversation is over whose caller has said all."""
CALL = b"POST /manufacturers/nox HTTP/1.1\r\nHost: a\r\nx-api-key: k\r\n"
BODY = b'{"manufacturer_user_id":"u"}'

WORDS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b"\x80", b"%", b"?", b"#", b"*", b"/", b"//"),
    *(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD ",
        b"POST ",
        b"OPTIONS * ",
        b"CONNECT a:1 ",
        b"PRI * HTTP/2.0\r\n\r\n",
    ),
    *(
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"http://a",
        b"http://b/manufacturers/nox",
        b"/manufacturers/nox",
    ),
    *(b"Host: b\r\n", b"Host:\r\n", b"Content-Length: 28\r\n", b"Content-Length: 65\r\n", b"Content-Length: +1\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"transfer-encoding : chunked\r\n",
        b" folded\r\n",
    ),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    *(
        b"Expect: 100-continue\r\n",
        b"Expect: x\r\n",
        b"x-api-key: l\r\n",
        b"Authorization: ApiKey k\r\n",
        b"x-api-key:\r\n",
    ),
    *(
        b"Content-Encoding: gzip\r\n",
        b"Content-Type: text/plain\r\n",
        b"Via: 1.1 nox-proxy\r\n",
        b"x-request-id: \xff\r\n",
    ),
    *(
        b"0\r\n\r\n",
        b"1c\r\n",
        b"1c;a=b\r\n",
        b"0\r\nHost: b\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"-1\r\n",
        b"0x1\r\n",
    ),
    *(CALL, BODY, b"{}", b"x" * 300, b"Trailer: host\r\n"),
)


class Counting:
    """A v2 that takes every call, and thinks it over for a turn of the event loop."""

    limits = Limits()

    def __init__(self) -> None:
        self.calls = 0

    async def send(
        self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: Limits | None = None
    ) -> Answer:
        self.calls += 1
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
        return Answer(201, (), b'{"manufacturer_user_id":"u","nox_user_id":"n"}')

    def connections(self) -> None: ...

    async def aclose(self) -> None: ...


class Said(NamedTuple):
    """One answer, and whether it announced the connection's end."""

    status: int
    code: str
    last: bool


class Callers:
    """A server of our own with all that is behind it, and callers who say one thing and then no more.

    `direct`: its direct door is open. `patience`: turns of the event loop before they close their side.
    """

    def __init__(self, *, direct: bool = False, rules: Rules | None = None, patience: int = 0) -> None:
        self._direct = direct
        self._patience = patience
        self._rules = rules or rules_of()
        self._v2 = Counting()
        self._unhandled: list[dict[str, Any]] = []
        self._listener = bind("127.0.0.1", 0)
        host, _, port = address_of(self._listener).rpartition(":")
        self._address = (host, int(port))

    async def start(self) -> None:
        telemetry = Telemetry(Metrics(Block()), None)
        pipeline = Pipeline(
            self._rules,
            Upstreams(Upstream("v2", self._v2)),
            ToUpstream(()),
            telemetry,
            max_body_bytes=MAX_BODY,
            now=lambda: 0.0,
        )
        app = PublicApp(pipeline)
        limits = CallerLimits(max_header_bytes=MAX_HEADER)
        self._server = Server(
            app,
            self._listener,
            refuse=pipeline.refuse,
            heads=DirectDoor(pipeline, MAX_BODY) if self._direct else None,
            dates_answers=False,
            limits=limits,
        )
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._unhandled.append(context))
        self._running = asyncio.create_task(self._server.run())
        await self._server.started()

    async def stop(self) -> None:
        self._server.end()
        await self._running

    async def judge(self, data: bytes, every: bool) -> str:
        """Well-formed answers in any pieces, and the same ones; a call is sent on once or not at all."""
        told = [list(read_answers(await self.hear(pieces))) for pieces in _ways(data, every)]
        longest = max(told, key=len, default=[])
        assert all(_alike(said, longest) for said in told), (data, told)
        *before, last = longest or [Said(0, "nothing", last=True)]
        return f"{last.code}{', not the first' if before else ''}"

    async def hear(self, pieces: list[bytes]) -> bytes:
        """All that is answered to what comes in these pieces."""
        calls = self._v2.calls
        raw = await self._talk(pieces)
        assert not self._unhandled
        assert self._v2.calls - calls == sum(each.status == 201 for each in read_answers(raw))
        return raw

    async def _talk(self, pieces: list[bytes]) -> bytes:
        """Raises ConnectionError where a reset may have taken answers away (RFC 9112, section 9.6)."""
        loop = asyncio.get_running_loop()
        with socket.socket() as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, self._address)
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):  # it may be closed before all is said
                for piece in pieces:
                    await loop.sock_sendall(caller, piece)
                    await asyncio.sleep(0)  # the server takes each by itself
                for _ in range(self._patience):
                    await asyncio.sleep(0)
                caller.shutdown(socket.SHUT_WR)
            raw = b""
            async with asyncio.timeout(BOUND):
                while piece := await loop.sock_recv(caller, 65_536):
                    raw += piece
            return raw


def _ways(data: bytes, every: bool) -> list[list[bytes]]:
    """Some of those to split it: each is a conversation, and byte by byte a long one."""
    at_once, _, *others = splits(data, every)
    return [at_once, *(others[::9] if every else others)]


def _alike(said: list[Said], longest: list[Said]) -> bool:
    """An answer given before its request was whole is the last one, and of two faults it may name either.

    Nor need there be one, where it is the caller who cut it short.
    """
    for one, other in zip(said, longest, strict=False):
        if one[:2] != other[:2]:
            return min(one.status, other.status) >= 400 and (one.last or other.last)
    more = longest[len(said) :]
    return not more or (bool(said) and said[-1].last) or (len(more) == 1 and more[0].last and more[0].status >= 400)


_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) [ -~]+\r\n((?:[a-z0-9-]+: [\t -~]*\r\n)+)\r\n")


def read_answers(raw: bytes) -> Iterator[Said]:
    """Each a v1 envelope, or the head of one for a HEAD, and nothing after one that is the last."""
    while raw := raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"):
        found = _ANSWER.match(raw)
        assert found, raw
        lines = [line.split(b": ", 1) for line in found[2].splitlines()]
        fields: dict[bytes, bytes] = dict(lines)
        assert [name for name, _ in lines].count(b"content-length") == 1
        status, length, raw = int(found[1]), int(fields[b"content-length"]), raw[found.end() :]
        code = "answered"
        if raw.startswith(b"{"):
            body, raw = raw[:length], raw[length:]
            assert len(body) == length
            envelope = json.loads(body)
            assert envelope["success"] is (status == 201)
            code = envelope.get("error_code", code)
        assert status < 500 or code == "proxy_loop_detected"
        last = fields.get(b"connection") == b"close"
        assert not (last and raw), raw
        yield Said(status, code, last)


@contextmanager
def open_check() -> Iterator[Check]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        callers = Callers()
        runner.run(callers.start())
        yield lambda data, every: runner.run(callers.judge(data, every))
        runner.run(callers.stop())


REQUESTS = Target("requests", WORDS, open_check)
