"""JSON into messages: strictly from callers, tolerantly from v2."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from proxy.contract.messages import Body

Message = TypeVar("Message", bound=Body)


def _malformed(body: bytes) -> bool:
    """True where msgspec's fast skip of an unknown field let bytes pass that are not UTF-8."""
    if body.isascii():
        return False
    try:
        body.decode()
    except UnicodeDecodeError:
        return True
    return False


class StrictDecoder(Generic[Message]):
    """A caller's JSON (contract, admission 12 and 13). Unknown fields are ignored, but must be JSON."""

    def __init__(self, message: type[Message]) -> None:
        self._message = message
        self._decode = msgspec.json.Decoder(message).decode

    def decode(self, body: bytes) -> Message:
        """Raises msgspec.ValidationError for JSON of another form, and ValueError for what is not JSON."""
        if _malformed(body):
            raise ValueError("not UTF-8")
        try:
            return self._decode(body)
        except msgspec.ValidationError:
            # Of two equal names the last counts, but msgspec judges the first one's type too.
            return msgspec.convert(_parse(body), self._message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError("not JSON") from None


def _parse(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("not JSON") from None


class TolerantDecoder(Generic[Message]):
    """v2's JSON: a field that v2's description does not know is drift, never an error."""

    def __init__(self, message: type[Message]) -> None:
        # The same message with its fields closed, tried first: an answer without drift is decoded once.
        closed = msgspec.defstruct(message.__name__, (), bases=(message,), frozen=True, forbid_unknown_fields=True)
        self._expected: Callable[[bytes], Message] = msgspec.json.Decoder[Any](closed).decode
        self._drifted = msgspec.json.Decoder(message).decode

    def decode(self, body: bytes) -> tuple[Message, bool]:
        """The message, and whether v2 drifted. Raises ValueError for any other form."""
        try:
            return self._expected(body), False
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        try:
            return self._drifted(body), True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError("not of the form that v2 describes") from None
