"""The sections of the settings: what stands under each heading of the file, and what contradicts itself there."""

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, create_model, model_validator

from proxy.contract.changes import CHANGES
from proxy.contract.version_change import AnyChange, UnmappedPolicy
from proxy.policy.deprecation import Brownout, Deprecation
from proxy.setting_types import Authority, Count, Digest, Moment, Percent, Seconds, Url, WebLink
from proxy.wire.transport import TransportName


class Section(BaseModel):
    """A level of the settings: frozen, and an unknown name is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UpstreamSettings(Section):
    """`[upstreams.v2]`; times in seconds."""

    url: Url = "https://auth.nox.energy/v2"
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 10.0
    max_connections: Count = 512
    keepalive_expiry: Seconds = 15.0
    transport: TransportName = "keepalive"
    ca_file: Authority | None = None


class Upstreams(Section):
    """`[upstreams]`."""

    v2: UpstreamSettings = UpstreamSettings()


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


class ChangeSettings(Section):
    """`[changes.NAME]`: what every change has. Its unmapped fields are added by their names below."""

    error_codes: dict[str, str] = {}
    deprecation: DeprecationSettings = DeprecationSettings()


class ManufacturerSettings(Section):
    """`[manufacturers.NAME]`."""

    keys_sha256: tuple[Digest, ...] = ()


def _change_section(change: AnyChange) -> type[ChangeSettings]:
    policies: dict[str, Any] = dict.fromkeys(change.unmapped, (UnmappedPolicy, "echo"))
    return create_model(change.name, __base__=ChangeSettings, **policies)


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
