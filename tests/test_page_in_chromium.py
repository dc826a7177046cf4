"""The admin port's page in a real Chromium: on a sample, and on a running proxy.

It is long because one browser, which is slow to start, serves both halves.
"""

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from proxy.page import HEADERS, Overview, render
from proxy.policy.credentials import digest
from tests.processes import DEADLINE, Proxy, Simulator, call, eventually
from tests.screenshot import (
    ARGUMENTS,
    CALLERS,
    HOSTILE,
    NOW,
    PICTURE,
    SAMPLE,
    TROUBLED,
    Served,
    caller,
    served,
    take,
)

EVERY = 3_000
"""Milliseconds from one look at the proxy to the next, as in page.js."""


@pytest.fixture(scope="module")
def browser(need: Callable[[str], str]) -> Iterator[Browser]:
    """Chromium. playwright runs a loop of its own in this thread while it is open, so it is not for the whole run."""
    expect.set_options(timeout=1_000 * DEADLINE)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=need("chromium"), args=ARGUMENTS) as running,
    ):
        yield running


class Visit(NamedTuple):
    """A page that is open, what it asked for and what the browser complained of."""

    page: Page
    requests: list[str]
    complaints: list[str]

    def row(self, manufacturer: str) -> Locator:
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("rowheader", name=manufacturer))

    def cells(self, manufacturer: str) -> list[str]:
        return [" ".join(text.split()) for text in self.row(manufacturer).get_by_role("cell").all_inner_texts()]


Visitor = Callable[..., Visit]

VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """Opens a URL as a visitor of one's own; `clock` holds the page's timers until they are run."""
    with ExitStack() as contexts:

        def open_page(
            url: str,
            *,
            width: int = 1_120,
            scheme: Literal["light", "dark"] = "light",
            clock: bool = False,
            script: bool = True,
        ) -> Visit:
            context = contexts.enter_context(
                browser.new_context(
                    viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=script
                )
            )
            context.set_default_timeout(1_000 * DEADLINE)
            page = context.new_page()
            seen = Visit(page, [], [])
            page.on("request", lambda request: seen.requests.append(request.url))
            page.on("console", lambda message: seen.complaints.append(message.text))
            page.on("pageerror", lambda error: seen.complaints.append(str(error)))
            if script:
                page.add_init_script(VIOLATIONS)
            if clock:
                page.clock.install()
            page.goto(url)
            return seen

        yield open_page


@pytest.fixture
def sample() -> Iterator[Served]:
    with served(SAMPLE) as server:
        yield server


TEXTS = """() => [...document.querySelectorAll("body, body *")]
  .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue.trim()))
  .filter((element) => element.checkVisibility())
  .map((element) => {
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    return [element.textContent, getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
  })"""


