"""Whatever a caller sends: v1's envelopes, the same in any pieces, and then the end."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from tests.fuzz.callers import REQUESTS, open_check
from tests.fuzz.inputs import BOUNDED, Check


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    with open_check() as check:
        yield check


@pytest.mark.parametrize("name", REQUESTS.kept())
def test_the_corpus(check: Check, name: str) -> None:
    check(REQUESTS.kept()[name], True)


@given(data=REQUESTS.inputs())
@settings(BOUNDED, max_examples=200)
def test_what_is_made_of_it(check: Check, data: bytes) -> None:
    check(data, False)
