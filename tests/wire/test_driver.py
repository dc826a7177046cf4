"""A coroutine without a task: it goes where one with a task goes, and is cancelled as one."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from proxy.wire.driver import Drive, Wait

RUNS = (asyncio.run, uvloop.run)


@pytest.fixture(params=RUNS, ids=("asyncio", "uvloop"))
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    found: Callable[[Awaitable[None]], None] = request.param
    return found


async def told(wait: asyncio.Future[str]) -> str:
    try:
        return await wait
    except (ValueError, asyncio.CancelledError) as error:
        return type(error).__name__


def test_it_goes_on_within_the_call_that_ends_its_wait(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        loop, ends = asyncio.get_running_loop(), list[str]()
        for end, expected in (
            (lambda wait: wait.end("told"), "told"),
            (lambda wait: wait.fail(ValueError()), "ValueError"),
        ):
            wait = Wait[str](loop)
            Drive(told(wait), ends.append).go_on()
            assert ends == []
            end(wait)  # type: ignore[no-untyped-call]  # a lambda
            assert ends == [expected]
            ends.clear()

    run(main())


def test_what_has_ended_is_not_waited_for(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        wait, ends = Wait[str](asyncio.get_running_loop()), list[str]()
        wait.end("told")
        Drive(told(wait), ends.append).go_on()
        assert ends == ["told"]

    run(main())


def test_any_other_future_and_a_task_will_do(run: Callable[[Awaitable[None]], None]) -> None:
    async def in_turn() -> str:
        await asyncio.sleep(0.001)
        await asyncio.create_task(asyncio.sleep(0))
        return "told"

    async def main() -> None:
        end = asyncio.get_running_loop().create_future()
        Drive(in_turn(), end.set_result).go_on()
        assert await end == "told"

    run(main())


def test_to_a_task_a_wait_is_a_future(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wait = Wait[str](loop)
        task = asyncio.create_task(told(wait))
        await asyncio.sleep(0)
        wait.end("told")
        assert await task == "told"

    run(main())


def test_a_cancelled_one_ends_where_it_waits(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for wait in (Wait[str](loop), loop.create_future()):
            end = loop.create_future()
            drive = Drive(told(wait), end.set_result)
            drive.go_on()
            drive.cancel()
            assert not end.done(), "whoever cancels is not to be run into"
            assert await end == "CancelledError"

    run(main())
