"""Whatever an upstream sends: an answer or a fault of ours, the same in any pieces, and never a byte of it too many."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from tests.fuzz.answers import ANSWERS, open_check
from tests.fuzz.inputs import BOUNDED, Check


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    with open_check() as check:
        yield check


@pytest.mark.parametrize("name", ANSWERS.kept())
def test_the_corpus(check: Check, name: str) -> None:
    check(ANSWERS.kept()[name], True)


@given(data=ANSWERS.inputs())
@settings(BOUNDED, max_examples=500)
def test_what_is_made_of_it(check: Check, data: bytes) -> None:
    check(data, False)
