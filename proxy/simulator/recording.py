r"""A file of v1 calls: `nox-proxy simulate v1 --record` writes it, `nox-proxy verify --requests` reads it.

NDJSON in UTF-8: a JSON object a line, a line a call of a deprecated endpoint. Empty lines are skipped.

    {"path": "/manufacturers/nox", "body": "{\"manufacturer_user_id\": \"u-1\"}", "status": 201}

path              a deprecated endpoint's, with or without a trailing slash; the method is POST
body              the body as text
body_base64       instead of it, where the body is not UTF-8
credential        the header that bore the key: "x-api-key" (also where it is left out), "authorization" or "none"
content_type      the header's value; left out where none came
content_encoding  the same
status            what v1 answered; left out where that is not known

No key is in the file: it is replayed with the key of whoever replays it, or with one that nobody has where v1 answered
401 to a key. User IDs and device IDs are in it.
"""

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

RecordedCredential = Literal["x-api-key", "authorization", "none"]

_FIELDS = "path, body, body_base64, credential, content_type, content_encoding and status"
_PATH = re.compile(r"/[!-~]*")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PLACE = re.compile(r"at `\$\.(\w+)`|required field `(\w+)`")


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A line of the file."""

    path: str
    body: str = ""
    body_base64: bytes = b""
    credential: RecordedCredential = "x-api-key"
    content_type: str | None = None
    content_encoding: str | None = None
    status: int | None = None

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise ValueError("path: must be visible ASCII that begins with /")
        if self.body and self.body_base64:
            raise ValueError("body: there is body_base64 too")
        if not all(_VALUE.fullmatch(value or "") for value in (self.content_type, self.content_encoding)):
            raise ValueError("content_type and content_encoding: no header's value")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError("status: must be from 200 to 599")

    def __repr__(self) -> str:
        return f"Recorded({self.status})"  # the body names a user

    @property
    def content(self) -> bytes:
        """The body's bytes."""
        return self.body_base64 or self.body.encode()


class BadLine(ValueError):
    """A line that is no call, by its number. The text holds none of its values."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Recorded).decode


def read_calls(text: bytes) -> dict[int, Recorded]:
    """The calls of a file by their line's number. Raises BadLine."""
    lines = enumerate(text.split(b"\n"), 1)
    return {number: _read_call(number, line) for number, line in lines if line.strip()}


def _read_call(number: int, line: bytes) -> Recorded:
    try:
        return _decode(line)
    except msgspec.ValidationError as error:
        raise BadLine(f"line {number}: {_words(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadLine(f"line {number}: not a JSON object in UTF-8") from None


def _words(error: msgspec.ValidationError) -> str:
    """Without msgspec's own words, which may hold a value."""
    if isinstance(error.__cause__, ValueError):
        return str(error.__cause__)
    if "unknown field" in str(error):
        return f"a field that is none of {_FIELDS}"
    found = _PLACE.search(str(error))
    return f"{found[1] or found[2]}: missing, or not of its form" if found else "not a JSON object"


def as_text(body: bytes) -> tuple[str, bytes]:
    """A body for `body` and `body_base64`, one of which is empty."""
    try:
        return body.decode(), b""
    except UnicodeDecodeError:
        return "", body


class Recorder:
    """Appends to a file, which is made for its owner's eyes only. Raises OSError where it cannot be opened."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self, call: Recorded) -> None:
        """Raises OSError where it cannot be written."""
        os.write(self._descriptor, _encode(call) + b"\n")
