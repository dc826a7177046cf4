"""What the admin page shows, out of the workers' totals and the rules in force."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from proxy import __version__
from proxy.contract.errors import BreakerOpen
from proxy.page import CallerRow, ConnectionsRow, Overview, RolloutRow, ScheduleRow, Tally, UpstreamRow
from proxy.policy.rollout import Override
from proxy.rules import Endpoint, Rules
from proxy.telemetry import series as names
from proxy.telemetry.scrape import Scrape
from proxy.telemetry.series import Series, Values

Rows = Iterable[tuple[tuple[str, ...], int]]


class Overviews:
    """Makes the Overview of a moment. `upstreams` holds their URLs by name; times in Unix seconds."""

    def __init__(self, scrape: Scrape, upstreams: Mapping[str, str], workers: int, now: Callable[[], float]) -> None:
        self._scrape = scrape
        self._upstreams = upstreams
        self._workers = workers
        self._now = now
        self._started = now()

    def take(self) -> Overview:
        """As things stand."""
        totals, now, rules = self._scrape.totals(), self._now(), self._scrape.rules
        rolls_out = "v1" in self._upstreams
        return Overview(
            version=__version__,
            started=self._started,
            now=now,
            workers=self._workers,
            draining=_number(totals, names.DRAINING),
            ready=self._scrape.is_ready(),
            settings_read=totals[names.RELOAD_AT].get((), [0.0])[0] or None,
            reload_failed=totals[names.RELOAD_OK].get((), [1.0])[0] == 0,
            upstreams=tuple(_upstream(name, url, totals) for name, url in self._upstreams.items()),
            connections=_connections(totals),
            schedules=tuple(_schedule(endpoint, now) for endpoint in rules.endpoints),
            rollouts=tuple(_rollout(endpoint, totals) for endpoint in rules.endpoints) if rolls_out else (),
            callers=_callers(totals, rules),
        )


def _upstream(name: str, url: str, totals: Values) -> UpstreamRow:
    failures = _tallies(_counts(totals, names.FAILURES)).get(name, ())
    asked_in_vain = sum(n for reason, n in failures if reason != BreakerOpen.reason)
    calls = sum(sum(cells[:-1]) for labels, cells in totals[names.UPSTREAM_DURATIONS].items() if labels[0] == name)
    open_now = {labels[1]: n for labels, n in _counts(totals, names.CONNECTIONS) if labels[0] == name}
    last_answer = totals[names.LAST_ANSWER].get((name,), [0.0])[0]
    last_failure = totals[names.LAST_FAILURE].get((name,), [0.0])[0]
    return UpstreamRow(
        name=name,
        url=url,
        health="failing" if last_failure > last_answer else "answering" if last_answer else "untried",
        answered=int(calls) - asked_in_vain,
        failures=failures,
        last_answer=last_answer or None,
        last_failure=last_failure or None,
        active=open_now.get("active"),
        idle=open_now.get("idle"),
        limit=_number(totals, names.UPSTREAM_LIMIT, name),
        retries=_number(totals, names.RETRIES, name),
        breakers_open=_number(totals, names.BREAKER_OPEN, name),
    )


def _connections(totals: Values) -> ConnectionsRow:
    timeouts = Counter({kind: n for (kind,), n in _counts(totals, names.TIMEOUTS) if n})
    return ConnectionsRow(
        open=_number(totals, names.CALLERS),
        limit=_number(totals, names.CALLERS_LIMIT),
        refused=_number(totals, names.REFUSED),
        timeouts=tuple(timeouts.most_common()),
    )


def _schedule(endpoint: Endpoint, now: float) -> ScheduleRow:
    change, its = endpoint.change, endpoint.deprecation
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


def _rollout(endpoint: Endpoint, totals: Values) -> RolloutRow:
    name = endpoint.change.name
    answered = Counter[str]()
    for (called, _, upstream, _), n in _counts(totals, names.REQUESTS):
        answered[upstream] += n if called == name else 0
    return RolloutRow(
        endpoint=name,
        rollout=endpoint.rollout,
        v1=answered["v1"],
        v2=answered["v2"],
        fallbacks=_tallies(_counts(totals, names.FALLBACKS)).get(name, ()),
        verdicts=_tallies(_counts(totals, names.SHADOW)).get(name, ()),
        mismatches=_tallies(_counts(totals, names.SHADOW_MISMATCHES)).get(name, ()),
    )


def _callers(totals: Values, rules: Rules) -> tuple[CallerRow, ...]:
    """Every listed manufacturer, and who else called an endpoint or v2 itself."""
    seen: dict[str, float] = {}
    for (_, manufacturer), (at,) in totals[names.LAST_SEEN].items():
        seen[manufacturer] = max(at, seen.get(manufacturer, 0.0))
    schemes = _tallies(_counts(totals, names.SCHEMES))
    unmapped = _tallies((labels[1:], n) for labels, n in _counts(totals, names.UNMAPPED))
    listed, overrides = rules.manufacturers.names, _overrides(rules)
    return tuple(
        CallerRow(
            manufacturer=name,
            listed=name in listed,
            calls=calls["calls"],
            errors=calls["errors"],
            v1=calls["v1"],
            v2=calls["v2"],
            direct=calls["direct"],
            override=overrides.get(name),
            last_seen=seen.get(name),
            schemes=schemes.get(name, ()),
            unmapped=unmapped.get(name, ()),
        )
        for name, calls in _calls(totals, listed).items()
    )


def _calls(totals: Values, listed: Iterable[str]) -> dict[str, Counter[str]]:
    """Each caller's v1 calls: all, by upstream, and the errors among them; beside them the calls of v2 itself."""
    calls: dict[str, Counter[str]] = defaultdict(Counter, {name: Counter[str]() for name in listed})
    for (endpoint, manufacturer, upstream, status), n in _counts(totals, names.REQUESTS):
        if endpoint == "unmatched" or not n:  # a manufacturer that a reload took out has its 0 still
            continue
        its = calls[manufacturer]
        if endpoint == "passthrough_v2":
            its["direct"] += n
            continue
        its["calls"] += n
        its[upstream] += n
        its["errors"] += n if int(status) >= 400 and status != "410" else 0  # a 410 is meant
    return calls


def _overrides(rules: Rules) -> Mapping[str, Override]:
    """The manufacturers' own settings, which are the same for every endpoint."""
    return rules.endpoints[0].rollout.overrides if rules.endpoints else {}


def _number(totals: Values, series: Series, *labels: str) -> int:
    return int(totals[series].get(labels, [0.0])[0])


def _counts(totals: Values, series: Series) -> Rows:
    return ((labels, int(cells[0])) for labels, cells in totals[series].items())


def _tallies(rows: Rows) -> dict[str, Tally]:
    """Counts by two labels: for each of the first those of the second, the greatest first."""
    sums: dict[str, Counter[str]] = {}
    for (first, second), n in rows:
        sums.setdefault(first, Counter())[second] += n
    return {first: tuple(counts.most_common()) for first, counts in sums.items()}
