"""A simulated service as a Starlette app: its side door, and on every other path the service with its faults."""

import asyncio
import gzip
import logging
from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy.simulator.faults import Fault, parse_fault
from proxy.simulator.recording import Recorder
from proxy.simulator.services import Answer, Service, V1Service, noted
from proxy.wire.protocol import ServerProtocol

OnAnswer = Callable[[Request, bytes, int | None], None]
"""Told of each call, its body and the status it got, None where it got no answer."""

_TRANSPORT = "nox_proxy.simulator"
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>balancer-7.internal</body></html>"

_log = logging.getLogger(__name__)


class RawProtocol(ServerProtocol):
    """Lets an app reach the connection itself: some faults are not HTTP."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_TRANSPORT: {"transport": self.transport}}


def service_app(service: Service, on_answer: OnAnswer = lambda *_: None) -> Starlette:
    """The service and its side door."""

    async def calls(request: Request) -> Response:
        if request.method == "DELETE":
            service.calls.clear()
        return _json(200, list(service.calls))

    async def fault(request: Request) -> Response:
        try:
            service.fault = parse_fault((await request.body()).decode()) if request.method == "PUT" else None
        except ValueError as error:
            return Response(f"{error}\n", 400)
        return Response(status_code=204)

    app = Starlette(
        routes=[
            Route("/_simulator/calls", calls, methods=["GET", "DELETE"]),
            Route("/_simulator/fault", fault, methods=["PUT", "DELETE"]),
        ]
    )
    app.router.redirect_slashes = False
    app.router.default = _AnyPath(service, on_answer)
    return app


def record_to(recorder: Recorder, service: V1Service) -> OnAnswer:
    """Has the service's calls written down. A file that cannot be written fails no call."""

    def on_answer(request: Request, body: bytes, status: int | None) -> None:
        call = service.recorded(request, body, status)
        try:
            if call is not None:
                recorder.add(call)
        except OSError as error:
            _log.error("a call is not recorded: %s", error.strerror)

    return on_answer


class _AnyPath:
    """The service as an ASGI app: notes the call, then answers it or has its fault."""

    def __init__(self, service: Service, on_answer: OnAnswer) -> None:
        self._service = service
        self._on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self._service.calls.append(noted(request, body))
        ordered = request.headers.get("simulate-fault")
        try:
            fault = parse_fault(ordered) if ordered else self._service.fault
        except ValueError as error:
            await Response(f"{error}\n", 400)(scope, receive, send)
            return
        answer = self._service.answer(request, body)
        if fault is not None and await _broke_off(fault, scope, receive):
            self._on_answer(request, body, None)
            return
        response = self._with_fault(fault, answer)
        self._on_answer(request, body, response.status_code)
        await response(scope, receive, send)

    def _with_fault(self, fault: Fault | None, answer: Answer) -> Response:
        match fault:
            case Fault("status", status):
                failed = self._service.failure(int(status), "Internal server error")
                return _json(failed.status, failed.body)
            case Fault("html"):
                return Response(_HTML, 502, media_type="text/html")
            case Fault("odd"):
                return _json(201, {"connected": True})
            case Fault("mismatch"):
                return _json(answer.status, _with_another_user(answer.body))
            case Fault("drift") if isinstance(answer.body, dict):
                return _json(answer.status, {**answer.body, "region": "eu"})
            case Fault("gzip"):
                packed = gzip.compress(msgspec.json.encode(answer.body))
                return Response(packed, answer.status, {"content-encoding": "gzip"}, "application/json")
        return _json(answer.status, answer.body)


def _with_another_user(body: object) -> object:
    """The same body, v1's or v2's, with a `nox_user_id` of another subscriber."""
    if not isinstance(body, dict):
        return body
    return {
        name: f"{value}_other" if name == "nox_user_id" else _with_another_user(value) for name, value in body.items()
    }


async def _broke_off(fault: Fault, scope: Scope, receive: Receive) -> bool:
    """Has the faults below HTTP; True where no answer may follow."""
    transport: asyncio.Transport = scope["extensions"][_TRANSPORT]["transport"]
    match fault:
        case Fault("delay", seconds):
            await asyncio.sleep(seconds)
            return False
        case Fault("hang"):
            pass
        case Fault("close"):
            transport.close()
        case Fault("cut"):
            transport.write(b'HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{"manufacturer_user_id":')
            transport.close()
        case Fault("garbage"):
            transport.write(b"\x15\x03\x01 no HTTP at all\r\n\r\n")
            transport.close()
        case _:
            return False
    while (await receive())["type"] != "http.disconnect":
        pass
    return True


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
