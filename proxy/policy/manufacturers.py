"""Which manufacturer a key belongs to. Nobody outside can add a name."""

from collections.abc import Iterable, Mapping

UNREGISTERED = "unregistered"
"""A key that v2 accepted and no list names."""
UNAUTHENTICATED = "unauthenticated"
"""A key that v2 refused or did not judge, or no key at all."""


class Manufacturers:
    """The settings' `manufacturers` table, by key digest."""

    def __init__(self, digests: Mapping[str, Iterable[str]]) -> None:
        self._names = {digest.lower(): name for name, listed in digests.items() for digest in listed}

    def name(self, digest: str | None, *, accepted: bool) -> str:
        """The label of a caller: `digest` is its key's SHA-256 in hex, `accepted` whether v2 took the key."""
        listed = self._names.get(digest) if digest else None
        return listed or (UNREGISTERED if accepted else UNAUTHENTICATED)
