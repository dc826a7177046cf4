"""All workers' numbers added up, and where each endpoint stands in its schedule."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import add

from proxy import __version__
from proxy.policy.deprecation import Deprecation
from proxy.policy.manufacturers import UNREGISTERED
from proxy.telemetry import series as names
from proxy.telemetry.block import Block
from proxy.telemetry.series import WORKERS, Labels, Series, Values

_BY_NAME = {series.name: series for series in WORKERS}


class Scrape:
    """The reading side. `schedules` are by endpoint, `callers` the listed manufacturers; `now` gives Unix seconds."""

    def __init__(
        self,
        blocks: Sequence[Block],
        schedules: Mapping[str, Deprecation],
        callers: Sequence[str],
        now: Callable[[], float],
    ) -> None:
        self._blocks = blocks
        self._schedules = schedules
        self._callers = (*callers, UNREGISTERED)
        self._now = now

    def is_ready(self) -> bool:
        """Whether a worker takes requests."""
        return any(block.value((names.READY.name, ())) for block in self._blocks)

    def values(self) -> Values:
        """Every series, as Prometheus is to have them."""
        return {**self.totals(), **self._scheduled(), names.BUILD: {(__version__,): [1.0]}}

    def totals(self) -> Values:
        """What the workers' blocks come to."""
        totals: dict[Series, dict[Labels, list[float]]] = {series: {} for series in WORKERS}
        for block in self._blocks:
            for (name, labels), cells in block.values():
                series = _BY_NAME[name]
                mine = totals[series]
                merge = max if series.kind == "latest" else add
                mine[labels] = list(map(merge, mine[labels], cells)) if labels in mine else cells
        return totals

    def _scheduled(self) -> Values:
        now = self._now()
        values: dict[Series, dict[Labels, list[float]]] = defaultdict(dict)
        for endpoint, its in self._schedules.items():
            key = (endpoint,)
            values[names.BROWNOUT_ACTIVE][key] = [float(its.active(now) is not None)]
            if its.deprecated_at is not None:
                values[names.DEPRECATED_AT][key] = [its.deprecated_at]
            if its.sunset_at is not None:
                values[names.SUNSET_AT][key] = [its.sunset_at]
            if upcoming := its.next(now):
                values[names.NEXT_START][key] = [upcoming.start]
                values[names.NEXT_END][key] = [upcoming.end]
                for caller in self._callers:
                    values[names.NEXT_COVERS][endpoint, caller] = [float(upcoming.reaches(caller))]
        return values
