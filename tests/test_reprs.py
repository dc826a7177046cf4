"""No value shows a key, a user ID, a device ID or a body: not in a message, a log or a debugger's list of locals."""

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

import proxy
from proxy.contract.changes.connect_nox_user import V1Connection, V1Request, V2Connection, V2Request
from proxy.contract.envelope import ErrorTranslator, Failure, Success, V2Error
from proxy.contract.messages import Body, Request, Response, gather, write_lines
from proxy.head import Head
from proxy.pipeline import Call
from proxy.policy.credentials import Credential, digest
from proxy.settings import SettingsFault, load_text
from proxy.shadow import ShadowCall
from proxy.simulator import services as simulated
from proxy.simulator.recording import Recorded
from proxy.telemetry.exchange import Exchange
from proxy.translation import Translated
from proxy.verify.calls import Call as VerifyCall
from proxy.verify.calls import Reply
from proxy.verify.run import Plan
from proxy.wire.answer import Answer, AnswerHead
from proxy.wire.direct import Known
from tests.ruled import rules_of

SECRET = "secret-4711"
BYTES = SECRET.encode()
LINE = (b"x-api-key", BYTES)

REQUEST = Request("POST", b"/?" + BYTES, gather([LINE]))
CREDENTIAL = Credential(BYTES, "x-api-key", digest(BYTES))
ANSWER_HEAD = AnswerHead(201, (LINE,), 2)
ANSWER = Answer(201, (LINE,), BYTES)
ASKED = V1Request(SECRET, (SECRET,))
RULES = rules_of()
ENDPOINT = RULES.endpoints[0]
HEAD = Head(ENDPOINT, REQUEST, CREDENTIAL, None, BYTES, b"/", BYTES, BYTES)
MADE = VerifyCall((LINE,), BYTES)
RECORDED = Recorded(path="/manufacturers/nox", body=SECRET)


async def answered(head: Head, body: bytes) -> Response:
    return Response(201, b"", body)


VALUES: tuple[object, ...] = (
    REQUEST,
    Response(201, write_lines((LINE,)), BYTES),
    CREDENTIAL,
    ANSWER,
    ANSWER_HEAD,
    HEAD,
    Known(1, partial(answered, HEAD), bool),
    Call(HEAD, BYTES, ASKED),
    ShadowCall(ENDPOINT, b"id-1", BYTES, write_lines((LINE,)), BYTES, ANSWER),
    Translated(201, BYTES, "answered", drifted=False),
    ErrorTranslator({}, {}).to_v1(400, msgspec.json.encode({"error": SECRET})),
    Exchange(b"id-1", credential=CREDENTIAL),
    Success(True, 0, V1Connection(SECRET, SECRET, (SECRET,))),
    Failure(False, 0, SECRET, "invalid_request", SECRET),
    V2Error(SECRET),
    ASKED,
    V1Connection(SECRET, SECRET, (SECRET,)),
    V2Request(SECRET),
    V2Connection(SECRET, SECRET),
    MADE,
    Reply(MADE, b"id-1", 201, gather([LINE]), BYTES, 0.0, 0.0),
    RECORDED,
    Recorded(path="/manufacturers/nox", body_base64=BYTES),
    Plan("http://a", SECRET, "run", requests={1: RECORDED}),
    simulated.Call("POST", SECRET, SECRET, [("x-api-key", SECRET)], SECRET),
    simulated.Answer(201, {"nox_user_id": SECRET}),
    simulated.Credential(SECRET, "x-api-key"),
)

HARMLESS = {
    "proxy.telemetry.exchange.Comparison",  # an ID, and kinds of difference
    "proxy.verify.checks.Check",  # templates: $KEY stands for the key
    "proxy.verify.checks.RawCheck",
}
"""What holds bytes too, and none of a caller's."""


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_no_value_shows_a_secret(value: object) -> None:
    shown = f"{value!r} {value} {[value]} {value:}"
    assert SECRET not in shown
    assert BYTES.hex() not in shown


def test_a_body_of_a_change_yet_to_come_shows_none() -> None:
    class Later(Body, frozen=True):
        user: str

    assert SECRET not in repr(Later(SECRET))


def test_the_settings_show_no_key() -> None:
    """They hold digests alone; a key that stands in a digest's place is refused without being shown."""
    text = f'[manufacturers.acme]\nkeys_sha256 = ["{digest(BYTES)}"]'.encode()
    assert SECRET not in repr(load_text(text, "nox-proxy.toml"))
    with pytest.raises(SettingsFault, match="64 hex digits") as raised:
        load_text(text.replace(digest(BYTES).encode(), BYTES), "nox-proxy.toml")
    assert SECRET not in f"{raised.value!r} {raised.value}"


def value_classes() -> Iterator[type]:
    """Every struct, dataclass and named tuple of the proxy."""
    for module in pkgutil.walk_packages(proxy.__path__, "proxy."):
        if module.name != "proxy.__main__":
            for found in vars(importlib.import_module(module.name)).values():
                if isinstance(found, type) and found.__module__ == module.name and _is_value(found):
                    yield found


def _is_value(found: type) -> bool:
    return issubclass(found, msgspec.Struct) or dataclasses.is_dataclass(found) or hasattr(found, "_fields")


MAY_HOLD: list[object] = [bytes, object, *map(type, VALUES)]


def _holds_bytes(kind: object) -> bool:
    """Whether a value of a type may be bytes or anything, or hold them."""
    return kind in MAY_HOLD or any(map(_holds_bytes, typing.get_args(kind)))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def test_no_value_class_is_forgotten() -> None:
    """What holds bytes is in the one list or the other."""
    found = {
        _name(kind)
        for kind in value_classes()
        if any(_holds_bytes(hint) for base in kind.__mro__ for hint in vars(base).get("__annotations__", {}).values())
    }
    assert found - {_name(type(value)) for value in VALUES} == HARMLESS