def luminance(colour: str) -> float:
    """Relative luminance of an opaque colour (WCAG 2.2)."""
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert found, colour
    parts = [int(part) / 255 for part in found.groups()]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_dark(visit: Visitor, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, whatever the size."""
    with served(TROUBLED) as server:
        page = visit(server.url, scheme=scheme).page
        page.locator("#stale").evaluate("notice => notice.hidden = false")
        texts: list[tuple[str, str, str]] = page.evaluate(TEXTS)
        assert len(texts) > 100
        assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.5) == (
            scheme == "light"
        )
        assert {text: ratio for text, *pair in texts if (ratio := contrast(*pair)) < 4.5} == {}


@pytest.mark.parametrize("width", [320, 360, 992, 993, 1_400])
def test_no_page_is_wider_than_its_window(visit: Visitor, width: int) -> None:
    with served(TROUBLED) as server:
        page = visit(server.url, width=width).page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        sticking_out = "[...document.querySelectorAll('article, table')].filter(e => e.scrollWidth > e.clientWidth)"
        assert page.evaluate(sticking_out + ".length") == 0


@pytest.mark.parametrize("width", [360, 1_120])
def test_it_says_what_it_is_to_who_does_not_see_it(visit: Visitor, sample: Served, width: int) -> None:
    page = visit(sample.url, width=width).page
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page).to_have_title("ready · nox-proxy")
    assert page.get_by_role("heading", level=1).all_inner_texts() == ["nox-proxy 0.1.0"]
    for name in (
        "Deprecation schedule",
        "Rollout of v2",
        "Upstreams",
        "Callers' connections",
        "Shadow",
        "Manufacturers",
    ):
        expect(page.get_by_role("region", name=name)).to_have_count(1)
    table = page.get_by_role("table", name="Manufacturers")
    expect(table.get_by_role("columnheader")).to_have_count(7)
    expect(table.get_by_role("rowheader")).to_have_count(len(CALLERS))
    assert table.locator("th:not([scope])").count() == 0
    expect(page.get_by_role("alert")).to_have_count(0)
    seen = page.locator("[data-key='calor & söhne'] time")
    assert (seen.inner_text(), seen.get_attribute("datetime")) == ("19 min ago", "2026-11-23T09:11:00Z")
    assert seen.get_attribute("title") == "2026-11-23 09:11:00 UTC"


def test_a_name_is_text_and_nothing_else(visit: Visitor) -> None:
    with served(TROUBLED) as server:
        seen = visit(server.url, clock=True)
        expect(seen.page.get_by_role("rowheader", name=HOSTILE)).to_have_text(HOSTILE)
        server.overview = replace(TROUBLED, callers=(caller(HOSTILE, 3), caller(HOSTILE + "2", 2)))
        seen.page.clock.run_for(EVERY)
        expect(seen.page.get_by_role("rowheader", name=HOSTILE + "2")).to_have_text(HOSTILE + "2")
        assert seen.page.evaluate("window.ran ?? document.images.length") == 0
        assert (seen.page.evaluate("violations"), seen.complaints) == ([], [])


def test_a_refresh_touches_only_what_changed(visit: Visitor, sample: Served) -> None:
    """Rows stay the elements they were, through a new order, a newcomer and one that leaves."""
    seen = visit(sample.url, width=360, clock=True)
    page = seen.page
    page.evaluate("for (const row of document.querySelectorAll('tbody tr')) row.known = true")
    page.get_by_role("link", name="/metrics").focus()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('[data-key^=calor] th'))")
    page.evaluate("scrollTo(0, 400)")
    changed = {row.manufacturer: row for row in CALLERS if row.manufacturer != "borealis"}
    changed |= {"ecotherm": caller("ecotherm", 10_000, 1, NOW, v2=2_000), "zephyr": caller("zephyr", 9_999)}
    sample.overview = replace(SAMPLE, ready=False, callers=tuple(changed.values()))
    page.clock.run_for(EVERY)
    expect(page).to_have_title("draining · nox-proxy")
    expect(page.locator("#state")).to_have_text("draining")
    rows = page.evaluate("[...document.querySelectorAll('tbody tr')].map(row => [row.dataset.key, row.known ?? false])")
    order = ["acme heating", "ecotherm", "zephyr", "calor & söhne", "unauthenticated", "unregistered", "fjord"]
    assert rows == [[name, name != "zephyr"] for name in order]
    answered = "v1 8,000 v2 2,000 own: 100 %, header obeyed"
    assert seen.cells("ecotherm") == [
        "10,000",
        "now",
        answered,
        "1 < 0.1 %",
        "authorization 10,000",
        "device_ids 7,000",
    ]
    assert page.evaluate("[document.activeElement.textContent, getSelection().toString()]") == [
        "/metrics",
        "calor & söhne",
    ]
    assert page.evaluate("scrollY") == 400
    assert page.evaluate("document.body.outerHTML") == page.evaluate(
        "fetch('/').then(a => a.text()).then(t => new DOMParser().parseFromString(t, 'text/html').body.outerHTML)"
    )


def test_a_hidden_tab_asks_for_nothing(visit: Visitor, sample: Served) -> None:
    """Headless Chromium hides no tab, so the page is told that it is hidden."""
    page = visit(sample.url, clock=True).page

    def tell(hidden: bool) -> None:
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    tell(hidden=True)
    page.clock.run_for(20 * EVERY)
    assert sample.requests == 1
    sample.overview = replace(SAMPLE, workers=77)
    tell(hidden=False)
    expect(page.get_by_text("77 workers")).to_be_visible()
    assert sample.requests == 2


@pytest.mark.parametrize("answers", [True, False], ids=["something else", "nothing"])
def test_what_is_not_the_page_is_no_answer(
    visit: Visitor, sample: Served, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """A balancer's page in between, or a proxy that takes the connection and hangs."""
    end = threading.Event()

    def stray(_: Overview) -> bytes:
        if not answers:
            end.wait(DEADLINE)
        return b"<title>Sign in</title>"

    page = visit(sample.url, clock=True).page
    monkeypatch.setattr("tests.screenshot.render", stray)
    page.clock.run_for(EVERY)
    expect(page.get_by_role("alert")).to_contain_text("its last answer, at 2026-11-23 09:30:00 UTC")
    end.set()
    monkeypatch.undo()
    page.clock.run_for(EVERY)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_another_version_of_the_page_is_loaded_whole(
    visit: Visitor, sample: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = visit(sample.url, clock=True)
    seen.page.evaluate("window.old = true")
    monkeypatch.setattr(
        "tests.screenshot.render", lambda overview: render(overview).replace(b"<style>", b"<style>/**/")
    )
    with seen.page.expect_navigation():
        seen.page.clock.run_for(EVERY)
    assert seen.page.evaluate("window.old") is None


def test_without_a_script_the_page_reloads_itself(visit: Visitor, sample: Served) -> None:
    refresh = "meta[http-equiv=refresh]"
    assert visit(sample.url, script=False).page.locator(refresh).get_attribute("content") == "5"
    assert visit(sample.url).page.locator(refresh).count() == 0


def test_the_readmes_picture(browser: Browser, tmp_path: Path) -> None:
    take(browser, tmp_path / "now.png")
    for picture in (PICTURE, tmp_path / "now.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000


USERS = ("user-" + "f81d", "user-" + "0c2e")
DEVICE = "pump-" + "77aa"
KEYS = {"acme": "key-" + "51ba", "borealis": "key-" + "9d03", "calor": "key-" + "e6f4"}
STRANGER = "key-" + "2b7c"
"""A key that v2 accepts and no list names."""
REFUSED = "key-" + "aa17"
SCHEDULE = {
    "deprecated_at": "2026-01-01T00:00:00Z",
    "sunset_at": "2099-06-30T23:59:59Z",
    "brownouts": [{"start": "2099-03-01T07:00:00Z", "end": "2099-03-01T10:00:00Z", "percent": 100, "exempt": ["acme"]}],
}

ROLLOUT = """
[changes.connect_nox_user.rollout]
v2_percent = 0
steps = [{ at = 2099-01-10T08:00:00Z, v2_percent = 1.5 }]
fallback = "not_sent"
shadow = { percent = 100, accept_side_effects = true }
"""


@pytest.fixture(scope="module")
def keyed() -> Iterator[Simulator]:
    simulator = Simulator("v2", *(option for key in (*KEYS.values(), STRANGER) for option in ("--key", key)))
    yield simulator
    simulator.stop()


def start_proxy(v2: Simulator, admin: str = "127.0.0.1:0") -> Proxy:
    listed = {name: {"keys_sha256": [digest(key.encode())]} for name, key in KEYS.items()}
    return Proxy(
        v2.url,
        ADMIN_LISTEN=admin,
        MANUFACTURERS=json.dumps(listed),
        CHANGES__CONNECT_NOX_USER__DEPRECATION=json.dumps(SCHEDULE),
    )


def connect(proxy: Proxy, *devices: str, user: str = USERS[0], **headers: str) -> int:
    """One legacy call; underscores in header names stand for hyphens."""
    body = json.dumps({"manufacturer_user_id": user, "device_ids": devices})
    return call(proxy.address, body.encode(), {name.replace("_", "-"): value for name, value in headers.items()}).status


@pytest.fixture
def busy(keyed: Simulator) -> Iterator[Proxy]:
    """A proxy after a known load."""
    proxy = start_proxy(keyed)
    acme, borealis = KEYS["acme"], KEYS["borealis"]
    statuses = [
        connect(proxy, DEVICE, x_api_key=acme),
        connect(proxy, DEVICE, user=USERS[1], x_api_key=acme),
        connect(proxy, authorization=f"ApiKey {acme}"),
        call(proxy.address, b"{}", {"x-api-key": acme}).status,
        connect(proxy, authorization=f"ApiKey {borealis}"),
        connect(proxy, x_api_key=STRANGER),
        connect(proxy, x_api_key=REFUSED),
        connect(proxy),
    ]
    assert statuses == [201, 201, 201, 400, 201, 201, 401, 401]
    yield proxy
    proxy.stop()


AGO = re.compile(r"now|\d+ s ago")


def test_the_figures_of_a_known_load(busy: Proxy, visit: Visitor) -> None:
    seen = visit(f"http://{busy.admin}/")
    page = seen.page
    assert AGO.fullmatch(seen.cells("acme")[1])
    shown = {
        name: [text for text in seen.cells(name) if not AGO.fullmatch(text)] for name in ("acme", "borealis", "calor")
    }
    assert shown == {
        "acme": ["4", "1 25.0 %", "x-api-key 3 authorization 1", "device_ids 2"],
        "borealis": ["1", "0 0 %", "authorization 1", "–"],
        "calor": ["0", "not since the start", "0", "–", "–"],
    }
    assert seen.cells("unregistered")[0] == "1"
    assert seen.cells("unauthenticated")[0] == "2"
    expect(page.locator(".gist")).to_contain_text("2 of 3 listed manufacturers called since the start.")
    expect(page.locator(".gist")).to_contain_text(re.compile(r"Sunset in [\d,]+ days"))
    schedule = page.get_by_role("region", name="Deprecation schedule")
    for text in ("connect_nox_user", "1 Jan 2026", "30 Jun 2099", "v1 calls are still answered"):
        expect(schedule).to_contain_text(text)
    expect(schedule).to_contain_text(
        "1 Mar 2099, 07:00 to 10:00 UTC 100 % of the callers, except acme", use_inner_text=True
    )
    upstreams = page.get_by_role("region", name="Upstreams")
    expect(upstreams).to_contain_text("v2 answering")
    for text in ("Answers 6 last", "Breaker closed Retries none Connections", "idle, of 512"):
        expect(upstreams).to_contain_text(text, use_inner_text=True)
    expect(page.locator("#state")).to_have_text("ready")


def test_an_upstream_that_fails_is_said_to(busy: Proxy, keyed: Simulator, visit: Visitor) -> None:
    with keyed.fault("close"):
        assert connect(busy, x_api_key=KEYS["acme"]) == 502
    upstreams = visit(f"http://{busy.admin}/").page.get_by_role("region", name="Upstreams")
    expect(upstreams).to_contain_text("v2 failing")
    expect(upstreams).to_contain_text("Failures connection_terminated 1 last", use_inner_text=True)


@pytest.fixture
def canary(keyed: Simulator, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy between v1 and v2 after a known load, whose settings' file was broken then."""
    v1 = Simulator("v1", *(f"--key={key}" for key in KEYS.values()))
    listed = "".join(
        f'[manufacturers.{name}]\nkeys_sha256 = ["{digest(key.encode())}"]\n' for name, key in KEYS.items()
    )
    file = tmp_path / "nox-proxy.toml"
    file.write_text(f'[upstreams.v1]\nurl = "http://{v1.address}"\n{ROLLOUT}{listed}v2_percent = 100\n')
    proxy = Proxy(keyed.url, "--config", str(file))
    for name in ("acme", "borealis", "calor"):
        assert connect(proxy, x_api_key=KEYS[name]) == 201
    own = call(
        proxy.address, b'{"user_id": "u"}', {"x-api-key": KEYS["acme"]}, path="/v2/manufacturer/device-connections"
    )
    assert own.status == 201
    assert eventually(lambda: sum(n for name, n in proxy.metrics().items() if "shadow_comparisons" in name) == 2)
    file.write_text("broken")
    proxy.popen.send_signal(signal.SIGHUP)
    proxy.find("settings not reloaded")
    yield proxy
    proxy.stop()
    v1.stop()


def test_a_rollout_and_a_failed_reload_show(canary: Proxy, visit: Visitor) -> None:
    seen = visit(f"http://{canary.admin}/")
    assert [seen.cells(name)[2] for name in KEYS] == ["v1 1 v2 direct 1 50.0 % moved", "v1 1", "v2 1 own: 100 %"]
    rollout = seen.page.get_by_role("region", name="Rollout of v2")
    for text in (
        "connect_nox_user all to v1",
        "Share seen 33.3 % 1 of 3 calls since the start",
        "Steps to come 1.5 % 10 Jan 2099, 08:00 UTC, in",
        "Fallback to v1 where v2 took nothing none yet",
        "Own settings calor 100 %",
    ):
        expect(rollout).to_contain_text(text, use_inner_text=True)
    shadow = seen.page.get_by_role("region", name="Shadow")
    expect(shadow).to_contain_text("connect_nox_user matching Share 100 %", use_inner_text=True)
    expect(shadow).to_contain_text("Verdicts match 2 Differing fields none", use_inner_text=True)
    upstreams = seen.page.get_by_role("region", name="Upstreams")
    for name in ("v1", "v2"):
        expect(upstreams.locator(f"[data-key={name}]")).to_contain_text("Answers 2 last", use_inner_text=True)
    expect(seen.page.get_by_role("alert")).to_contain_text(
        "The settings could not be reloaded; the last good ones were"
    )
    assert seen.complaints == []


def test_it_follows_and_asks_and_tells_nobody_else(busy: Proxy, visit: Visitor) -> None:
    """A call shows without a reload; no other host is asked, no secret is shown, nothing is complained of."""
    seen = visit(f"http://{busy.admin}/")
    calor = seen.row("calor")
    calor.evaluate("row => row.known = true")
    seen.row("borealis").evaluate("row => row.known = true")
    assert connect(busy, x_api_key=KEYS["calor"]) == 201
    expect(calor.get_by_role("cell").first).to_have_text("1")
    assert calor.evaluate("row => row.known")
    assert seen.row("borealis").evaluate("row => row.known")
    assert len(seen.requests) > 1
    assert set(seen.requests) == {f"http://{busy.admin}/"}
    page = seen.page.content() + call(busy.admin, method="GET", path="/").body.decode()
    secrets = (
        *KEYS.values(),
        STRANGER,
        REFUSED,
        *USERS,
        DEVICE,
        *(digest(key.encode())[:8] for key in KEYS.values()),
    )
    assert [secret for secret in secrets if secret in page] == []
    assert (seen.page.evaluate("violations"), seen.complaints) == ([], [])


def test_the_policy_holds_in_the_browser(proxy: Proxy, visit: Visitor, sample: Served) -> None:
    reply = call(proxy.admin, method="GET", path="/")
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    seen = visit(f"http://{proxy.admin}/")
    ran = """async (elsewhere) => {
      document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }));
      document.body.insertAdjacentHTML("beforeend", "<p style='color: red' onclick='window.ran = 1'>x</p>");
      document.body.lastChild.click();
      const answer = await fetch(elsewhere).catch(() => null);
      return [window.ran ?? 0, answer];
    }"""
    assert seen.page.evaluate(ran, sample.url) == [0, None]
    seen.page.wait_for_function("violations.length === 4")
    told = ["connect-src", "script-src-attr", "script-src-elem", "style-src-attr"]
    assert seen.page.evaluate("violations.sort()") == told
    assert sample.requests == 0


def test_figures_grow_old_when_the_proxy_stops_and_fresh_when_it_returns(
    busy: Proxy, keyed: Simulator, visit: Visitor
) -> None:
    page = visit(f"http://{busy.admin}/").page
    expect(page.get_by_role("alert")).to_have_count(0)
    busy.stop()
    expect(page.get_by_role("alert")).to_be_visible()
    last = page.locator(".facts time").last.get_attribute("title")
    expect(page.get_by_role("alert")).to_have_text(
        f"The proxy no longer answers. All figures here are those of its last answer, at {last}."
    )
    expect(page.locator("#state")).to_have_text(re.compile(r"no answer for \d+ s"))
    expect(page).to_have_title("no answer · nox-proxy")
    again = start_proxy(keyed, busy.admin)
    try:
        expect(page.locator("#state")).to_have_text("ready")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page).to_have_title("ready · nox-proxy")
        expect(page.locator(".gist")).to_contain_text("0 of 3 listed manufacturers called since the start.")
    finally:
        again.stop()
