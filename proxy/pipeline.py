"""The life of one request, from a caller's head to the answer it gets:

identify → admit → translate → choose an upstream → send → translate back → observe

It knows nothing of sockets or ASGI: a door brings it a Request and a way to read the body.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import msgspec

from proxy.contract.envelope import ErrorTranslator, failure, success
from proxy.contract.errors import (
    CallerError,
    EndpointGone,
    InternalError,
    InvalidUpstreamResponse,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    ProxyLoopDetected,
    ShuttingDown,
    UnsupportedMediaType,
    UpstreamError,
)
from proxy.contract.messages import Body, Field, Request, Response
from proxy.contract.version_change import AnyChange, Policies
from proxy.policy.credentials import Credential, read_credential
from proxy.policy.deprecation import Deprecation
from proxy.policy.manufacturers import UNREGISTERED, Manufacturers
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.sinks import Telemetry
from proxy.wire import headers
from proxy.wire.connection import Answer
from proxy.wire.headers import ToUpstream
from proxy.wire.upstream import Upstream

ReadBody = Callable[[int], Awaitable[bytes]]
"""Reads the whole body up to a limit in bytes. Raises PayloadTooLarge or CallerGone."""

METHOD = "POST"
"""Of every change, in v1 and in v2."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Endpoint:
    """A version change as it is set to work here."""

    change: AnyChange
    policies: Policies
    errors: ErrorTranslator
    deprecation: Deprecation


