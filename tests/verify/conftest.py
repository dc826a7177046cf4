"""Deployments to be verified."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Proxy, Simulator

SCHEDULE = '{"deprecated_at": "2026-01-01T00:00:00Z", "sunset_at": "2027-06-30T23:59:59Z"}'


@pytest.fixture(scope="session")
def url(proxy: Proxy) -> str:
    return f"http://{proxy.address}"


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the simulated v1 records its calls."""
    return tmp_path_factory.mktemp("record") / "calls.ndjson"


@pytest.fixture(scope="session")
def v1(record: Path) -> Iterator[Simulator]:
    running = Simulator("v1", "--record", str(record))
    yield running
    running.stop()


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay does not close where it should: nobody waits long for that."""
    monkeypatch.setattr("proxy.wire.client.RAW_SECONDS", 0.1)


@pytest.fixture(scope="session")
def scheduled(v2: Simulator) -> Iterator[Proxy]:
    """Announces its end, and drops device IDs."""
    running = Proxy(
        v2.url, CHANGES__CONNECT_NOX_USER__DEPRECATION=SCHEDULE, CHANGES__CONNECT_NOX_USER__DEVICE_IDS="drop"
    )
    yield running
    assert running.stop() == 0
