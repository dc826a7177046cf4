"""Whose key it is."""

import pytest

from proxy.policy.credentials import digest
from proxy.policy.manufacturers import Manufacturers

KNOWN = Manufacturers({"acme": [digest(b"a1"), digest(b"a2")], "bolt": [digest(b"b")], "idle": []})


@pytest.mark.parametrize(("key", "name"), [(b"a1", "acme"), (b"a2", "acme"), (b"b", "bolt"), (b"x", None), (b"", None)])
def test_whose_key_it_is(key: bytes, name: str | None) -> None:
    assert KNOWN.listed(digest(key)) == name
