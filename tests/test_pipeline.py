"""A bug of ours, seen by the caller and in the log; everything else the pipeline does is shown on the wire."""

import asyncio
import logging
from collections.abc import Coroutine

import pytest

from proxy.contract.messages import Request, Response, gather, read_lines
from proxy.pipeline import Pipeline, Upstreams
from proxy.telemetry import series as names
from proxy.telemetry.block import Block
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.sinks import Telemetry
from proxy.wire.answer import Answer
from proxy.wire.headers import ToUpstream
from proxy.wire.pool import Limits
from proxy.wire.senders import Sender
from proxy.wire.upstream import Upstream
from tests.ruled import rules_of


class Buggy:
    """A sender with a bug that would show a caller's values."""

    limits = Limits()

    async def send(self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: object = None) -> Answer:
        raise KeyError(method, target, lines, body)

    def connections(self) -> None: ...

    async def aclose(self) -> None: ...


def answered(sender: Sender, telemetry: Telemetry) -> Coroutine[None, None, Response]:
    """One good call, by a sender."""
    pipeline = Pipeline(
        rules_of(),
        Upstreams(Upstream("v2", sender)),
        ToUpstream(()),
        telemetry,
        max_body_bytes=1_000,
        now=lambda: 1_700_000_000.0,
    )

    async def read_body(limit: int) -> bytes:
        return b'{"manufacturer_user_id": "secret-user"}'

    fields = gather([(b"x-api-key", b"secret-key"), (b"x-request-id", b"id-1")])
    return pipeline.answer(Request("POST", b"/manufacturers/nox", fields), read_body)


class Cut:
    """A sender whose call the drain ends."""

    limits = Limits()

    async def send(self, method: bytes, target: bytes, lines: bytes, body: bytes, limits: object = None) -> Answer:
        raise asyncio.CancelledError

    def connections(self) -> None: ...

    async def aclose(self) -> None: ...


def test_a_call_that_the_drain_cuts_short_is_no_answer_of_v2s() -> None:
    block = Block()
    response = asyncio.run(answered(Cut(), Telemetry(Metrics(block), None)))
    assert response.status == 503
    counts = {key: cells[0] for key, cells in block.values()}
    assert counts[names.FAILURES.name, ("v2", "proxy_internal_error")] == 1
    assert (names.LAST_ANSWER.name, ("v2",)) not in counts


def test_a_bug_answers_v1s_500_with_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[bytes] = []
    with caplog.at_level(logging.ERROR):
        response = asyncio.run(answered(Buggy(), Telemetry(Metrics(Block()), lines.append)))
    assert response.status == 500
    assert response.body == (
        b'{"success":false,"timestamp":1700000000,"error":"Internal server error",'
        b'"error_code":"internal_server_error","message":"Internal server error"}'
    )
    assert (b"x-request-id", b"id-1") in read_lines(response.lines)
    assert (b"proxy-status", b"nox-proxy; error=proxy_internal_error") in read_lines(response.lines)
    assert "request id-1 crashed: KeyError" in caplog.text
    assert "in send" in caplog.text
    assert "secret" not in caplog.text
    assert b"secret" not in lines[0]
    assert b'"status":500' in lines[0]
