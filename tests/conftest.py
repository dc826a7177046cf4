"""Shared fixtures: one simulated v1, one v2, and one proxy in front of the latter in each process of the run."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.processes import DOORS, Proxy, Simulator, proxies
from tests.told import told
from tests.two_upstreams import Upstreams
from tests.ways import WAYS


def pytest_configure() -> None:
    """A developer's own OTEL_* would trace the tests' proxies.

    And what a shell started in the background ignores Ctrl-C, as would all that the tests start.
    """
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    *("test_v2_faults.py", "test_soak.py", "test_slow_callers.py"),
    *("test_demo.py", "test_workers.py", "test_reload.py", "test_guide.py", "test_faults.py"),
    *("test_page_in_chromium.py", "test_cli.py", "test_deprecation.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that at the end no process is left with one of them while the others are done."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _secrets_are_kept() -> Iterator[None]:
    """In each process of the run, at its very end: what is set up first is taken down last."""
    yield
    assert told(proxies) == []


@pytest.fixture(scope="session")
def v2() -> Iterator[Simulator]:
    """A simulated v2 that accepts demo-key; nothing of it may be stopped."""
    simulator = Simulator()
    yield simulator
    simulator.stop()


@pytest.fixture(scope="session")
def v1() -> Iterator[Simulator]:
    """A simulated v1; nothing of it may be stopped."""
    simulator = Simulator("v1")
    yield simulator
    simulator.stop()


@pytest.fixture(scope="session")
def both(v1: Simulator, v2: Simulator) -> Upstreams:
    return Upstreams(v1, v2)


@pytest.fixture(scope="session")
def by_door(v2: Simulator) -> Iterator[Callable[[str], Proxy]]:
    """A proxy for each door, with default settings but for a deadline that tests can wait for."""
    running: dict[str, Proxy] = {}

    def find(door: str) -> Proxy:
        if door not in running:
            running[door] = Proxy(v2.url, door=door, UPSTREAMS__V2__TIMEOUT="2.0")
        return running[door]

    yield find
    assert [each.stop() for each in running.values()] == [0] * len(running)


@pytest.fixture(scope="session")
def proxy(by_door: Callable[[str], Proxy]) -> Proxy:
    """The one whose doors are both open."""
    return by_door("direct")


@pytest.fixture(params=DOORS)
def by_each_door(request: pytest.FixtureRequest, by_door: Callable[[str], Proxy]) -> Proxy:
    """Either proxy, for the tests that hold of both."""
    return by_door(request.param)


@pytest.fixture(params=WAYS)
def in_each_way(
    request: pytest.FixtureRequest, by_door: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> Proxy:
    """The same, with `call` writing its requests in each manner that a door tells apart."""
    door, connection = WAYS[request.param]
    monkeypatch.setattr("tests.processes.HTTPConnection", connection)
    return by_door(door)


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """The path of a program that .ci/run installs.

    Without it a test fails in CI. Elsewhere it skips, for not everybody may install Debian's packages, and what needs
    none of them is still worth a run.
    """

    def find(program: str) -> str:
        found = shutil.which(program)
        if found is None and os.environ.get("CI"):
            pytest.fail(f"{program} is missing: .ci/run must install it")
        if found is None:
            pytest.skip(f"{program} is not installed; .ci/run installs it")
        return found

    return find
