"""A sample of the admin port's page on a server of its own, and its picture for the README.

`python -m tests.screenshot` writes `grafana/admin-page.png`.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from proxy.page import HEADERS, CallerRow, ConnectionsRow, Overview, RolloutRow, ScheduleRow, UpstreamRow, render
from proxy.policy.deprecation import Brownout
from proxy.policy.manufacturers import UNAUTHENTICATED, UNREGISTERED
from proxy.policy.rollout import Override, Rollout, Step
from tests.processes import ROOT

PICTURE = ROOT / "grafana/admin-page.png"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-lcd-text",  # grey edges make a smaller picture
]


def at(text: str) -> float:
    """A moment, in UTC."""
    return datetime.fromisoformat(text + "+00:00").timestamp()


NOW = at("2026-11-23T09:30:00")
HOUR, DAY = 3_600, 86_400

V2 = UpstreamRow(
    name="v2",
    url="https://auth.nox.energy/v2",
    health="answering",
    answered=9_111,
    failures=(("http_response_timeout", 3), ("connection_refused", 4)),
    last_answer=NOW - 2,
    last_failure=NOW - 5 * HOUR,
    active=3,
    idle=9,
    limit=1_024,
    retries=2,
    breakers_open=0,
)
V1 = UpstreamRow(
    name="v1",
    url="https://legacy.auth.example",
    health="answering",
    answered=173_430,
    failures=(),
    last_answer=NOW - 1,
    last_failure=None,
    active=5,
    idle=11,
    limit=1_024,
    retries=0,
    breakers_open=0,
)
CONNECT = ScheduleRow(
    endpoint="connect_nox_user",
    v1_path="/manufacturers/nox",
    v2_path="/manufacturer/device-connections",
    deprecated_at=at("2026-01-01T00:00:00"),
    sunset_at=at("2027-06-30T23:59:59"),
    after_sunset="gone",
    active=None,
    next=Brownout(at("2027-03-01T07:00:00"), at("2027-03-01T10:00:00"), 100, frozenset(("borealis", "unregistered"))),
)
CANARY = RolloutRow(
    endpoint="connect_nox_user",
    rollout=Rollout(
        v2_percent=0.0,
        steps=tuple(
            Step(at(f"2026-{day}T08:00:00"), percent)
            for day, percent in (
                ("11-16", 1),
                ("11-19", 10),
                ("11-25", 25),
                ("11-30", 50),
                ("12-03", 75),
                ("12-07", 100),
            )
        ),
        falls_back=True,
        shadow_percent=5.0,
        overrides={"borealis": Override(0.0), "ecotherm": Override(100.0, allow_header=True)},
    ),
    v1=173_430,
    v2=6_035,
    fallbacks=(("connection_refused", 4),),
    verdicts=(("match", 8_666), ("mismatch", 3), ("dropped", 2)),
    mismatches=(("message", 3),),
)


def caller(
    name: str, calls: int = 0, errors: int = 0, seen: float | None = None, *, key: int = 0, v2: int = 0, direct: int = 0
) -> CallerRow:
    """A manufacturer, most of whose v1 calls carry device_ids; `key` of them come with x-api-key, `v2` go there."""
    return CallerRow(
        manufacturer=name,
        listed=name not in (UNREGISTERED, UNAUTHENTICATED),
        calls=calls,
        errors=errors,
        v1=calls - v2,
        v2=v2,
        direct=direct,
        override=CANARY.rollout.overrides.get(name),
        last_seen=seen,
        schemes=tuple((scheme, n) for scheme, n in (("x-api-key", key), ("authorization", calls - key)) if n),
        unmapped=(("device_ids", calls * 7 // 10),) if calls else (),
    )


CALLERS = (
    caller("acme heating", 121_377, 402, NOW - 2, key=121_377, v2=5_604, direct=2_310),
    caller("borealis", 48_210, 12, NOW - 41),
    caller("calor & söhne", 9_874, 37, NOW - 19 * 60, key=9_800, v2=431),
    caller("ecotherm", direct=769),
    caller("fjord"),
    caller("unregistered", 4, 1, NOW - 3 * HOUR, key=4),
    replace(caller("unauthenticated", 388, 388, NOW - 95), v1=0, schemes=(), unmapped=()),
)
SAMPLE = Overview(
    version="0.1.0",
    started=NOW - 12 * DAY - 4 * HOUR,
    now=NOW,
    workers=2,
    draining=0,
    ready=True,
    settings_read=NOW - 4 * DAY - HOUR,
    reload_failed=False,
    upstreams=(V1, V2),
    connections=ConnectionsRow(open=214, limit=10_000, refused=0, timeouts=(("header", 61), ("body", 3))),
    schedules=(CONNECT,),
    rollouts=(CANARY,),
    callers=CALLERS,
)

HOSTILE = '"><img src=x onerror="window.ran=1"><script>window.ran=1</script>'

EMPTY = replace(
    SAMPLE,
    started=NOW,
    settings_read=None,
    upstreams=(replace(V2, health="untried", answered=0, failures=(), last_answer=None, last_failure=None, retries=0),),
    connections=ConnectionsRow(0, 0, 0, ()),
    schedules=(replace(CONNECT, deprecated_at=None, sunset_at=None, after_sunset="serve", next=None),),
    rollouts=(),
    callers=(),
)
UNTOUCHED = RolloutRow("link_supplier", Rollout(v2_percent=0), 0, 0, (), (), ())
TROUBLED = replace(
    SAMPLE,
    draining=1,
    ready=False,
    reload_failed=True,
    connections=ConnectionsRow(10**9, 10**9, 10**9, (("header", 10**9), ("body", 10**9))),
    upstreams=(
        replace(V2, health="failing", breakers_open=1, retries=10**9),
        *EMPTY.upstreams,
        replace(V2, name="v3", url="https://a.example/" + "x" * 99),
    ),
    schedules=(
        replace(CONNECT, active=Brownout(NOW - 60, NOW + 90, 12.5, frozenset()), next=None),
        replace(CONNECT, endpoint="link_supplier", sunset_at=NOW - 1),
        *EMPTY.schedules,
    ),
    rollouts=(
        CANARY,
        UNTOUCHED,
        replace(
            CANARY,
            endpoint="e" * 99,
            rollout=Rollout(
                shadow_percent=0.01,
                allow_header=True,
                overrides={name: Override(99.99, allow_header=False) for name in (HOSTILE, *"abcdefgh")},
            ),
            v1=10**12,
            mismatches=(),
        ),
    ),
    callers=(*CALLERS, caller("n" * 200, 10**9, 10**8, NOW, v2=10**8, direct=10**8), caller(HOSTILE, 2)),
)
"""Every state at once, with names and figures that need room."""


class Served:
    """Serves `overview` at /, as it is at the time; `stop` ends it."""

    def __init__(self, overview: Overview) -> None:
        self.overview = overview
        self.requests = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.requests += 1
                self.send_response(200)
                for name, value in HEADERS.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(render(served.overview))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def served(overview: Overview) -> Iterator[Served]:
    """A page of one's own."""
    server = Served(overview)
    try:
        yield server
    finally:
        server.stop()


def take(browser: Browser, path: Path) -> None:
    """Takes the picture."""
    with served(SAMPLE) as sample:
        page = browser.new_page(viewport={"width": 1120, "height": 800}, color_scheme="light")
        page.goto(sample.url)
        page.screenshot(path=path, full_page=True)
        page.close()


if __name__ == "__main__":
    with sync_playwright() as playwright:
        take(playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS), PICTURE)
