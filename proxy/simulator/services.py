"""The simulated services: their validation, their texts, and the calls that came.

Their side door, for whoever orders faults or asks what came:

    GET /_simulator/calls      the calls as they came, oldest first; DELETE forgets them
    PUT /_simulator/fault      a fault for every call to come, as text; DELETE ends it

A call may order a fault for itself with the header `simulate-fault`.
"""

import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from hashlib import sha256
from typing import NamedTuple

import msgspec
from starlette.requests import Request

from proxy.simulator.faults import Fault
from proxy.simulator.recording import Recorded, RecordedCredential, as_text
from proxy.wire.protocol import TARGET

DEMO_KEY = "demo-key"


class Call(msgspec.Struct, frozen=True):
    """One call as it came. Header names are in lower case; texts are Latin-1, byte for byte.

    `target` is the request's: path and query, or whatever else stood in the request line.
    """

    method: str
    target: str
    path: str
    headers: list[tuple[str, str]]
    body: str

    def __repr__(self) -> str:
        return f"Call({self.method})"  # the headers hold a key


class Answer(msgspec.Struct, frozen=True):
    """What a service says to a call, before any fault."""

    status: int
    body: object

    def __repr__(self) -> str:
        return f"Answer({self.status})"  # the body names a user


class Credential(NamedTuple):
    """The key a call bore and where; empty where it bore none."""

    key: str
    header: RecordedCredential

    def __repr__(self) -> str:
        return f"Credential({self.header})"


class Service(ABC):
    """What the two versions share: accepted keys, subscribers, the calls that came, and the fault in force."""

    path: str
    """Of the call that connects a user; a trailing slash is no other path."""
    others: re.Pattern[str]
    """The paths of the version's other calls, each answered by a 201."""

    def __init__(self, keys: Collection[str] = (DEMO_KEY,), fault: Fault | None = None) -> None:
        self.keys = frozenset(keys)
        self.fault = fault
        self.calls: deque[Call] = deque(maxlen=10_000)

    def answer(self, request: Request, body: bytes) -> Answer:
        """The service's own answer to a call."""
        path = _path(request)
        connects = self.connects(request)
        if request.method != "POST" or not (connects or self.others.fullmatch(path)):
            return self.failure(404, "Not found")
        key = self.credential(request).key
        if not key:
            return self.failure(401, "Missing API key")
        if key not in self.keys:
            return self.failure(401, "Invalid API key")
        return self.connect(key, _read(body)) if connects else self.success({"session_id": _id(path, key)})

    def connects(self, request: Request) -> bool:
        """Whether this is the path of the call that connects a user."""
        return _path(request).removesuffix("/") == self.path

    @abstractmethod
    def credential(self, request: Request) -> Credential:
        """By the headers that the version reads."""

    @abstractmethod
    def connect(self, key: str, asked: dict[str, object]) -> Answer:
        """The answer to a call on `path` with an accepted key."""

    @abstractmethod
    def success(self, data: dict[str, object]) -> Answer:
        """A 201 in the service's form."""

    @abstractmethod
    def failure(self, status: int, text: str) -> Answer:
        """An error in the service's form."""


class V2Service(Service):
    """v2's `POST /manufacturer/device-connections`."""

    path = "/v2/manufacturer/device-connections"
    others = re.compile(r"/v2/(?:manufacturer|supplier)/link-sessions")

    def credential(self, request: Request) -> Credential:
        key = request.headers.get("x-api-key", "")
        return Credential(key, "x-api-key" if key else "none")

    def connect(self, key: str, asked: dict[str, object]) -> Answer:
        user = asked.get("user_id")
        if not isinstance(user, str):
            return self.failure(400, "user_id is required and must be a string")
        return self.success({"manufacturer_user_id": user, "nox_user_id": _nox_user_id(key, user)})

    def success(self, data: dict[str, object]) -> Answer:
        return Answer(201, data)

    def failure(self, status: int, text: str) -> Answer:
        return Answer(status, {"error": text})


class V1Service(Service):
    """v1's `POST /manufacturers/nox`: its envelope, both forms of credential, and the device IDs in its answer."""

    path = "/manufacturers/nox"
    others = re.compile(r"/manufacturers/suppliers|/users/[^/]+/link")

    def credential(self, request: Request) -> Credential:
        if key := request.headers.get("x-api-key"):
            return Credential(key, "x-api-key")
        scheme, _, named = request.headers.get("authorization", "").partition(" ")
        key = named.strip() if scheme.lower() == "apikey" else ""
        return Credential(key, "authorization" if key else "none")

    def connect(self, key: str, asked: dict[str, object]) -> Answer:
        user, devices = asked.get("manufacturer_user_id"), asked.get("device_ids", [])
        if not isinstance(user, str):
            return self.failure(400, "manufacturer_user_id is required and must be a string")
        if not isinstance(devices, list) or not all(isinstance(device, str) for device in devices):
            return self.failure(400, "device_ids must be an array of strings")
        ids = {"manufacturer_user_id": user, "nox_user_id": _nox_user_id(key, user)}
        return self.success({**ids, "device_ids": devices})

    def success(self, data: dict[str, object]) -> Answer:
        return Answer(201, {"success": True, "timestamp": int(time.time()), "data": data})

    def failure(self, status: int, text: str) -> Answer:
        codes = {
            "Missing API key": "missing_api_key",
            "Invalid API key": "invalid_api_key",
            "Not found": "not_found",
        }
        code = codes.get(text, "invalid_request" if status < 500 else "internal_server_error")
        said = {"error": text, "error_code": code, "message": text}
        return Answer(status, {"success": False, "timestamp": int(time.time()), **said})

    def recorded(self, request: Request, body: bytes, status: int | None) -> Recorded | None:
        """A call for a file, its own key and the accepted ones taken out; None for a call of another endpoint."""
        if request.method != "POST" or not self.connects(request):
            return None
        key, header = self.credential(request)
        for secret in sorted({key, *self.keys} - {""}, key=len, reverse=True):
            body = body.replace(secret.encode(errors="surrogateescape"), b"[key]")
        text, base64 = as_text(body)
        return Recorded(
            path=_path(request),
            body=text,
            body_base64=base64,
            credential=header,
            content_type=request.headers.get("content-type"),
            content_encoding=request.headers.get("content-encoding"),
            status=status,
        )


def noted(request: Request, body: bytes) -> Call:
    """A call as it came."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    return Call(request.method, _target(request).decode("latin-1"), _path(request), headers, body.decode("latin-1"))


def _target(request: Request) -> bytes:
    target: bytes = request.scope["state"][TARGET]
    return target


def _path(request: Request) -> str:
    path: bytes = request.scope["raw_path"]
    return path.decode("latin-1")


def _nox_user_id(key: str, user: str) -> str:
    """The same user of the same key is the same subscriber, in both versions and after a restart."""
    return f"nox_{_id(key, user)}"


def _id(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:32]


def _read(body: bytes) -> dict[str, object]:
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return asked if isinstance(asked, dict) else {}
