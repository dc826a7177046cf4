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

from proxy.page import HEADERS, CallerRow, Overview, ScheduleRow, UpstreamRow, render
from proxy.policy.deprecation import Brownout
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
    answered=179_611,
    failures=(("http_response_timeout", 31), ("connection_refused", 4)),
    last_answer=NOW - 2,
    last_failure=NOW - 5 * HOUR,
    active=3,
    idle=9,
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


def caller(name: str, calls: int = 0, errors: int = 0, seen: float | None = None, *, key: int = 0) -> CallerRow:
    """A manufacturer, most of whose calls carry device_ids; `key` of them come with x-api-key."""
    schemes = tuple((scheme, n) for scheme, n in (("x-api-key", key), ("authorization", calls - key)) if n)
    unmapped = (("device_ids", calls * 7 // 10),) if calls else ()
    return CallerRow(name, calls, errors, seen, schemes, unmapped)


CALLERS = (
    caller("acme heating", 121_377, 402, NOW - 2, key=121_377),
    caller("borealis", 48_210, 12, NOW - 41),
    caller("calor & söhne", 9_874, 37, NOW - 19 * 60, key=9_800),
    caller("ecotherm"),
    caller("unregistered", 4, 1, NOW - 3 * HOUR, key=4),
    CallerRow("unauthenticated", 388, 388, NOW - 95, (), ()),
)
SAMPLE = Overview(
    version="0.1.0",
    started=NOW - 12 * DAY - 4 * HOUR,
    now=NOW,
    workers=2,
    ready=True,
    upstreams=(V2,),
    schedules=(CONNECT,),
    callers=CALLERS,
)

HOSTILE = '"><img src=x onerror="window.ran=1"><script>window.ran=1</script>'

EMPTY = replace(
    SAMPLE,
    started=NOW,
    upstreams=(replace(V2, health="untried", answered=0, failures=(), last_answer=None, last_failure=None),),
    schedules=(replace(CONNECT, deprecated_at=None, sunset_at=None, after_sunset="serve", next=None),),
    callers=(),
)
TROUBLED = replace(
    SAMPLE,
    ready=False,
    upstreams=(
        replace(V2, health="failing"),
        *EMPTY.upstreams,
        replace(V2, name="v1", url="https://a.example/" + "x" * 99),
    ),
    schedules=(
        replace(CONNECT, active=Brownout(NOW - 60, NOW + 90, 12.5, frozenset()), next=None),
        replace(CONNECT, endpoint="link_supplier", sunset_at=NOW - 1),
        *EMPTY.schedules,
    ),
    callers=(*CALLERS, caller("n" * 200, 10**9, 10**8, NOW), caller(HOSTILE, 2)),
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
