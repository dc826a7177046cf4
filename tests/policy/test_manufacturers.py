"""Who a key belongs to; nobody outside can add a name."""

import pytest

from proxy.policy.manufacturers import Manufacturers

KNOWN = Manufacturers({"acme": ["aa" * 32, "BB" * 32], "zenith": ["cc" * 32]})


@pytest.mark.parametrize(
    ("digest", "accepted", "name"),
    [
        ("aa" * 32, True, "acme"),
        ("bb" * 32, True, "acme"),
        ("cc" * 32, False, "zenith"),
        ("dd" * 32, True, "unregistered"),
        ("dd" * 32, False, "unauthenticated"),
        (None, False, "unauthenticated"),
    ],
)
def test_name(digest: str | None, accepted: bool, name: str) -> None:
    assert KNOWN.name(digest, accepted=accepted) == name
