"""Whatever stands in a body: a value that can be sent on or an error of ours, as a strict reader would have it."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from tests.fuzz.bodies import BODIES, open_check
from tests.fuzz.inputs import BOUNDED, Check


@pytest.fixture(scope="module")
def check() -> Iterator[Check]:
    with open_check() as check:
        yield check


@pytest.mark.parametrize("name", BODIES.kept())
def test_the_corpus(check: Check, name: str) -> None:
    check(BODIES.kept()[name], True)


@given(body=BODIES.inputs())
@settings(BOUNDED, max_examples=500)
def test_what_is_made_of_it(check: Check, body: bytes) -> None:
    check(body, False)
