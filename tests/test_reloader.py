"""The process that reads the settings anew: when a file has changed, and what it says of a fault of its own."""

import asyncio
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.reload import LOOK_SECONDS, Reloader, SettingsFile, taker
from proxy.settings import SettingsFault
from tests.processes import DEADLINE
from tests.test_reload import DROPS, ECHOES, OK, REFUSED


def test_a_change_is_reported_once_it_is_over(tmp_path: Path) -> None:
    """A file that is still being written is not read: at two looks, a second apart, it must be the same."""
    path = tmp_path / "settings.toml"
    path.write_text("1")
    file, now = SettingsFile(path), 100.0

    def look(*, later: float = LOOK_SECONDS) -> bool:
        nonlocal now
        now += later
        return file.has_changed(now)

    assert not look()
    for text in ("12", "123"):
        path.write_text(text)
        assert not look()
        assert not look(later=LOOK_SECONDS / 2)
    assert look()
    assert not look()
    path.unlink()
    assert [look() for _ in range(4)] == [False, True, False, False]
    path.write_text("1234")
    assert file.read() == b"1234"
    assert not any(look() for _ in range(3))


def test_what_is_no_file_is_a_fault(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none" / "none"):
        with pytest.raises(SettingsFault, match=re.escape(str(path))):
            SettingsFile(path).read()


@pytest.fixture
def reloader(tmp_path: Path) -> Iterator[Reloader]:
    """One in this process, which is sent a SIGHUP."""
    before = signal.getsignal(signal.SIGHUP)
    file = tmp_path / "nox-proxy.toml"
    file.write_text(ECHOES)
    with closing(Reloader(file, lambda _settings: None)) as reloader:
        yield reloader
    signal.signal(signal.SIGHUP, before)


def test_a_bug_of_ours_leaves_all_as_it_was(
    reloader: Reloader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the process that reads, and in one that answers. Its words may be values, and are said nowhere."""

    def crash(*_: object) -> None:
        raise ZeroDivisionError("hunter-2")

    async def take() -> bool:
        return await taker(reloader.settings, crash)(b"")

    assert not asyncio.run(take())
    monkeypatch.setattr("proxy.reload.load_text", crash)
    signal.raise_signal(signal.SIGHUP)
    assert reloader.fetch() is None
    assert reloader.block.value((OK, ())) == 0
    monkeypatch.setattr(reloader, "_warn", crash)
    reloader.taken()
    assert caplog.messages == [
        "settings cannot be put in force: ZeroDivisionError",
        f"{REFUSED}: ZeroDivisionError",
        "settings that no warning can be given of: ZeroDivisionError",
    ]


def test_one_process_says_of_itself_that_it_did_not_take_them(
    reloader: Reloader, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_news: bytes) -> bool:
        return False

    async def play() -> None:
        reloader.hand_to(refuse)
        signal.raise_signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE):
            for _ in iter(lambda: bool(caplog.messages), True):
                await asyncio.sleep(0.01)

    asyncio.run(play())
    assert caplog.messages == ["settings not reloaded everywhere: the one worker did not take them"]
    assert reloader.block.value((OK, ())) == 0


def test_what_is_broken_since_stays_so_whoever_takes_the_last_good_ones(reloader: Reloader, tmp_path: Path) -> None:
    """A process that is late with good settings does not make the broken file good."""
    file = tmp_path / "nox-proxy.toml"

    def fetch(text: str) -> bytes | None:
        file.write_text(text)
        signal.raise_signal(signal.SIGHUP)
        return reloader.fetch()

    assert fetch(DROPS)
    assert fetch("") is None
    reloader.taken()
    assert reloader.block.value((OK, ())) == 0
    assert fetch(DROPS)
    reloader.taken()
    assert reloader.block.value((OK, ())) == 1
