"""The life of one request, from a caller's head to the answer it gets:

identify → admit → choose an upstream → translate → send → translate back → observe

It knows nothing of sockets or ASGI: a door brings it a Request and a way to read the body. It is long because a
request's whole life is to stand on one page.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from secrets import token_hex
from typing import NamedTuple

import msgspec

from proxy.admission import METHOD, admit_body, admit_passage, find_credential
from proxy.contract.envelope import failure
from proxy.contract.errors import (
    CallerError,
    CredentialError,
    EndpointGone,
    InternalError,
    NotFound,
    ProxyError,
    RequestTimeout,
    ShuttingDown,
    UpstreamError,
)
from proxy.contract.messages import Body, Request, Response, write_lines
from proxy.head import Head, read_head, recognise
from proxy.policy.manufacturers import UNREGISTERED
from proxy.rules import Rules
from proxy.shadow import Shadow, ShadowCall
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.sinks import Telemetry
from proxy.translation import to_v1
from proxy.wire import headers
from proxy.wire.answer import Answer
from proxy.wire.headers import ToUpstream
from proxy.wire.upstream import Upstream

ReadBody = Callable[[int], Awaitable[bytes]]
"""Reads the whole body up to a limit in bytes. Raises PayloadTooLarge or CallerGone."""

V2_PREFIX = b"/v2"
"""Where v2's own calls are on the common host; the rest of the path stands below the v2 upstream's URL."""

_METHOD = METHOD.encode()
_OURS = (
    b"date: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nvia: "
    + headers.VIA
    + b"\r\n%b%b"
)
"""The header lines of an answer of ours: the endpoint's and the answer's own come last."""
_SCHEME = write_lines(CredentialError.fields)
"""Every 401 names it."""
_encode = msgspec.json.Encoder().encode


class Upstreams(NamedTuple):
    """Where calls go. Without a v1, all that no change covers is a 404."""

    v2: Upstream
    v1: Upstream | None = None
    shadow: Shadow | None = None


class Call(msgspec.Struct, frozen=True, gc=False):
    """An admitted call on a deprecated endpoint, with its body as bytes and as read."""

    head: Head
    body: bytes
    asked: Body

    def __repr__(self) -> str:
        return f"Call({self.head.endpoint.change.name})"  # the body names a user


class Pipeline:
    """Answers requests by the rules. `now` gives Unix seconds."""

    def __init__(
        self,
        rules: Rules,
        upstreams: Upstreams,
        to_upstream: ToUpstream,
        telemetry: Telemetry,
        *,
        max_body_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._rules = rules
        self._upstreams = upstreams
        self._to_upstream = to_upstream
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes
        self._now = now

    def apply(self, rules: Rules) -> None:
        """Has every call from now on answered by other rules; those under way keep theirs."""
        self._rules = rules

    async def answer(self, request: Request, read_body: ReadBody) -> Response:
        """The one answer to a request. It never raises; a bug is a 500 of ours."""
        exchange = Exchange(headers.request_id(request.fields))
        self._telemetry.begin()
        try:
            exchange.trace = self._telemetry.trace(request)
            return await self._live(self._rules, request, read_body, exchange)
        except BaseException as error:
            return self._fail(error, exchange)
        finally:
            self._telemetry.finish(exchange)

    async def answer_known(self, head: Head, body: bytes) -> Response:
        """The same for a whole request whose head is known. It is counted with others by `settle`."""
        exchange = Exchange(head.request_id or headers.new_request_id())
        self._telemetry.begin()
        try:
            exchange.trace = self._telemetry.trace(head.request)
            self._meet(head, exchange)
            return await self._convert(head, body, exchange)
        except BaseException as error:
            return self._fail(error, exchange)
        finally:
            self._telemetry.put_off(exchange)

    def settle(self) -> None:
        """Counts and logs the calls that `answer_known` has answered; to come before the answers leave."""
        self._telemetry.flush()

    def needs_body(self, head: Head) -> bool:
        """False where the schedule refuses it now: such an answer does not wait for the body."""
        try:
            self._admit_by_schedule(head)
        except EndpointGone:
            return False
        return True

    def recognise(self, request: Request) -> Head | None:
        """The head of a call that `answer_known` takes; None for any other."""
        return recognise(self._rules, request, self._to_upstream)

    def refuse(self, error: CallerError, path: bytes) -> Response:
        """The answer to a message that was no request; `path` is empty where it could not be told."""
        exchange = Exchange(headers.request_id({}))
        self._telemetry.begin()
        if endpoint := self._rules.by_path.get(path):
            exchange.endpoint, exchange.announced = endpoint.change.name, endpoint.announced
        response = self._refuse(error, exchange)
        self._telemetry.finish(exchange)
        return response

    async def _live(self, rules: Rules, request: Request, read_body: ReadBody, exchange: Exchange) -> Response:
        endpoint = rules.by_path.get(request.path)
        if endpoint is None:
            return await self._pass_through(rules, request, read_body, exchange)
        exchange.endpoint, exchange.announced = endpoint.change.name, endpoint.announced
        head = read_head(rules, endpoint, request, self._to_upstream)
        self._meet(head, exchange)
        body = await read_body(self._max_body_bytes)
        admit_body(request)
        return await self._convert(head, body, exchange)

    def _meet(self, head: Head, exchange: Exchange) -> None:
        """Who calls; and admission 8."""
        endpoint = head.endpoint
        exchange.endpoint, exchange.announced = endpoint.change.name, endpoint.announced
        exchange.credential, exchange.listed = head.credential, head.listed
        if endpoint.has_schedule:
            try:
                self._admit_by_schedule(head)
            except EndpointGone:
                exchange.key_accepted = True
                raise

    def _convert(self, head: Head, body: bytes, exchange: Exchange) -> Awaitable[Response]:
        change = head.endpoint.change
        asked: Body = change.read_request(body)
        exchange.unmapped = change.lost_fields(asked)
        call, v1 = Call(head, body, asked), self._upstreams.v1
        return self._ask_v2(call, exchange) if v1 is None else self._dispatch(call, v1, exchange)

    async def _pass_through(self, rules: Rules, request: Request, read_body: ReadBody, exchange: Exchange) -> Response:
        """A path that no change covers: /v2 goes to v2, any other to v1, untouched (contract, last section)."""
        if self._upstreams.v1 is None:
            raise NotFound
        to_v2 = request.path == V2_PREFIX or request.path.startswith(V2_PREFIX + b"/")
        exchange.endpoint = "passthrough_v2" if to_v2 else "passthrough_v1"
        admit_passage(request)
        if credential := find_credential(request.fields):
            exchange.credential, exchange.listed = credential, rules.manufacturers.listed(credential.digest)
        body = await read_body(self._max_body_bytes)
        upstream = self._upstreams.v2 if to_v2 else self._upstreams.v1
        target = request.target.removeprefix(V2_PREFIX) if to_v2 else request.target
        answer = await self._send_untouched(upstream, target, request, body, exchange, is_measure=False)
        exchange.key_accepted = 200 <= answer.status < 300  # another status does not say that the key was looked at
        return self._hand_back(answer, request, exchange)

    def _admit_by_schedule(self, head: Head) -> None:
        """Admission 8. v2 does not judge what is refused here, so a key that no list names is unregistered."""
        listed = head.listed
        head.endpoint.deprecation.admit(listed or UNREGISTERED, listed or head.credential.fingerprint, self._now())

    async def _dispatch(self, call: Call, v1: Upstream, exchange: Exchange) -> Response:
        """To v1 or v2 by the rollout, and back to v1 where v2 took nothing of the call."""
        rollout, listed = call.head.endpoint.rollout, call.head.listed
        forced = rollout.forced(listed, call.head.request.fields.get(b"nox-upstream", ()))
        unit = _unit_of(call, listed)
        if (forced or rollout.choose(listed, unit, self._now())) == "v1":
            return await self._ask_v1(v1, call, exchange, shadowed=rollout.shadows(unit))
        try:
            return await self._ask_v2(call, exchange)
        except UpstreamError as error:
            if forced or not (rollout.falls_back and error.not_sent):
                raise
            exchange.fail(error.reason)
            exchange.fallback = error.reason
        return await self._ask_v1(v1, call, exchange)

    async def _ask_v2(self, call: Call, exchange: Exchange) -> Response:
        """Admission 14, which is v2's alone: v1 keeps every field. Then there and back (contract, "From v2")."""
        head, endpoint, v2 = call.head, call.head.endpoint, self._upstreams.v2
        if endpoint.refuses_unmapped:
            endpoint.change.refuse_unmapped(call.asked, endpoint.policies)
        message = _encode(endpoint.change.to_v2(call.asked))
        trace = exchange.ask(v2.name)
        lines = _v2_lines(head, exchange.request_id, message, head.trace_lines if trace is None else write_lines(trace))
        answer = await v2.send(_METHOD, head.v2_target, lines, message, exchange.retry)
        exchange.answered(answer.status)
        exchange.key_accepted = _accepts_key(answer)
        told = to_v1(endpoint, call.asked, answer, self._now())
        if told.drifted:
            exchange.attempts[-1].drifted = True
        lines = headers.from_upstream(answer.fields)
        if answer.status == 401:
            lines += _SCHEME
        return self._respond(told.status, told.body, lines, exchange, told.outcome)

    async def _ask_v1(self, v1: Upstream, call: Call, exchange: Exchange, *, shadowed: bool = False) -> Response:
        request = call.head.request
        answer = await self._send_untouched(v1, request.target, request, call.body, exchange)
        exchange.key_accepted = _accepts_key(answer)
        if shadowed and self._upstreams.shadow is not None:
            self._upstreams.shadow.offer(_shadow_call(call, answer, exchange))
        return self._hand_back(answer, request, exchange)

    async def _send_untouched(
        self,
        upstream: Upstream,
        target: bytes,
        request: Request,
        body: bytes,
        exchange: Exchange,
        *,
        is_measure: bool = True,
    ) -> Answer:
        trace = exchange.ask(upstream.name)
        lines = self._to_upstream.untouched(request, exchange.request_id, body, trace)
        method = request.method.encode()
        answer = await upstream.send(method, target, lines, body, exchange.retry, is_measure=is_measure)
        exchange.answered(answer.status)
        return answer

    def _hand_back(self, answer: Answer, request: Request, exchange: Exchange) -> Response:
        """An upstream's answer as it came, but for what is announced of a deprecated endpoint."""
        exchange.status, exchange.outcome = answer.status, "answered"
        lines = headers.untouched_from_upstream(answer, request.method.encode(), exchange.announced, self._now())
        if exchange.fallback is not None:
            lines += write_lines((headers.fallback_status(exchange.fallback),))
        return Response(answer.status, lines, answer.body)

    def _fail(self, error: BaseException, exchange: Exchange) -> Response:
        """The answer in place of one that did not come about."""
        if isinstance(error, ProxyError):
            return self._refuse(error, exchange, by_upstream=isinstance(error, UpstreamError))
        if isinstance(error, asyncio.CancelledError):  # only a drain that ran out of time cancels a request
            return self._refuse(ShuttingDown(), exchange, by_upstream=True)
        if not isinstance(error, Exception):
            raise error
        self._telemetry.crash(exchange, error)
        return self._refuse(InternalError(), exchange, by_upstream=True)

    def _refuse(self, error: ProxyError, exchange: Exchange, *, by_upstream: bool = False) -> Response:
        """`by_upstream`: a call under way there comes to nothing with this."""
        if by_upstream:
            exchange.fail(error.reason)
        if isinstance(error, RequestTimeout):
            exchange.timed_out = error.part
        body = failure(error.text, error.error_code, self._now())
        lines = write_lines((*error.fields, headers.proxy_status(error.reason)))
        return self._respond(error.status, body, lines, exchange, error.error_code, close=error.closes)

    def _respond(
        self, status: int, body: bytes, lines: bytes, exchange: Exchange, outcome: str, *, close: bool = False
    ) -> Response:
        exchange.status, exchange.outcome = status, outcome
        if exchange.unmapped and exchange.upstream != "v1":  # v1 keeps every field
            lines += _unmapped_lines(exchange.unmapped)
        length, date = len(body), headers.date(self._now())
        lines = _OURS % (date, length, exchange.request_id, exchange.announced, lines)
        return Response(status, lines, body, close)


