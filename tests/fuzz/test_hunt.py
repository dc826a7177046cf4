"""The hunt keeps what is new and what fails, and the corpus stays small."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz.__main__ import TARGETS, hunt
from tests.fuzz.inputs import MAX_BYTES, MAX_FILES, Check, Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_corpus_is_small(target: Target) -> None:
    kept = target.kept()
    assert 20 < len(kept) <= MAX_FILES
    assert max(map(len, kept.values())) <= MAX_BYTES


@pytest.mark.parametrize(("frail", "status"), [(True, 1), (False, 0)])
def test_a_hunt(tmp_path: Path, frail: bool, status: int) -> None:
    """A fault is made as small as it can be; of each new outcome one input is kept."""

    def check(data: bytes, _every: bool) -> str:
        assert not (frail and b"!" in data), "it does not stand this"
        return "long" if len(data) > 20 else "short"

    @contextmanager
    def opened() -> Iterator[Check]:
        yield check

    (tmp_path / "toys").mkdir()
    (tmp_path / "toys/first").write_bytes(b"first")
    target = Target("toys", [b"!" if frail else b"word" * 9], opened)
    assert hunt(target, 0.1, tmp_path) == status
    found = {name: data for name, data in target.kept(tmp_path).items() if name != "first"}
    assert any(b"!" in data and len(data) < 9 for data in found.values()) is frail
    assert any(len(data) > 20 for data in found.values()) is not frail
