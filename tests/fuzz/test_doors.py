"""Whatever a caller sends: the same answers by the direct door and without it, for heads that are known and others."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from tests.fuzz.doors import DOORS, open_check
from tests.fuzz.inputs import BOUNDED, Check


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    with open_check() as check:
        yield check


@pytest.mark.parametrize("name", DOORS.kept())
def test_the_corpus(check: Check, name: str) -> None:
    check(DOORS.kept()[name], True)


@given(data=DOORS.inputs())
@settings(BOUNDED, max_examples=100)
def test_what_is_made_of_it(check: Check, data: bytes) -> None:
    check(data, False)