class Pipeline:
    """Answers requests. `endpoints` are by their v1 path. `now` gives Unix seconds."""

    def __init__(
        self,
        endpoints: Mapping[bytes, Endpoint],
        v2: Upstream,
        to_upstream: ToUpstream,
        manufacturers: Manufacturers,
        telemetry: Telemetry,
        *,
        max_body_bytes: int,
        now: Callable[[], float],
    ) -> None:
        self._endpoints = endpoints
        self._announced = {its.change.name: its.deprecation.announce() for its in endpoints.values()}
        self._v2 = v2
        self._to_upstream = to_upstream
        self._manufacturers = manufacturers
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes
        self._now = now

    async def answer(self, request: Request, read_body: ReadBody) -> Response:
        """The one answer to a request. It never raises; a bug is a 500 of ours."""
        exchange = Exchange(headers.request_id(request.fields))
        self._telemetry.begin()
        try:
            exchange.trace = self._telemetry.trace(request)
            return await self._live(request, read_body, exchange)
        except ProxyError as error:
            exchange.upstream_failure = error.reason if isinstance(error, UpstreamError) else None
            return self._refuse(error, exchange)
        except asyncio.CancelledError:  # only a drain that ran out of time cancels a request
            return self._cut_short(ShuttingDown(), exchange)
        except Exception as bug:
            self._telemetry.crash(exchange, bug)
            return self._cut_short(InternalError(), exchange)
        finally:
            self._telemetry.finish(exchange)

    def refuse(self, error: CallerError, path: bytes) -> Response:
        """The answer to a message that was no request; `path` is empty where it could not be told."""
        exchange = Exchange(headers.request_id({}))
        self._telemetry.begin()
        if path in self._endpoints:
            self._identify(path, exchange)
        response = self._refuse(error, exchange)
        self._telemetry.finish(exchange)
        return response

    async def _live(self, request: Request, read_body: ReadBody, exchange: Exchange) -> Response:
        endpoint = self._identify(request.path, exchange)
        credential = admit_head(request)
        exchange.credential, exchange.listed = credential, self._manufacturers.listed(credential.digest)
        self._admit_by_schedule(endpoint, credential, exchange)
        body = await read_body(self._max_body_bytes)
        admit_body(request)
        asked = read_request(endpoint, body, exchange)
        message = _encode(endpoint.change.to_v2(asked))
        answer = await self._send(request, credential, endpoint.change, message, exchange)
        return self._translate_back(endpoint, asked, answer, exchange)

    def _identify(self, path: bytes, exchange: Exchange) -> Endpoint:
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            raise NotFound
        exchange.endpoint = endpoint.change.name
        return endpoint

    def _admit_by_schedule(self, endpoint: Endpoint, credential: Credential, exchange: Exchange) -> None:
        """Admission 8. v2 does not judge what is refused here, so a key that no list names is unregistered."""
        listed = exchange.listed
        try:
            endpoint.deprecation.admit(listed or UNREGISTERED, listed or credential.fingerprint, self._now())
        except EndpointGone:
            exchange.key_accepted = True
            raise

    async def _send(
        self, request: Request, credential: Credential, change: AnyChange, message: bytes, exchange: Exchange
    ) -> Answer:
        upstream = self._v2
        exchange.upstream = upstream.name
        trace = None if exchange.trace is None else exchange.trace.send(upstream.name, METHOD)
        lines = self._to_upstream(request, credential.key, exchange.request_id, message, trace)
        started = perf_counter()
        try:
            answer = await upstream.send(METHOD, change.v2_path, lines, message)
            exchange.upstream_status = answer.status
            return answer
        finally:
            exchange.upstream_seconds = perf_counter() - started

    def _translate_back(self, endpoint: Endpoint, asked: Body, answer: Answer, exchange: Exchange) -> Response:
        """v2's answer as v1's (contract, "From v2")."""
        status = answer.status
        lines = headers.from_upstream(answer.fields)
        if 200 <= status < 300:
            exchange.key_accepted = True
            told, exchange.drifted = endpoint.change.read_answer(answer.body)
            data = endpoint.change.to_v1(asked, told, endpoint.policies)
            return self._respond(201, success(data, self._now()), lines, exchange, "answered")
        if 400 <= status < 600:
            exchange.key_accepted = status < 500 and status not in (401, 403)
            text, code, exchange.drifted = endpoint.errors.to_v1(status, answer.body)
            lines += ((b"www-authenticate", b"ApiKey"),) if status == 401 else ()
            return self._respond(status, failure(text, code, self._now()), lines, exchange, code)
        raise InvalidUpstreamResponse

    def _cut_short(self, error: ProxyError, exchange: Exchange) -> Response:
        """The answer to a call that may have been at an upstream, whose answer nobody uses."""
        exchange.upstream_failure = None if exchange.upstream_seconds is None else error.reason
        return self._refuse(error, exchange)

    def _refuse(self, error: ProxyError, exchange: Exchange) -> Response:
        body = failure(error.text, error.error_code, self._now())
        lines = (*error.fields, headers.proxy_status(error.reason))
        return self._respond(error.status, body, lines, exchange, error.error_code, close=error.closes)

    def _respond(
        self,
        status: int,
        body: bytes,
        lines: tuple[Field, ...],
        exchange: Exchange,
        outcome: str,
        *,
        close: bool = False,
    ) -> Response:
        exchange.status, exchange.outcome = status, outcome
        fields = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", exchange.request_id),
            (b"via", headers.VIA),
            *self._announced.get(exchange.endpoint, ()),
            *lines,
            *((b"nox-unmapped", field.encode()) for field in exchange.unmapped),
        )
        return Response(status, fields, body, close)


def admit_head(request: Request) -> Credential:
    """Admission 3 to 7: what can be judged before the body is read."""
    if request.method != METHOD:
        raise MethodNotAllowed
    if headers.is_loop(request.fields):
        raise ProxyLoopDetected
    return read_credential(request.fields)


def admit_body(request: Request) -> None:
    """Admission 10 and 11, which come after the body's size."""
    if headers.is_encoded(request.fields):
        raise UnsupportedMediaType("Content-Encoding is not supported")
    if not headers.media_type_is_json(request.fields):
        raise UnsupportedMediaType


def read_request(endpoint: Endpoint, body: bytes, exchange: Exchange) -> Body:
    """Admission 12 to 14. What v2 has no room for is noted before it can be refused."""
    asked: Body = endpoint.change.read_request(body)
    exchange.unmapped = endpoint.change.lost_fields(asked)
    endpoint.change.refuse_unmapped(asked, endpoint.policies)
    return asked
