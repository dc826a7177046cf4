"""The sections of the settings: what stands under each heading of the file, and what contradicts itself there."""

from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from proxy.contract.changes import CHANGES
from proxy.contract.version_change import AnyChange, UnmappedPolicy
from proxy.policy.breaker import BreakerRule
from proxy.policy.deprecation import Brownout, Deprecation
from proxy.policy.rollout import Override, Rollout, Step
from proxy.setting_types import (
    Authority,
    Count,
    Digest,
    Moment,
    Percent,
    Ratio,
    Salt,
    Seconds,
    Share,
    Switch,
    Url,
    WebLink,
)
from proxy.wire.transport import TransportName


class Section(BaseModel):
    """A level of the settings: frozen, and an unknown name is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BreakerSettings(Section):
    """`[upstreams.NAME.breaker]`; times in seconds."""

    failures: Count = 20
    ratio: Ratio = 0.5
    min_requests: Count = 50
    window: Annotated[Seconds, Field(ge=0.1)] = 10.0
    open_for: Annotated[Seconds, Field(le=3_600)] = 5.0

    def rule(self) -> BreakerRule:
        """The policy that these settings ask for."""
        return BreakerRule(self.failures, self.ratio, self.min_requests, self.window, self.open_for)


class UpstreamSettings(Section):
    """`[upstreams.v1]` and `[upstreams.v2]`; times in seconds."""

    url: Url
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 10.0
    max_connections: Count = 512
    keepalive_expiry: Seconds = 15.0
    transport: TransportName = "keepalive"
    ca_file: Authority | None = None
    breaker: BreakerSettings = BreakerSettings()


class V2Settings(UpstreamSettings):
    """`[upstreams.v2]`."""

    url: Url = "https://auth.nox.energy/v2"


class Upstreams(Section):
    """`[upstreams]`. Without `v1` all calls go to v2."""

    v1: UpstreamSettings | None = None
    v2: V2Settings = V2Settings()

    @property
    def each(self) -> tuple[UpstreamSettings, ...]:
        """Those that are set."""
        return (self.v2, self.v1) if self.v1 else (self.v2,)

    @property
    def urls(self) -> dict[str, str]:
        """Of those that are set, by name."""
        return {"v2": self.v2.url, **({"v1": self.v1.url} if self.v1 else {})}


class BrownoutSettings(Section):
    """`[[changes.NAME.deprecation.brownouts]]`."""

    start: Moment
    end: Moment
    percent: Percent = 100.0
    exempt: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end <= self.start:
            raise ValueError("its end is not after its start")
        return self


class DeprecationSettings(Section):
    """`[changes.NAME.deprecation]`."""

    deprecated_at: Moment | None = None
    sunset_at: Moment | None = None
    after_sunset: Literal["serve", "gone"] = "serve"
    documentation: WebLink = "https://docs.nox.energy"
    policy: WebLink | None = None
    brownouts: tuple[BrownoutSettings, ...] = ()

    @model_validator(mode="after")
    def _without_contradiction(self) -> Self:
        if faults := [*self._faults(), *self._overlaps()]:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        if self.deprecated_at is not None and self.sunset_at is not None and self.sunset_at < self.deprecated_at:
            yield "sunset_at is before deprecated_at (RFC 9745, section 4)"
        if self.after_sunset == "gone" and self.sunset_at is None:
            yield 'after_sunset = "gone" needs sunset_at'

    def _overlaps(self) -> Iterator[str]:
        in_order = sorted(enumerate(self.brownouts), key=lambda numbered: numbered[1].start)
        longest = accumulate(in_order, lambda *both: max(both, key=lambda numbered: numbered[1].end))
        for (number, earlier), (next_number, later) in zip(longest, in_order[1:], strict=False):
            if later.start < earlier.end:
                yield "brownouts {} and {} overlap".format(*sorted((number, next_number)))

    def schedule(self, successor: str) -> Deprecation:
        """The policy that these settings ask for; `successor` is the URL of the call in v2."""
        windows = (Brownout(its.start, its.end, its.percent, frozenset(its.exempt)) for its in self.brownouts)
        return Deprecation(
            documentation=self.documentation,
            successor=successor,
            policy=self.policy,
            deprecated_at=self.deprecated_at,
            sunset_at=self.sunset_at,
            gone_after_sunset=self.after_sunset == "gone",
            brownouts=tuple(sorted(windows, key=lambda window: window.start)),
        )


class StepSettings(Section):
    """One of `steps` in `[changes.NAME.rollout]`."""

    at: Moment
    v2_percent: Share


class ShadowSettings(Section):
    """`[changes.NAME.rollout.shadow]`."""

    percent: Share
    accept_side_effects: Switch = False

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        if self.percent and not self.accept_side_effects:
            raise ValueError("accept_side_effects = true is missing: v2 creates users for shadow calls too")
        return self


class RolloutSettings(Section):
    """`[changes.NAME.rollout]`. The default of `salt`, the change's name, is added below."""

    v2_percent: Share = 100.0
    steps: tuple[StepSettings, ...] = ()
    sticky_by: Literal["user", "manufacturer", "none"] = "user"
    salt: Salt = ""
    fallback: Literal["never", "not_sent"] = "never"
    allow_header: Switch = False
    shadow: ShadowSettings | None = None

    @model_validator(mode="after")
    def _without_contradiction(self) -> Self:
        if faults := [*self._faults()]:
            raise ValueError("\n".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        if self.steps and "v2_percent" not in self.model_fields_set:
            yield "steps need v2_percent beside them: it is the share before the first step"
        for number, (one, other) in enumerate(pairwise(self.steps)):
            if other.at == one.at:
                yield f"steps {number} and {number + 1} are at the same time"
            elif other.at < one.at:
                yield f"steps {number} and {number + 1} are out of order: put the earlier first"

    def needs_of_v1(self) -> Iterator[str]:
        """What here takes an upstream v1: a setting and what it says."""
        if self.v2_percent < 100:
            yield "v2_percent: under 100"
        for number, step in enumerate(self.steps):
            if step.v2_percent < 100:
                yield f"steps.{number}.v2_percent: under 100"
        if self.fallback == "not_sent":
            yield 'fallback: "not_sent"'
        if self.allow_header:
            yield "allow_header: true"
        if self.shadow is not None and self.shadow.percent:
            yield "shadow.percent: over 0"

    def plan(self, overrides: Mapping[str, Override]) -> Rollout:
        """The policy that these settings ask for; `overrides` are by manufacturer."""
        return Rollout(
            v2_percent=self.v2_percent,
            steps=tuple(Step(its.at, its.v2_percent) for its in self.steps),
            sticky_by=self.sticky_by,
            salt=self.salt,
            falls_back=self.fallback == "not_sent",
            allow_header=self.allow_header,
            shadow_percent=self.shadow.percent if self.shadow is not None else 0.0,
            overrides=overrides,
        )


class ChangeSettings(Section):
    """`[changes.NAME]`: what every change has. Its unmapped fields are added by their names below."""

    error_codes: dict[str, str] = {}
    deprecation: DeprecationSettings = DeprecationSettings()
    rollout: RolloutSettings = RolloutSettings()


class ManufacturerSettings(Section):
    """`[manufacturers.NAME]`."""

    keys_sha256: tuple[Digest, ...] = ()
    v2_percent: Share | None = None
    allow_header: Switch | None = None

    def needs_of_v1(self) -> Iterator[str]:
        """What here takes an upstream v1: a setting and what it says."""
        if self.v2_percent is not None and self.v2_percent < 100:
            yield "v2_percent: under 100"
        if self.allow_header:
            yield "allow_header: true"

    def override(self) -> Override:
        """What counts for the manufacturer instead of a rollout's."""
        return Override(self.v2_percent, self.allow_header)


def _change_section(change: AnyChange) -> type[ChangeSettings]:
    rollout = create_model("rollout", __base__=RolloutSettings, salt=(Salt, change.name))
    fields: dict[str, Any] = dict.fromkeys(change.unmapped, (UnmappedPolicy, "echo"))
    return create_model(change.name, __base__=ChangeSettings, rollout=(rollout, rollout()), **fields)


def _changes_section() -> type[Section]:
    sections: dict[str, Any] = {}
    for change in CHANGES:
        section = _change_section(change)
        sections[change.name] = (section, section())
    return create_model("Changes", __base__=Section, **sections)


if TYPE_CHECKING:
    Changes = Section
else:
    Changes = _changes_section()  # so that a new change needs no line here
