"""Which upstream answers a call: by a share that stands still or grows by the clock, or by the caller's own choice.

All times are Unix seconds, and the moment asked about is an argument: all replicas that are set alike choose alike.
"""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Literal

import msgspec

from proxy.contract.errors import InvalidRequest
from proxy.policy import sticky

UpstreamName = Literal["v1", "v2"]

_CHOICES: Mapping[bytes, UpstreamName] = {b"v1": "v1", b"v2": "v2"}


class Step(msgspec.Struct, frozen=True):
    """From `at` on, `v2_percent` is the share."""

    at: float
    v2_percent: float


class Override(msgspec.Struct, frozen=True):
    """What counts for one manufacturer instead; None leaves it as it is for all."""

    v2_percent: float | None = None
    allow_header: bool | None = None


class Rollout(msgspec.Struct, frozen=True):
    """How an endpoint's calls are shared out.

    A unit is whatever stays together: a user, a manufacturer, or one call. It goes to v2 where its place lies below the
    share, so a share that grows never moves one back to v1.
    """

    v2_percent: float = 100.0
    """Before the first step."""
    steps: tuple[Step, ...] = ()
    """In order."""
    sticky_by: Literal["user", "manufacturer", "none"] = "user"
    salt: str = ""
    falls_back: bool = False
    allow_header: bool = False
    shadow_percent: float = 0.0
    overrides: Mapping[str, Override] = {}
    """By manufacturer."""

    def percent(self, now: float) -> float:
        """The share of v2 that is set now, for whom no override counts."""
        begun = self._begun(now)
        return self.steps[begun - 1].v2_percent if begun else self.v2_percent

    def begun(self, now: float) -> tuple[Step, ...]:
        """The steps that were taken; the last one counts."""
        return self.steps[: self._begun(now)]

    def to_come(self, now: float) -> tuple[Step, ...]:
        """The steps that were not taken yet."""
        return self.steps[self._begun(now) :]

    def percent_of(self, manufacturer: str | None, now: float) -> float:
        """The share that counts for a manufacturer. Its override wins over the steps too."""
        its = self._override(manufacturer).v2_percent
        return self.percent(now) if its is None else its

    def choose(self, manufacturer: str | None, unit: str, now: float) -> UpstreamName:
        """The upstream of a call whose caller forces none."""
        return "v2" if _takes(self.percent_of(manufacturer, now), unit, self.salt) else "v1"

    def forced(self, manufacturer: str | None, asked: tuple[bytes, ...]) -> UpstreamName | None:
        """The choice that the values of NOX-Upstream make; None where there are none, or they do not count.

        Raises InvalidRequest where they count and make none.
        """
        allowed = self._override(manufacturer).allow_header
        if not asked or not (self.allow_header if allowed is None else allowed):
            return None
        choice = _CHOICES.get(asked[0])
        if choice is None or len({*asked}) > 1:
            raise InvalidRequest("NOX-Upstream must be v1 or v2")
        return choice

    def shadows(self, unit: str) -> bool:
        """Whether a unit's calls, where v1 answers them, go to v2 too."""
        # A salt of its own: by the rollout's, those that v1 keeps longest would be shadowed last.
        return _takes(self.shadow_percent, unit, f"shadow of {self.salt}")

    def _begun(self, now: float) -> int:
        """How many steps count already."""
        return bisect_right(self.steps, now, key=lambda step: step.at)

    def _override(self, manufacturer: str | None) -> Override:
        return _NONE if manufacturer is None else self.overrides.get(manufacturer, _NONE)


_NONE = Override()


def _takes(percent: float, unit: str, salt: str) -> bool:
    """Whether a share takes a unit; where it takes all or none, no hash is needed."""
    return percent >= 100 or (percent > 0 and sticky.place(unit, salt) < percent)
