"""How often a connect that failed may be tried again. Times are seconds on any clock that only goes forward."""

from proxy.policy.window import Window

SHARE = 10
"""Of so many calls one may be tried again: a dying upstream is not to get a storm."""
SECONDS = 10.0
"""The calls of this time count."""


class RetryBudget:
    """Of an upstream. It begins empty, so the first calls of a quiet time are not tried again."""

    def __init__(self) -> None:
        self._recent = Window(SECONDS)
        self.call = self._recent.add
        """A call was made, at the moment given."""

    def left(self, now: float) -> int:
        """How many may be tried again now."""
        self._recent.count(now)
        return max(0, self._recent.calls // SHARE - self._recent.marked)

    def take(self, now: float) -> bool:
        """Whether one may be; it is counted then."""
        if not self.left(now):
            return False
        self._recent.count(now, marked=1)
        return True
