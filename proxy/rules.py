"""What the settings ask of every call: one frozen value, so that a reload swaps all of it at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from proxy.contract.envelope import ErrorTranslator
from proxy.contract.messages import write_lines
from proxy.contract.version_change import AnyChange, Policies
from proxy.policy.deprecation import Deprecation
from proxy.policy.manufacturers import Manufacturers
from proxy.policy.rollout import Rollout


@dataclass(frozen=True)
class Endpoint:
    """A version change as it is set to work here."""

    change: AnyChange
    policies: Policies
    errors: ErrorTranslator
    deprecation: Deprecation
    rollout: Rollout

    @cached_property
    def has_schedule(self) -> bool:
        """Whether it is ever switched off."""
        return self.deprecation.refuses

    @cached_property
    def refuses_unmapped(self) -> bool:
        """Whether any field that v2 has no room for is refused."""
        return "reject" in self.policies.values()

    @cached_property
    def v2_target(self) -> bytes:
        """Where v2 takes its calls, below its URL."""
        return self.change.v2_path.encode()

    @cached_property
    def announced(self) -> bytes:
        """The header lines of every answer on its paths."""
        return write_lines(self.deprecation.announce())


@dataclass(frozen=True)
class Rules:
    """Each deprecated endpoint, and who calls. A request takes them once, at its start."""

    endpoints: tuple[Endpoint, ...]
    manufacturers: Manufacturers

    @cached_property
    def by_path(self) -> Mapping[bytes, Endpoint]:
        """The endpoints by their v1 paths."""
        return {path: endpoint for endpoint in self.endpoints for path in endpoint.change.v1_paths}
