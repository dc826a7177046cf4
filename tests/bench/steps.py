"""The steps of a call: how many bytecodes Python runs for one, which no other load on the machine changes.

python -m tests.bench.steps [most]      the total, and the functions that take most
"""

import asyncio
import gc
import os
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import TypeVar, cast

import uvicorn
import uvloop
from uvicorn.server import ServerState

from proxy.direct import DirectDoor
from proxy.parts import make_pipeline, make_rules
from proxy.pipeline import Upstreams
from proxy.settings import Settings
from proxy.telemetry.access_log import LineWriter
from proxy.telemetry.block import Block
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.sinks import Telemetry
from proxy.wire.connection import Connection
from proxy.wire.direct import DirectProtocol
from proxy.wire.driver import Stage
from proxy.wire.pool import Limits, Origin, Pool
from proxy.wire.senders import PoolSender
from proxy.wire.upstream import Upstream

Found = TypeVar("Found")

WARM_UP = 20
CALLS = 10
URL = "http://127.0.0.1:9/v2"
BODY = b'{"manufacturer_user_id":"user-1","device_ids":["heat-pump-1","wallbox-2"]}'
CALL = (
    b"POST /manufacturers/nox HTTP/1.1\r\nhost: proxy\r\nx-api-key: key\r\ncontent-type: application/json\r\n"
    b"user-agent: legacy/1.0\r\naccept: */*\r\nx-request-id: %d\r\ncontent-length: %d\r\n\r\n%b"
)
TOLD = b'{"manufacturer_user_id":"user-1","nox_user_id":"nox-1"}'
ANSWER = (
    b"HTTP/1.1 201 Created\r\nserver: v2\r\ndate: Mon, 23 Nov 2026 12:00:00 GMT\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(TOLD), TOLD)
)


class Wire:
    """A connection's other end: it keeps what was written last, and says nothing."""

    def __init__(self, end: socket.socket) -> None:
        self._known = {"socket": end, "peername": ("127.0.0.1", 5555), "sockname": ("127.0.0.1", 80)}
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written = data

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._known.get(name, default)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...


class Proxy:
    """All of a worker but its sockets, with one caller and one connection to v2."""

    def __init__(self, end: socket.socket) -> None:
        settings = Settings()
        log = LineWriter(os.open(os.devnull, os.O_WRONLY))
        self._telemetry = Telemetry(Metrics(Block()), log)
        self._requests, self._answers = Stage(), Stage()
        pool = Pool(Limits(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        pipeline = make_pipeline(
            settings, make_rules(settings), Upstreams(Upstream("v2", PoolSender(URL, pool))), self._telemetry
        )
        self._v2 = self._kept_connection(pool, end)
        self._caller = self._caller_of(DirectDoor(pipeline, settings.max_body_bytes), end)

    def call(self, number: int) -> bytes:
        """One call, there and back."""
        self._caller.data_received(CALL % (number, len(BODY), BODY))
        self._requests._take()
        self._v2.data_received(ANSWER)
        self._answers._take()
        self._telemetry.flush()
        return self._wire.written

    def _kept_connection(self, pool: Pool, end: socket.socket) -> Connection:
        lane = pool._open_lane(Origin("http", "127.0.0.1", 9))
        connection = Connection(1_048_576, pool._known)
        connection.connection_made(cast(asyncio.Transport, Wire(end)))
        lane.active += 1
        lane.give_back(connection)
        return connection

    def _caller_of(self, heads: DirectDoor, end: socket.socket) -> DirectProtocol:
        config = uvicorn.Config(nobody, http=DirectProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        its = {"heads": heads, "requests": self._requests, "answers": self._answers}
        kind: type[DirectProtocol] = type("Protocol", (DirectProtocol,), its)
        caller = kind(config=config, server_state=ServerState(), app_state={})
        self._wire = Wire(end)
        caller.connection_made(cast(asyncio.Transport, self._wire))
        return caller


async def nobody(scope: object, receive: object, send: object) -> None:
    """In the app's place."""
    raise AssertionError("a call that is measured goes the direct way")


def counted(call: Callable[[int], bytes], numbers: range) -> Counter[str]:
    """The bytecodes of some calls, by function."""
    steps: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> object:
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps[f"{frame.f_globals['__name__']}:{frame.f_code.co_name}"] += 1
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]  # typeshed's is recursive
    for number in numbers:
        call(number)
    sys.settrace(None)
    return steps


def collected(call: Callable[[int], bytes], numbers: range) -> int:
    """The objects of some calls that only the garbage collector frees."""
    gc.collect()
    gc.disable()
    for number in numbers:
        call(number)
    return gc.collect()


async def measure(look: Callable[[Callable[[int], bytes], range], Found], *, same_head: bool) -> Found:
    """At CALLS calls. With `same_head` each has the head of the one before."""
    ends = socket.socketpair()
    proxy = Proxy(ends[0])
    for number in range(WARM_UP):
        assert proxy.call(0 if same_head else number).startswith(b"HTTP/1.1 201 ")
    return look((lambda _: proxy.call(0)) if same_head else proxy.call, range(WARM_UP, WARM_UP + CALLS))


def measure_heads(look: Callable[[Callable[[int], bytes], range], Found]) -> dict[str, Found]:
    """The same for calls whose head is known, and for others."""
    os.environ["NOX_PROXY_UPSTREAMS__V2__URL"] = URL
    kinds = {"a known head": True, "a new head": False}
    return {name: uvloop.run(measure(look, same_head=same_head)) for name, same_head in kinds.items()}


def garbage_of_calls() -> dict[str, int]:
    """How many objects CALLS calls leave to the garbage collector."""
    return measure_heads(collected)


def main() -> None:
    for name, steps in measure_heads(counted).items():
        print(f"{name}: {steps.total() / CALLS:.0f} steps")
        for function, its in steps.most_common(int(sys.argv[1]) if len(sys.argv) > 1 else 0):
            print(f"{its / CALLS:8.0f}  {function}")


if __name__ == "__main__":
    main()
