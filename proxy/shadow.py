"""The shadow: calls that v1 answered go to v2 too, off their callers' path, and the two answers are compared.

It may lose calls, and it says so. It never makes a caller wait: what is offered waits in a bounded queue for a few
tasks, which have an Upstream of their own.
"""

import asyncio
import logging
import zlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from proxy.admission import METHOD
from proxy.contract.comparison import Difference, NotAnEnvelope, compare, is_measure, read_envelope
from proxy.contract.envelope import failure
from proxy.contract.errors import UnmappedFieldRefused, UpstreamError
from proxy.contract.messages import Body
from proxy.rules import Endpoint
from proxy.telemetry.bugs import described
from proxy.telemetry.exchange import Comparison, Verdict
from proxy.translation import Translated, to_v1
from proxy.wire.answer import Answer
from proxy.wire.upstream import Upstream

_log = logging.getLogger(__name__)


class Bounds(NamedTuple):
    """What the shadow may take of a worker, and of v2."""

    tasks: int = 8
    """Calls at v2 at once: 160 a second where v2 takes 50 ms, and no more where it is in trouble."""
    calls: int = 256
    """Waiting: a second or two of work. A queue that is longer only makes them older."""
    held_bytes: int = 4 * 2**20
    """Of all calls waiting or at v2."""
    call_bytes: int = 64 * 2**10
    """Of one call, some 700 device IDs: to compare them takes a millisecond, in which the worker answers nobody."""


class ShadowCall(msgspec.Struct, frozen=True, gc=False):
    """A call that v1 answered. `body` is the caller's, `lines` and `message` are what v2 is to get."""

    endpoint: Endpoint
    request_id: bytes
    body: bytes  # not as it was read: texts of two letters would take twelve times the bytes that are counted here
    lines: bytes
    message: bytes
    v1: Answer

    def __repr__(self) -> str:
        return f"ShadowCall({self.endpoint.change.name})"  # the lines hold the key

    @property
    def held_bytes(self) -> int:
        """What it takes to keep it."""
        fields = sum(len(name) + len(value) + _LINE for name, value in self.v1.fields)
        return len(self.body) + len(self.lines) + len(self.message) + len(self.v1.body) + fields


_LINE = 120
"""Bytes that Python adds to a header line: a tuple and two bytes objects."""


class Shadow:
    """One a worker. `report` gets one Comparison for each call offered."""

    def __init__(self, upstream: Upstream, report: Callable[[Comparison], None], bounds: Bounds | None = None) -> None:
        self._upstream = upstream
        self._report = report
        self._bounds = bounds or Bounds()
        self._waiting: asyncio.Queue[ShadowCall] = asyncio.Queue()
        self._held_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to work."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._bounds.tasks)]

    def offer(self, call: ShadowCall) -> None:
        """Takes a call in, or drops it where there is no room. Never waits, never raises."""
        size = call.held_bytes
        if size > self._bounds.call_bytes:
            self._tell(_found(call, "dropped", "too_large"))
        elif self._waiting.qsize() >= self._bounds.calls or self._held_bytes + size > self._bounds.held_bytes:
            self._tell(_found(call, "dropped", "queue_full"))
        else:
            self._held_bytes += size
            self._waiting.put_nowait(call)

    async def aclose(self) -> None:
        """Stops at once. What waits or is at v2 counts as dropped; the Upstream is its owner's to close."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._waiting.empty():
            self._finish(self._waiting.get_nowait(), None)

    async def _work(self) -> None:
        while True:
            call = await self._waiting.get()
            found = None
            try:
                await asyncio.sleep(0)  # callers come in between, though the queue may never be empty
                found = await self._find(call)
            except Exception as bug:  # the next call is not to suffer for it
                found = _found(call, "v2_error", type(bug).__name__)
                _log.error("shadow of request %s crashed: %s", call.request_id.decode(), described(bug))
            finally:
                self._finish(call, found)

    async def _find(self, call: ShadowCall) -> Comparison:
        if not is_measure(call.v1.status):
            return _found(call, "v1_error", str(call.v1.status))
        try:
            v1_body = _plain(call.v1, self._bounds.call_bytes)
            read_envelope(v1_body)  # before v2 is asked: no user is created for nothing
        except _UnknownCoding:
            return _found(call, "v1_error", "content_coding")
        except NotAnEnvelope:
            return _found(call, "v1_error", "not_an_envelope")
        try:
            told = await self._answer_by_v2(call)
        except UpstreamError as error:
            return _found(call, "v2_error", error.reason)
        if told.status >= 500:
            return _found(call, "v2_error", str(told.status))
        differences = compare(call.v1.status, v1_body, told.status, told.body)
        return _found(call, "mismatch" if differences else "match", differences=differences)

    async def _answer_by_v2(self, call: ShadowCall) -> Translated:
        """What the caller would get if v2 answered; that may be a refusal of ours. Raises an UpstreamError."""
        change = call.endpoint.change
        asked: Body = change.read_request(call.body)
        try:
            change.refuse_unmapped(asked, call.endpoint.policies)
        except UnmappedFieldRefused as error:
            return Translated(error.status, failure(error.text, error.error_code, now=0.0), error.error_code, False)
        answer = await self._upstream.send(METHOD.encode(), change.v2_path.encode(), call.lines, call.message)
        return to_v1(call.endpoint, asked, answer, now=0.0)  # the timestamp is not compared

    def _finish(self, call: ShadowCall, found: Comparison | None) -> None:
        self._held_bytes -= call.held_bytes
        self._tell(found or _found(call, "dropped", "shutting_down"))

    def _tell(self, found: Comparison) -> None:
        try:
            self._report(found)
        except Exception as bug:  # it would end a task, or reach the caller
            _log.error("shadow: %s while a comparison was reported", type(bug).__name__)


def _found(
    call: ShadowCall, verdict: Verdict, reason: str | None = None, differences: tuple[Difference, ...] = ()
) -> Comparison:
    return Comparison(call.request_id, call.endpoint.change.name, verdict, differences, reason)


class _UnknownCoding(Exception): ...


def _plain(answer: Answer, limit: int) -> bytes:
    """The body without gzip: a caller may have asked v1 for it. Raises _UnknownCoding for another, NotAnEnvelope."""
    codings = [value.lower() for name, value in answer.fields if name == b"content-encoding"]
    if codings in ([], [b"identity"]):
        return answer.body
    if codings != [b"gzip"]:
        raise _UnknownCoding
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: in gzip's form
    try:
        body = unpacker.decompress(answer.body, limit)
    except zlib.error:
        raise NotAnEnvelope from None
    if not unpacker.eof:
        raise NotAnEnvelope
    return body
