"""Which manufacturer a key belongs to."""

from collections.abc import Iterable, Mapping

UNREGISTERED = "unregistered"
"""A key that v2 accepted and no list names; or one that the schedule refused before v2 could judge it."""
UNAUTHENTICATED = "unauthenticated"
"""A key that v2 refused or did not judge, or no key at all."""


class Manufacturers:
    """The settings' `manufacturers` table, by key digest."""

    def __init__(self, digests: Mapping[str, Iterable[str]]) -> None:
        self.names = tuple(digests)
        """Of all that are listed."""
        self._names = {digest: name for name, listed in digests.items() for digest in listed}

    def listed(self, digest: str) -> str | None:
        """The manufacturer whose list names the key; `digest` is its SHA-256 in hex.

        How long it takes tells nothing of a listed key: a caller cannot steer a digest towards a listed one, and from
        a part of a digest no key follows. Nor is anything granted here: whether a key counts is the upstream's to say.
        """
        return self._names.get(digest)
