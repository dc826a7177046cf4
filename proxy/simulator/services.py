"""The simulated services as Starlette apps: their validation, their texts, their subscribers in memory.

Both have a side door for whoever orders faults or asks what came:

    GET /_simulator/calls      the calls as they came, oldest first; DELETE forgets them
    PUT /_simulator/fault      a fault for every call to come, as text; DELETE ends it

A call may order a fault for itself with the header `simulate-fault`.
"""

import asyncio
import gzip
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from uuid import uuid4

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from proxy.simulator.faults import Fault, parse_fault
from proxy.wire.protocol import ServerProtocol

DEMO_KEY = "demo-key"

_TRANSPORT = "nox_proxy.simulator"
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>balancer-7.internal</body></html>"


class Call(msgspec.Struct, frozen=True):
    """One call as it came. Header names are in lower case; texts are Latin-1, byte for byte."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: str


class Answer(msgspec.Struct, frozen=True):
    """What a service says to a call, before any fault."""

    status: int
    body: object


class RawProtocol(ServerProtocol):
    """Lets an app reach the connection itself: some faults are not HTTP."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {_TRANSPORT: {"transport": self.transport}}


class Service(ABC):
    """What the two versions share: accepted keys, subscribers, the calls that came, and the fault in force."""

    path: str

    def __init__(self, keys: Collection[str] = (DEMO_KEY,), fault: Fault | None = None) -> None:
        self.keys = frozenset(keys)
        self.fault = fault
        self.calls: deque[Call] = deque(maxlen=10_000)
        self._users: dict[tuple[str, str], str] = {}

    @abstractmethod
    def answer(self, request: Request, body: bytes) -> Answer:
        """The service's own answer to a call on its path."""

    @abstractmethod
    def failure(self, status: int, text: str) -> Answer:
        """An error in the service's form."""

    def nox_user_id(self, key: str, user: str) -> str:
        """The same user of the same key is always the same subscriber."""
        return self._users.setdefault((key, user), f"nox_{uuid4().hex}")

    def app(self) -> Starlette:
        """The service with its side door."""
        return Starlette(
            routes=[
                Route("/_simulator/calls", self._calls, methods=["GET", "DELETE"]),
                Route("/_simulator/fault", self._fault, methods=["PUT", "DELETE"]),
                Route(self.path, _Endpoint(self), methods=["POST"]),
            ]
        )

    async def _calls(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.calls.clear()
        return _json(200, list(self.calls))

    async def _fault(self, request: Request) -> Response:
        try:
            self.fault = parse_fault((await request.body()).decode()) if request.method == "PUT" else None
        except ValueError as error:
            return Response(f"{error}\n", 400)
        return Response(status_code=204)


class V2Service(Service):
    """v2's `POST /manufacturer/device-connections`."""

    path = "/v2/manufacturer/device-connections"

    def answer(self, request: Request, body: bytes) -> Answer:
        key = request.headers.get("x-api-key")
        if not key:
            return self.failure(401, "Missing API key")
        if key not in self.keys:
            return self.failure(401, "Invalid API key")
        user = _read(body).get("user_id")
        if not isinstance(user, str):
            return self.failure(400, "user_id is required and must be a string")
        return Answer(201, {"manufacturer_user_id": user, "nox_user_id": self.nox_user_id(key, user)})

    def failure(self, status: int, text: str) -> Answer:
        return Answer(status, {"error": text})


class V1Service(Service):
    """v1's `POST /manufacturers/nox`: its envelope, both forms of credential, and the device IDs in its answer."""

    path = "/manufacturers/nox"

    def answer(self, request: Request, body: bytes) -> Answer:
        scheme, _, named = request.headers.get("authorization", "").partition(" ")
        key = request.headers.get("x-api-key") or (named if scheme.lower() == "apikey" else "")
        if not key:
            return self.failure(401, "Missing API key")
        if key not in self.keys:
            return self.failure(401, "Invalid API key")
        asked = _read(body)
        user, devices = asked.get("manufacturer_user_id"), asked.get("device_ids", [])
        if not isinstance(user, str):
            return self.failure(400, "manufacturer_user_id is required and must be a string")
        if not isinstance(devices, list) or not all(isinstance(device, str) for device in devices):
            return self.failure(400, "device_ids must be an array of strings")
        data = {"manufacturer_user_id": user, "nox_user_id": self.nox_user_id(key, user), "device_ids": devices}
        return Answer(201, {"success": True, "timestamp": int(time.time()), "data": data})

    def failure(self, status: int, text: str) -> Answer:
        codes = {"Missing API key": "missing_api_key", "Invalid API key": "invalid_api_key"}
        code = codes.get(text, "invalid_request" if status < 500 else "internal_server_error")
        said = {"error": text, "error_code": code, "message": text}
        return Answer(status, {"success": False, "timestamp": int(time.time()), **said})


class _Endpoint:
    """A service's path as an ASGI app: notes the call, then answers it or has its fault."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self._service.calls.append(_noted(request, body))
        ordered = request.headers.get("simulate-fault")
        try:
            fault = parse_fault(ordered) if ordered else self._service.fault
        except ValueError as error:
            await Response(f"{error}\n", 400)(scope, receive, send)
            return
        answer = self._service.answer(request, body)
        if fault is not None and await _broke_off(fault, scope, receive):
            return
        await self._with_fault(fault, answer)(scope, receive, send)

    def _with_fault(self, fault: Fault | None, answer: Answer) -> Response:
        match fault:
            case Fault("status", status):
                failed = self._service.failure(int(status), "Internal server error")
                return _json(failed.status, failed.body)
            case Fault("html"):
                return Response(_HTML, 502, media_type="text/html")
            case Fault("odd"):
                return _json(201, {"connected": True})
            case Fault("drift") if isinstance(answer.body, dict):
                return _json(answer.status, {**answer.body, "region": "eu"})
            case Fault("gzip"):
                packed = gzip.compress(msgspec.json.encode(answer.body))
                return Response(packed, answer.status, {"content-encoding": "gzip"}, "application/json")
        return _json(answer.status, answer.body)


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


def _noted(request: Request, body: bytes) -> Call:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    return Call(request.method, request.scope["raw_path"].decode(), headers, body.decode("latin-1"))


def _read(body: bytes) -> dict[str, object]:
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return asked if isinstance(asked, dict) else {}


def _json(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
