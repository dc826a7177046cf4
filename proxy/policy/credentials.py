"""The API key, out of either of v1's two headers."""

import re
from hashlib import sha256
from hmac import compare_digest
from typing import Literal

import msgspec

from proxy.contract.errors import ConflictingApiKeys, InvalidApiKey, MissingApiKey
from proxy.contract.messages import Fields

Scheme = Literal["x-api-key", "authorization"]

_FIT = re.compile(rb"[\x21-\x7e]{1,512}")
_AUTHORIZATION = re.compile(rb"apikey +(.*)", re.IGNORECASE | re.DOTALL)


class Credential(msgspec.Struct, frozen=True):
    """A key fit to be sent on, the header it came in, and its SHA-256 in hex, which may be shown."""

    key: bytes
    scheme: Scheme
    digest: str

    @property
    def fingerprint(self) -> str:
        """What a log line says of the key: 8 hex digits of its SHA-256."""
        return self.digest[:8]

    def __repr__(self) -> str:
        return f"Credential({self.fingerprint})"


def read_credential(fields: Fields) -> Credential:
    """The caller's one key (admission 5 to 7). An Authorization of another scheme counts as none.

    Raises MissingApiKey, ConflictingApiKeys or InvalidApiKey. Keys are compared in constant time, as everywhere, though
    both are the caller's own here.
    """
    named = [value for value in fields.get(b"x-api-key", ()) if value]
    keys = named + _authorization_keys(fields)
    if not keys:
        raise MissingApiKey
    key, *others = keys
    if not all(compare_digest(key, other) for other in others):
        raise ConflictingApiKeys
    if not _FIT.fullmatch(key):
        raise InvalidApiKey
    return Credential(key, "x-api-key" if named else "authorization", digest(key))


def digest(key: bytes) -> str:
    """The SHA-256 of a key in hex, as `manufacturers.*.keys_sha256` lists it."""
    return sha256(key).hexdigest()


def _authorization_keys(fields: Fields) -> list[bytes]:
    found = (_AUTHORIZATION.fullmatch(value) for value in fields.get(b"authorization", ()))
    return [match[1].strip() for match in found if match and match[1].strip()]
