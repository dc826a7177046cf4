"""The one key, out of either header."""

import hashlib

import pytest

from proxy.contract.errors import ConflictingApiKeys, CredentialError, InvalidApiKey, MissingApiKey
from proxy.contract.messages import Field, gather
from proxy.policy.credentials import digest, read_credential

X = b"x-api-key"
A = b"authorization"


@pytest.mark.parametrize(
    ("lines", "key", "scheme"),
    [
        ([(X, b"k")], b"k", "x-api-key"),
        ([(A, b"ApiKey k")], b"k", "authorization"),
        ([(A, b"APIKEY    k ")], b"k", "authorization"),
        ([(X, b"k"), (A, b"ApiKey k")], b"k", "x-api-key"),
        ([(X, b""), (A, b"ApiKey k")], b"k", "authorization"),
        ([(X, b"k"), (A, b"Basic abc")], b"k", "x-api-key"),
        ([(X, b"!~" * 256)], b"!~" * 256, "x-api-key"),
    ],
)
def test_a_key(lines: list[Field], key: bytes, scheme: str) -> None:
    credential = read_credential(gather(lines))
    assert (credential.key, credential.scheme) == (key, scheme)
    assert credential.digest == hashlib.sha256(key).hexdigest() == digest(key)
    assert credential.fingerprint == credential.digest[:8]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], MissingApiKey),
        ([(X, b"")], MissingApiKey),
        ([(A, b"Bearer k")], MissingApiKey),
        ([(A, b"ApiKey")], MissingApiKey),
        ([(A, b"ApiKey  ")], MissingApiKey),
        ([(A, b"ApiKeyk")], MissingApiKey),
        ([(X, b"k"), (X, b"l")], ConflictingApiKeys),
        ([(X, b"k"), (A, b"ApiKey l")], ConflictingApiKeys),
        ([(X, b"a b"), (A, b"ApiKey c")], ConflictingApiKeys),
        ([(X, b"a b")], InvalidApiKey),
        ([(X, b"a\x7f")], InvalidApiKey),
        ([(X, b"\xc3\xa9")], InvalidApiKey),
        ([(X, b"k" * 513)], InvalidApiKey),
    ],
)
def test_no_key(lines: list[Field], error: type[CredentialError]) -> None:
    with pytest.raises(error):
        read_credential(gather(lines))
