"""The one record of a request."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Optional

from proxy.policy.credentials import Credential
from proxy.policy.manufacturers import UNAUTHENTICATED, UNREGISTERED

if TYPE_CHECKING:
    from proxy.telemetry.spans import Trace  # OpenTelemetry need not be installed


@dataclass(slots=True)
class Exchange:
    """What one request was and became. `pipeline.py` writes it, the sinks only read it.

    Times are in seconds. No user ID, device ID or body is ever in it.
    """

    request_id: bytes
    trace: Optional["Trace"] = None
    """The request's spans; None where tracing is off."""
    started: float = field(default_factory=perf_counter)
    endpoint: str = "unmatched"
    credential: Credential | None = None
    listed: str | None = None
    """The manufacturer whose list names the key."""
    key_accepted: bool = False
    upstream: str = "none"
    upstream_seconds: float | None = None
    upstream_status: int | None = None
    upstream_failure: str | None = None
    drifted: bool = False
    unmapped: tuple[str, ...] = ()
    status: int = 500
    outcome: str = "crashed"
    """`answered`, or the `error_code` that the caller got."""

    @property
    def manufacturer(self) -> str:
        """The caller's label: nobody outside can add a value."""
        return self.listed or (UNREGISTERED if self.key_accepted else UNAUTHENTICATED)
