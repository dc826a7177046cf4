"""A bug as the log tells of it; tests/test_crashes.py has bugs in running processes."""

import asyncio
from types import FunctionType

import pytest

from proxy.telemetry.bugs import described, tell_unhandled

SECRET = "secret-4711"


def stumble() -> None:
    raise KeyError(SECRET)


def stumble_over_another() -> None:
    try:
        stumble()
    except KeyError as error:
        raise ValueError(SECRET) from error


def stumble_as_well() -> None:
    try:
        stumble()
    except KeyError:
        raise ValueError(SECRET)  # noqa: B904  # as a bug would


def hide_another() -> None:
    try:
        stumble()
    except KeyError:
        raise ValueError(SECRET) from None


def stumble_together() -> None:
    raise ExceptionGroup(SECRET, [KeyError(SECRET), ExceptionGroup(SECRET, [OSError(SECRET)])])


@pytest.mark.parametrize(
    ("bug", "types"),
    [
        (stumble, ["KeyError"]),
        (stumble_over_another, ["ValueError", "of KeyError"]),
        (stumble_as_well, ["ValueError", "of KeyError"]),
        (hide_another, ["ValueError"]),
        (stumble_together, ["ExceptionGroup", "of KeyError", "of ExceptionGroup", "of OSError"]),
    ],
)
def test_types_and_places(bug: FunctionType, types: list[str]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        bug()
    told = described(raised.value)
    assert [line for line in told.splitlines() if not line.startswith(" ")] == types
    assert f"in {bug.__name__}" in told
    assert SECRET not in told


def test_what_a_loop_says_without_an_exception_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner() as runner:
        tell_unhandled(runner.get_loop(), {"message": "Task was destroyed but it is pending!", "task": SECRET})
    assert caplog.messages == ["unhandled: Task was destroyed but it is pending!"]
