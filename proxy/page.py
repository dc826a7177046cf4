"""The admin port's page: an Overview of the proxy, rendered as one HTML document that loads nothing else.

`page.html` holds its words, `page.css` its looks and `page.js` its refreshing; the last two stand inline in the
document, and the Content-Security-Policy names them by their SHA-256. Time is an argument.
"""

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from proxy.policy.deprecation import Brownout
from proxy.policy.manufacturers import UNAUTHENTICATED, UNREGISTERED
from proxy.policy.rollout import Override, Rollout

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).parent
_STYLE = (_HERE / "page.css").read_text("utf-8")
_SCRIPT = (_HERE / "page.js").read_text("utf-8")

Tally = tuple[tuple[str, int], ...]
"""Counts by what was counted, the greatest first."""

_NOTES = {UNREGISTERED: "keys that no list names", UNAUTHENTICATED: "no key, or a refused one"}


def _hash_source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash_source(_STYLE)}",
        f"script-src {_hash_source(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",  # the tab's icon, which browsers would else ask /favicon.ico for
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""All headers of the page's answer."""


@dataclass(frozen=True, slots=True)
class UpstreamRow:
    """One upstream.

    `answered` counts usable answers, `failures` the others by reason, `retries` connects that were tried again;
    `active` and `idle` are its connections, None where its transport does not say, `limit` is how many there may be.
    `breakers_open` is in how many workers the breaker is not closed.
    """

    name: str
    url: str
    health: Literal["untried", "answering", "failing"]
    answered: int
    failures: Tally
    last_answer: float | None
    last_failure: float | None
    active: int | None
    idle: int | None
    limit: int
    retries: int
    breakers_open: int


@dataclass(frozen=True, slots=True)
class ConnectionsRow:
    """Callers' connections: `open` now and `limit` at most; `refused` are those beyond it since the start.

    `timeouts` are requests that were not whole in time, by what was not.
    """

    open: int
    limit: int
    refused: int
    timeouts: Tally


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One deprecated endpoint. `active` is the brownout that runs now, `next` the first that has not begun."""

    endpoint: str
    v1_path: str
    v2_path: str
    deprecated_at: float | None
    sunset_at: float | None
    after_sunset: str
    active: Brownout | None
    next: Brownout | None

    def phase(self, now: float) -> str:
        """Where it stands, in a word or two."""
        if self.sunset_at is not None and self.sunset_at <= now:
            return "past sunset"
        if self.active is not None:
            return "brownout"
        if self.deprecated_at is not None and self.deprecated_at <= now:
            return "deprecated"
        return "not yet deprecated" if self.deprecated_at is not None else "no date set"


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One endpoint's way from v1 to v2: what is set, and what was counted since the start.

    `v1` and `v2` are the calls that each of them answered.
    """

    endpoint: str
    rollout: Rollout
    v1: int
    v2: int
    fallbacks: Tally
    verdicts: Tally
    mismatches: Tally

    def phase(self, now: float) -> str:
        """How far it is, in a word or two."""
        percent = self.rollout.percent(now)
        return "canary" if 0 < percent < 100 else "all to v2" if percent else "all to v1"

    @property
    def shadow(self) -> str:
        """What the shadow found, in a word or two."""
        if not self.rollout.shadow_percent:
            return "off"
        if self.mismatches:
            return "differing"
        return "matching" if dict(self.verdicts).get("match") else "nothing compared"


@dataclass(frozen=True, slots=True)
class CallerRow:
    """One manufacturer, or one of the two names for keys that no list names.

    Counts are since the start. `calls` are v1 calls, `errors` their answers of status 400 and above, but for the
    schedule's 410; `direct` are calls of v2 itself. `v1` and `v2` say who answered the v1 calls.
    """

    manufacturer: str
    listed: bool
    calls: int
    errors: int
    v1: int
    v2: int
    direct: int
    override: Override | None
    last_seen: float | None
    schemes: Tally
    unmapped: Tally

    @property
    def upstreams(self) -> Tally:
        """Who answered."""
        answered = {"v1": self.v1, "v2": self.v2, "v2 direct": self.direct}
        return tuple((upstream, n) for upstream, n in answered.items() if n)

    @property
    def note(self) -> str | None:
        """What the name means, where it is not a manufacturer's in the settings."""
        return None if self.listed else _NOTES.get(self.manufacturer, "no longer in the settings")


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the page shows. Times are Unix seconds. Of the `workers`, `draining` are about to end.

    `settings_read` is when the settings in force were read, None where nobody tells; `reload_failed` says that what
    was read after them was not taken. `rollouts` is empty where there is no v1 to roll out from.
    """

    version: str
    started: float
    now: float
    workers: int
    draining: int
    ready: bool
    settings_read: float | None
    reload_failed: bool
    upstreams: tuple[UpstreamRow, ...]
    connections: ConnectionsRow
    schedules: tuple[ScheduleRow, ...]
    rollouts: tuple[RolloutRow, ...]
    callers: tuple[CallerRow, ...]

    @property
    def ranked(self) -> list[CallerRow]:
        """The callers, busiest first."""
        return sorted(self.callers, key=lambda row: (-row.calls, row.manufacturer))

    @property
    def listed(self) -> list[CallerRow]:
        """The manufacturers that the settings name."""
        return [row for row in self.callers if row.listed]

    @property
    def sunset(self) -> float | None:
        """The sunset that comes first, else the last that passed."""
        dates = [row.sunset_at for row in self.schedules if row.sunset_at is not None]
        return min(dates, key=lambda at: (at <= self.now, abs(at - self.now)), default=None)


def render(overview: Overview) -> bytes:
    """The page."""
    return _template().render(page=overview, now=overview.now).encode()


def span(seconds: float) -> str:
    """A length of time in its largest unit of which there are two, rounded down."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size):,} {unit}"
    return f"{max(int(seconds), 0)} s"


def relative(at: float, now: float) -> str:
    """A moment as seen from now."""
    if abs(at - now) < 1:
        return "now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def share(part: int, whole: int) -> str:
    """A part in percent; only nothing is 0 and only all is 100."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def iso(at: float) -> str:
    """A moment as HTML's `datetime` takes it."""
    return f"{_utc(at):%Y-%m-%dT%H:%M:%SZ}"


def exact(at: float) -> str:
    """A moment to the second."""
    return f"{_utc(at):%Y-%m-%d %H:%M:%S} UTC"


def day(at: float) -> str:
    """A moment's day."""
    return f"{_utc(at).day} {_utc(at):%b %Y}"


def minute(at: float) -> str:
    """A moment to the minute."""
    return f"{day(at)}, {_utc(at):%H:%M} UTC"


def window(its: Brownout) -> str:
    """From when until when."""
    start, end = _utc(its.start), _utc(its.end)
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{day(its.end)}, {end:%H:%M}"
    return f"{day(its.start)}, {start:%H:%M} to {until} UTC"


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


@cache
def _template() -> "Template":
    """Made at the first look: it takes longer than all the rest of a start's own work."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"span": span, "relative": relative, "iso": iso, "exact": exact, "day": day, "minute": minute}
    environment.filters |= {
        **filters,
        "window": window,
        "share": share,
        "count": "{:,}".format,
        "percent": "{:g} %".format,
    }
    environment.globals |= {"style": _STYLE, "script": _SCRIPT}
    return environment.get_template("page.html")