def _v2_lines(head: Head, request_id: bytes, message: bytes, trace_lines: bytes) -> bytes:
    return b"content-length: %d\r\nx-request-id: %b\r\n%b%b" % (len(message), request_id, head.v2_lines, trace_lines)


def _shadow_call(call: Call, answer: Answer, exchange: Exchange) -> ShadowCall:
    head, endpoint = call.head, call.head.endpoint
    message = _encode(endpoint.change.to_v2(call.asked))
    lines = _v2_lines(head, exchange.request_id, message, head.trace_lines)
    return ShadowCall(endpoint, exchange.request_id, call.body, lines, message, answer)


def _unit_of(call: Call, listed: str | None) -> str:
    """What a rollout tells callers apart by."""
    match call.head.endpoint.rollout.sticky_by:
        case "user":
            return call.head.endpoint.change.user(call.asked)
        case "manufacturer":
            return listed or call.head.credential.fingerprint
        case "none":
            return token_hex(8)


@cache
def _unmapped_lines(fields: tuple[str, ...]) -> bytes:
    return write_lines((b"nox-unmapped", field.encode()) for field in fields)


def _accepts_key(answer: Answer) -> bool:
    """Whether the upstream looked at the key and took it."""
    return answer.status < 300 or (400 <= answer.status < 500 and answer.status not in (401, 403))
