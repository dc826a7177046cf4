"""The one record of a request, and of what the shadow found of one."""

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Literal, Optional

import msgspec

from proxy.contract.comparison import Difference
from proxy.contract.errors import Part
from proxy.contract.messages import Field
from proxy.policy.credentials import Credential
from proxy.policy.manufacturers import UNAUTHENTICATED, UNREGISTERED

if TYPE_CHECKING:
    from proxy.telemetry.spans import Trace  # OpenTelemetry need not be installed


class Attempt(msgspec.Struct, gc=False):
    """One call to an upstream. `failure` is why it gave no usable answer, None where it gave one."""

    upstream: str
    seconds: float = 0.0
    status: int | None = None
    failure: str | None = None
    drifted: bool = False
    is_retry: bool = False
    """The connect failed at first, and was tried again."""
    started: float = msgspec.field(default_factory=perf_counter)


class Exchange(msgspec.Struct, gc=False):
    """What one request was and became. `pipeline.py` writes it, the sinks only read it.

    Times are in seconds. No user ID, device ID or body is ever in it.
    """

    request_id: bytes
    trace: Optional["Trace"] = None
    """The request's spans; None where tracing is off."""
    started: float = msgspec.field(default_factory=perf_counter)
    endpoint: str = "unmatched"
    announced: bytes = b""
    """The header lines of the endpoint's every answer."""
    credential: Credential | None = None
    listed: str | None = None
    """The manufacturer whose list names the key."""
    key_accepted: bool = False
    attempts: list[Attempt] = []
    timed_out: Part | None = None
    """What of the request was not whole in time."""
    fallback: str | None = None
    """Why v2 took nothing of the call, where it went on to v1."""
    unmapped: tuple[str, ...] = ()
    upstream: str = "none"
    """Who was asked last."""
    status: int = 500
    outcome: str = "crashed"
    """`answered`, or the `error_code` that the caller got."""

    @property
    def manufacturer(self) -> str:
        """The caller's label: nobody outside can add a value."""
        return self.listed or (UNREGISTERED if self.credential and self.key_accepted else UNAUTHENTICATED)

    def ask(self, upstream: str) -> Iterable[Field] | None:
        """An upstream is asked; returns the header lines that carry the trace on, None where tracing is off."""
        self.upstream = upstream
        self.attempts.append(Attempt(upstream))
        return None if self.trace is None else self.trace.send(upstream)

    def retry(self) -> None:
        """No connection to the upstream was made; one more is tried."""
        self.attempts[-1].is_retry = True

    def answered(self, status: int) -> None:
        """The upstream has answered."""
        attempt = self.attempts[-1]
        attempt.seconds, attempt.status = perf_counter() - attempt.started, status

    def fail(self, reason: str) -> None:
        """The last call to an upstream gave no usable answer, if there was one."""
        if self.attempts:
            attempt = self.attempts[-1]
            attempt.failure = reason
            if attempt.status is None:
                attempt.seconds = perf_counter() - attempt.started


Verdict = Literal["match", "mismatch", "v1_error", "v2_error", "dropped"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The one record of a shadowed call: how v2's answer stands to v1's. No value of either is in it."""

    request_id: bytes
    endpoint: str
    verdict: Verdict
    differences: tuple[Difference, ...] = ()
    reason: str | None = None
    """Of an error, why there was nothing to compare."""
