"""Whether an upstream is asked at all. Times are seconds on any clock that only goes forward.

closed ── failures in a row, or their ratio ──> open ── `open_for` ──> half open: one trial at a time
   ^                                              ^                        │
   └────────────── the trial succeeds ────────────┼────────────────────────┤
                                                  └────── it fails ────────┘
"""

import math
from typing import Literal

import msgspec

from proxy.contract.errors import BreakerOpen
from proxy.policy.window import Window

Verdict = Literal["succeeded", "failed", "unknown"]
"""What became of a call. `unknown`: nothing that says how the upstream is."""


class BreakerRule(msgspec.Struct, frozen=True):
    """When a breaker opens and for how long. Times in seconds."""

    failures: int = 20
    """In a row."""
    ratio: float = 0.5
    """Of failures, 0 to 1, among at least `min_requests` in the `window`."""
    min_requests: int = 50
    window: float = 10.0
    open_for: float = 5.0


class Breaker:
    """Of one upstream. A call is admitted, and its verdict told afterwards with what it was admitted by."""

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self._recent = Window(rule.window)
        self._in_a_row = 0
        self._era = 0  # between two turns of the breaker; what was admitted in an earlier one counts no more
        self._opens_until: float | None = None
        self._has_trial = False

    @property
    def is_open(self) -> bool:
        """Half open too."""
        return self._opens_until is not None

    def admit(self, now: float) -> int:
        """What the verdict is to be told with. Raises BreakerOpen, with the seconds until it is worth another try."""
        if self._opens_until is not None:
            if self._has_trial or now < self._opens_until:
                raise BreakerOpen(max(1, math.ceil(round(self._opens_until - now, 3))))
            self._has_trial = True
        return self._era

    def tell(self, admitted: int, verdict: Verdict, now: float) -> bool:
        """A call is over. Returns whether the breaker has opened or closed with it."""
        if admitted != self._era:
            return False
        was_open = self._opens_until is not None
        if was_open:
            self._judge_trial(verdict, now)
        elif verdict == "succeeded":
            self._in_a_row = 0
            self._recent.add(now)
        elif verdict == "failed":
            self._in_a_row += 1
            self._recent.count(now, calls=1, marked=1)
            if self._in_a_row >= self._rule.failures or self._fails_too_often():
                self._turn(now + self._rule.open_for)
        return was_open is (self._opens_until is None)

    def _fails_too_often(self) -> bool:
        recent = self._recent
        return recent.calls >= self._rule.min_requests and recent.marked >= self._rule.ratio * recent.calls

    def _judge_trial(self, verdict: Verdict, now: float) -> None:
        if verdict == "unknown":
            self._has_trial = False
        else:
            self._turn(None if verdict == "succeeded" else now + self._rule.open_for)

    def _turn(self, opens_until: float | None) -> None:
        self._era += 1
        self._opens_until = opens_until
        self._has_trial = False
        self._in_a_row = 0
        self._recent.clear()
