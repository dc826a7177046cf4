"""A coroutine without a task: it goes where one with a task goes, and is cancelled as one."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import uvloop

from proxy.wire.driver import MOST, Drive, Stage, Wait

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


def test_steps_are_taken_together_at_the_end_of_the_turn(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        stage, taken = Stage(), list[int]()
        for number in range(MOST - 1):
            stage.add(partial(taken.append, number))
        assert taken == []
        await asyncio.sleep(0)
        assert taken == [*range(MOST - 1)]

    run(main())


def test_many_steps_wait_for_no_turn(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        stage, taken = Stage(), list[int]()
        for number in range(MOST + 1):
            stage.add(partial(taken.append, number))
        assert taken == [*range(MOST)]
        await asyncio.sleep(0)
        assert taken == [*range(MOST + 1)]

    run(main())


def test_a_step_that_raises_is_not_the_others_end(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        stage, taken, told = Stage(), list[str](), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        bug = KeyError()

        def stumble() -> None:
            raise bug

        for step in (partial(taken.append, "before"), stumble, partial(taken.append, "after")):
            stage.add(step)
        for _ in range(3):
            await asyncio.sleep(0)
        assert (taken, told) == (["before", "after"], [bug])

    run(main())


def test_it_goes_on_with_the_others_of_its_stage(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        ends, stage = list[str](), Stage()
        good, bad = (Wait[str](loop=asyncio.get_running_loop()) for _ in range(2))
        for wait in (good, bad):
            Drive(told(wait), ends.append, stage).go_on()
        good.end("told")
        bad.fail(ValueError())
        assert ends == []
        await asyncio.sleep(0)
        assert ends == ["told", "ValueError"]

    run(main())


def test_what_has_ended_is_not_waited_for(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        wait, ends = Wait[str](loop=asyncio.get_running_loop()), list[str]()
        wait.end("told")
        Drive(told(wait), ends.append, Stage()).go_on()
        assert ends == ["told"]

    run(main())


def test_any_other_future_and_a_task_will_do(run: Callable[[Awaitable[None]], None]) -> None:
    async def in_turn() -> str:
        await asyncio.sleep(0.001)
        await asyncio.create_task(asyncio.sleep(0))
        return "told"

    async def main() -> None:
        end = asyncio.get_running_loop().create_future()
        Drive(in_turn(), end.set_result, Stage()).go_on()
        assert await end == "told"

    run(main())


def test_to_a_task_a_wait_is_a_future(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wait = Wait[str](loop=loop)
        task = asyncio.create_task(told(wait))
        await asyncio.sleep(0)
        wait.end("told")
        assert await task == "told"

    run(main())


def test_a_cancelled_one_ends_where_it_waits(run: Callable[[Awaitable[None]], None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for wait in (Wait[str](loop=loop), loop.create_future()):
            end = loop.create_future()
            drive = Drive(told(wait), end.set_result, Stage())
            drive.go_on()
            drive.cancel()
            assert not end.done(), "whoever cancels is not to be run into"
            assert await end == "CancelledError"

    run(main())
