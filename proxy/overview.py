"""What the admin page shows, out of the workers' totals and the schedules."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from proxy import __version__
from proxy.contract.version_change import AnyChange
from proxy.page import CallerRow, Overview, ScheduleRow, UpstreamRow
from proxy.policy.deprecation import Deprecation
from proxy.telemetry import series as names
from proxy.telemetry.scrape import Scrape
from proxy.telemetry.series import Series, Values

Rows = Iterable[tuple[tuple[str, ...], int]]
Tally = tuple[tuple[str, int], ...]


class Overviews:
    """Makes the Overview of a moment. `upstreams` holds their URLs by name; times in Unix seconds."""

    def __init__(
        self,
        scrape: Scrape,
        upstreams: Mapping[str, str],
        schedules: Sequence[tuple[AnyChange, Deprecation]],
        manufacturers: Iterable[str],
        workers: int,
        now: Callable[[], float],
    ) -> None:
        self._scrape = scrape
        self._upstreams = upstreams
        self._schedules = schedules
        self._manufacturers = manufacturers
        self._workers = workers
        self._now = now
        self._started = now()

    def take(self) -> Overview:
        """As things stand."""
        totals, now = self._scrape.totals(), self._now()
        return Overview(
            version=__version__,
            started=self._started,
            now=now,
            workers=self._workers,
            ready=self._scrape.is_ready(),
            upstreams=tuple(_upstream(name, url, totals) for name, url in self._upstreams.items()),
            schedules=tuple(_schedule(change, its, now) for change, its in self._schedules),
            callers=_callers(totals, self._manufacturers),
        )


def _upstream(name: str, url: str, totals: Values) -> UpstreamRow:
    failures = _tallies(_counts(totals, names.FAILURES)).get(name, ())
    calls = sum(sum(cells[:-1]) for labels, cells in totals[names.UPSTREAM_DURATIONS].items() if labels[0] == name)
    open_now = {labels[1]: n for labels, n in _counts(totals, names.CONNECTIONS) if labels[0] == name}
    last_answer = totals[names.LAST_ANSWER].get((name,), [0.0])[0]
    last_failure = totals[names.LAST_FAILURE].get((name,), [0.0])[0]
    return UpstreamRow(
        name=name,
        url=url,
        health="failing" if last_failure > last_answer else "answering" if last_answer else "untried",
        answered=int(calls) - sum(n for _, n in failures),
        failures=failures,
        last_answer=last_answer or None,
        last_failure=last_failure or None,
        active=open_now.get("active"),
        idle=open_now.get("idle"),
    )


def _schedule(change: AnyChange, its: Deprecation, now: float) -> ScheduleRow:
    return ScheduleRow(
        endpoint=change.name,
        v1_path=change.v1_path,
        v2_path=change.v2_path,
        deprecated_at=its.deprecated_at,
        sunset_at=its.sunset_at,
        after_sunset="gone" if its.gone_after_sunset else "serve",
        active=its.active(now),
        next=its.next(now),
    )


def _callers(totals: Values, listed: Iterable[str]) -> tuple[CallerRow, ...]:
    """Every listed manufacturer, and who else called an endpoint."""
    calls, errors = dict.fromkeys(listed, 0), Counter[str]()
    for (endpoint, manufacturer, _, status), n in _counts(totals, names.REQUESTS):
        if endpoint != "unmatched":
            calls[manufacturer] = calls.get(manufacturer, 0) + n
            errors[manufacturer] += n if int(status) >= 400 and status != "410" else 0  # a 410 is meant
    seen: dict[str, float] = {}
    for (_, manufacturer), (at,) in totals[names.LAST_SEEN].items():
        seen[manufacturer] = max(at, seen.get(manufacturer, 0.0))
    schemes = _tallies(_counts(totals, names.SCHEMES))
    unmapped = _tallies((labels[1:], n) for labels, n in _counts(totals, names.UNMAPPED))
    return tuple(
        CallerRow(
            manufacturer=name,
            calls=n,
            errors=errors[name],
            last_seen=seen.get(name),
            schemes=schemes.get(name, ()),
            unmapped=unmapped.get(name, ()),
        )
        for name, n in calls.items()
    )


def _counts(totals: Values, series: Series) -> Rows:
    return ((labels, int(cells[0])) for labels, cells in totals[series].items())


def _tallies(rows: Rows) -> dict[str, Tally]:
    """Counts by two labels: for each of the first those of the second, the greatest first."""
    sums: dict[str, Counter[str]] = {}
    for (first, second), n in rows:
        sums.setdefault(first, Counter())[second] += n
    return {first: tuple(counts.most_common()) for first, counts in sums.items()}
