"""A deprecated endpoint's end: what its answers announce, and when they are 410 instead.

All times are Unix seconds, and the moment asked about is an argument.
"""

import math
from bisect import bisect_right
from email.utils import formatdate

import msgspec

from proxy.contract.errors import EndpointBrownout, EndpointSunset
from proxy.contract.messages import Field
from proxy.policy import sticky
from proxy.policy.manufacturers import UNREGISTERED


class Brownout(msgspec.Struct, frozen=True):
    """A window in which `percent` of the callers get 410, but for the exempt. `end` is no longer in it."""

    start: float
    end: float
    percent: float = 100.0
    exempt: frozenset[str] = frozenset()

    def covers(self, caller: str, unit: str) -> bool:
        """Whether a caller is hit. `caller` is its name on the metrics, `unit` what it is told from others by.

        The same units are hit in every window, and more of them as the percentage grows.
        """
        return caller not in self.exempt and sticky.place(unit) < self.percent

    def reaches(self, caller: str) -> bool:
        """Whether anyone of that name is hit: `unregistered` is the name of many."""
        if caller == UNREGISTERED:
            return caller not in self.exempt and self.percent > 0
        return self.covers(caller, caller)


class Deprecation(msgspec.Struct, frozen=True):
    """An endpoint's schedule. `brownouts` are in order and do not overlap."""

    documentation: str
    successor: str
    """The URL of the call that takes its place."""
    policy: str | None = None
    deprecated_at: float | None = None
    sunset_at: float | None = None
    gone_after_sunset: bool = False
    brownouts: tuple[Brownout, ...] = ()

    def announce(self) -> tuple[Field, ...]:
        """The header lines of every answer: Deprecation (RFC 9745), Sunset and its Link (RFC 8594)."""
        lines: list[Field] = []
        if self.deprecated_at is not None:
            lines.append((b"deprecation", b"@%d" % math.floor(self.deprecated_at)))
        if self.sunset_at is not None:
            lines.append((b"sunset", http_date(self.sunset_at).encode()))
        lines.append((b"link", ", ".join(self._links()).encode()))
        return tuple(lines)

    @property
    def refuses(self) -> bool:
        """Whether there is anything for which `admit` may refuse."""
        return self.gone_after_sunset or bool(self.brownouts)

    def admit(self, caller: str, unit: str, now: float) -> None:
        """Raises EndpointSunset or EndpointBrownout (admission 8)."""
        if self.gone_after_sunset and self.sunset_at is not None and now >= self.sunset_at:
            raise EndpointSunset
        window = self.active(now)
        if window is not None and window.covers(caller, unit):
            raise EndpointBrownout(math.ceil(window.end - now))

    def active(self, now: float) -> Brownout | None:
        """The brownout that runs."""
        begun = self._begun(now)
        return self.brownouts[begun - 1] if begun and now < self.brownouts[begun - 1].end else None

    def next(self, now: float) -> Brownout | None:
        """The first brownout that has not begun."""
        begun = self._begun(now)
        return self.brownouts[begun] if begun < len(self.brownouts) else None

    def _begun(self, now: float) -> int:
        """How many brownouts have begun."""
        return bisect_right(self.brownouts, now, key=lambda window: window.start)

    def _links(self) -> list[str]:
        links = [f'<{self.documentation}>; rel="deprecation"; type="text/html"']
        links.append(f'<{self.successor}>; rel="successor-version"')
        if self.policy is not None:
            links.append(f'<{self.policy}>; rel="sunset"')
        return links


def http_date(seconds: float) -> str:
    """An IMF-fixdate in GMT (RFC 9110, section 5.6.7)."""
    return formatdate(math.floor(seconds), usegmt=True)
