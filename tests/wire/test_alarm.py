"""The deadline that moves, by a loop whose clock is ours."""

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.wire.alarm import Alarm


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop of timers alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def go_to(self, now: float) -> None:
        self.now = now
        due = [timer for timer in self.timers if timer.when <= now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.when > now and not timer.cancelled]
        for timer in due:
            timer.call()


def rung() -> tuple[Clock, Alarm, list[float]]:
    clock, at = Clock(), list[float]()
    return clock, Alarm(cast(asyncio.AbstractEventLoop, clock), lambda: at.append(clock.now)), at


def test_it_rings_when_the_moment_set_last_has_come() -> None:
    clock, alarm, at = rung()
    for start in range(100):
        clock.go_to(start / 10)
        alarm.set(start / 10 + 5)
    assert len(clock.timers) == 1, "a timer a call is what it is there to save"
    clock.go_to(14.8)
    assert at == []
    clock.go_to(14.9)
    assert at == [14.9]
    assert clock.timers == []


def test_an_earlier_moment_counts_at_once() -> None:
    clock, alarm, at = rung()
    alarm.set(10)
    alarm.set(1)
    clock.go_to(1)
    assert at == [1]
    clock.go_to(10)
    assert at == [1]


def test_a_later_moment_after_it_rang() -> None:
    clock, alarm, at = rung()
    alarm.set(1)
    clock.go_to(1)
    alarm.set(3)
    clock.go_to(3)
    assert at == [1, 3]


def test_once_ended_it_rings_no_more_and_holds_on_to_nothing() -> None:
    clock, alarm, at = rung()
    alarm.set(1)
    alarm.end()
    clock.go_to(2)
    assert (at, clock.timers) == ([], [])
    alarm.set(3)
    clock.go_to(3)
    assert at == []
