"""The links between a supervisor and its processes, their two ends in one process here."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy import news
from proxy.news import Receiver, Sender, Spreading, Take, make_link
from tests.processes import DEADLINE


@pytest.fixture
def ends() -> Iterator[tuple[Sender, Receiver]]:
    sender, receiver = make_link()
    yield sender, receiver
    sender.close()
    receiver.close()


class Source:
    """News, and what became of them."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.said: list[str] = []

    def fileno(self) -> int:
        raise AssertionError("nobody waits for it here")

    def fetch(self) -> bytes | None:
        return self.waiting.pop(0) if self.waiting else None

    def taken(self) -> None:
        self.said.append("taken")

    def late(self, who: list[str]) -> None:
        self.said.append(f"late: {', '.join(who)}")


def answering(got: list[bytes], *, takes: bool = True) -> Take:
    async def take(its: bytes) -> bool:
        got.append(its)
        return takes

    return take


def orphaned() -> None:
    raise AssertionError


async def spread(spreading: Spreading, sender: Sender, source: Source) -> None:
    """As a supervisor does, until there is something to be said."""
    before = len(source.said)

    def is_said() -> bool:
        spreading.spread({"worker 1": sender})
        return len(source.said) > before

    await until(is_said)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        for _ in iter(holds, True):
            await asyncio.sleep(0)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_news_of_any_size_arrive(ends: tuple[Sender, Receiver], size: int) -> None:
    """And no descriptor is left behind, on either side."""
    sender, receiver = ends
    source, got = Source(), list[bytes]()
    spreading = Spreading(source)

    async def play() -> None:
        receiver.follow(answering(got), orphaned)
        before = descriptors()
        for _ in range(3):
            source.waiting.append(os.urandom(size))
            sent.append(source.waiting[0])
            await spread(spreading, sender, source)
        assert descriptors() == before

    sent: list[bytes] = []
    asyncio.run(play())
    assert got == sent
    assert source.said == ["taken"] * 3


def test_who_was_busy_goes_on_to_the_latest(ends: tuple[Sender, Receiver]) -> None:
    """However much is new meanwhile, one thing waits on the link."""
    sender, receiver = ends
    source, got = Source(), list[bytes]()
    spreading = Spreading(source)
    for number in range(1_000):
        source.waiting.append(b"%d" % number)
        spreading.spread({"worker 1": sender})
    assert source.said == []

    async def play() -> None:
        receiver.follow(answering(got), orphaned)
        await spread(spreading, sender, source)

    asyncio.run(play())
    assert (got, source.said) == ([b"0", b"999"], ["taken"])


def test_who_refuses_is_named_after_a_while(ends: tuple[Sender, Receiver], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; what is new it is told at once."""
    monkeypatch.setattr(news, "PATIENCE_SECONDS", 0.05)
    sender, receiver = ends
    source, got = Source(), list[bytes]()
    spreading = Spreading(source)

    async def play(*, takes: bool) -> None:
        receiver.follow(answering(got, takes=takes), orphaned)
        await spread(spreading, sender, source)

    source.waiting.append(b"1")
    asyncio.run(play(takes=False))
    spreading.spread({"worker 1": sender})
    source.waiting.append(b"2")
    asyncio.run(play(takes=True))
    assert (got, source.said) == ([b"1", b"2"], ["late: worker 1", "taken"])


def test_who_refuses_is_told_again(ends: tuple[Sender, Receiver], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would stay behind the others. Not at once, or it would do nothing else."""
    monkeypatch.setattr(news, "PATIENCE_SECONDS", 0.05)
    sender, receiver = ends
    source, times = Source(), list[float]()
    spreading = Spreading(source)

    async def take(_: bytes) -> bool:
        times.append(time.monotonic())
        return len(times) > 1

    async def play() -> None:
        receiver.follow(take, orphaned)
        await spread(spreading, sender, source)
        await spread(spreading, sender, source)

    source.waiting.append(b"1")
    asyncio.run(play())
    first, second = times
    assert source.said == ["late: worker 1", "taken"]
    assert second - first >= news.RETRY_SECONDS


def test_a_process_without_a_free_descriptor_takes_nothing_for_news(
    ends: tuple[Sender, Receiver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Least of all the absence of any."""
    monkeypatch.setattr(news, "PATIENCE_SECONDS", 0.05)
    sender, receiver = ends
    source, got = Source(), list[bytes]()
    spreading = Spreading(source)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def play() -> None:
        receiver.follow(answering(got), orphaned)
        source.waiting.append(b"1")
        spreading.spread({"worker 1": sender})
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            await until(lambda: "news that cannot be heard" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await spread(spreading, sender, source)
        source.waiting.append(b"2")
        await spread(spreading, sender, source)

    asyncio.run(play())
    assert (got, source.said) == ([b"2"], ["late: worker 1", "taken"])


def test_a_supervisor_without_a_free_descriptor_tells_later(ends: tuple[Sender, Receiver]) -> None:
    sender, receiver = ends
    source, got = Source(), list[bytes]()
    spreading = Spreading(source)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    source.waiting.append(b"1")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        spreading.spread({"worker 1": sender})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not sender.owes_answer

    async def play() -> None:
        receiver.follow(answering(got), orphaned)
        await spread(spreading, sender, source)

    asyncio.run(play())
    assert (got, source.said) == ([b"1"], ["taken"])


def test_a_process_forked_later_has_it_already(ends: tuple[Sender, Receiver]) -> None:
    """Nobody is left who was told: the news are taken by whoever comes."""
    sender, _ = ends
    source = Source()
    spreading = Spreading(source)
    source.waiting.append(b"1")
    spreading.spread({"worker 1": sender})
    later, other = make_link()
    spreading.begin(later)
    spreading.spread({"worker 1": later})
    assert (later.owes_answer, source.said) == (False, ["taken"])
    later.close()
    other.close()


@pytest.mark.parametrize("with_an_answer_unread", [False, True])
def test_a_process_hears_that_its_supervisor_is_gone(*, with_an_answer_unread: bool) -> None:
    sender, receiver = make_link()
    got, gone = list[bytes](), list[bool]()

    async def play() -> None:
        receiver.follow(answering(got), lambda: gone.append(True))
        if with_an_answer_unread:
            sender.tell(1, b"1")
            await until(lambda: readable(sender))
        sender.close()
        await until(lambda: bool(gone))
        await asyncio.sleep(0)

    asyncio.run(play())
    receiver.close()
    assert gone == [True]


def readable(sender: Sender) -> bool:
    with socket.socket(fileno=os.dup(sender.fileno())) as end:
        try:
            return end.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return False
