"""All workers' numbers added up, and where each endpoint stands in its schedule and its rollout."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import add

from proxy import __version__
from proxy.policy.manufacturers import UNREGISTERED
from proxy.rules import Rules
from proxy.telemetry import series as names
from proxy.telemetry.block import Block
from proxy.telemetry.series import WORKERS, Labels, Series, Values

_BY_NAME = {series.name: series for series in WORKERS}


class Scrape:
    """The reading side. `now` gives Unix seconds."""

    def __init__(self, blocks: Sequence[Block], rules: Rules, now: Callable[[], float]) -> None:
        self._blocks = blocks
        self.rules = rules
        """What is read and shown is by these."""
        self._now = now

    def apply(self, rules: Rules) -> None:
        """Takes other rules from now on."""
        self.rules = rules

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
        now, rules = self._now(), self.rules
        values: dict[Series, dict[Labels, list[float]]] = defaultdict(dict)
        for endpoint in rules.endpoints:
            key, its = (endpoint.change.name,), endpoint.deprecation
            values[names.ROLLOUT][key] = [endpoint.rollout.percent(now) / 100]
            values[names.BROWNOUT_ACTIVE][key] = [float(its.active(now) is not None)]
            if its.deprecated_at is not None:
                values[names.DEPRECATED_AT][key] = [its.deprecated_at]
            if its.sunset_at is not None:
                values[names.SUNSET_AT][key] = [its.sunset_at]
            if upcoming := its.next(now):
                values[names.NEXT_START][key] = [upcoming.start]
                values[names.NEXT_END][key] = [upcoming.end]
                for caller in (*rules.manufacturers.names, UNREGISTERED):
                    values[names.NEXT_COVERS][*key, caller] = [float(upcoming.reaches(caller))]
        return values
