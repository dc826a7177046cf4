"""What the fuzz tests feed: a corpus in files, which every run replays whole, and what Hypothesis makes of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
MAX_FILES = 64
"""Of one kind: a run replays them all."""
MAX_BYTES = 1024
"""Of one file."""

BOUNDED = settings(deadline=None, derandomize=True, database=None)
"""The same inputs in every run; `python -m tests.fuzz` hunts with others."""

Check = Callable[[bytes, bool], str]
"""Judges one input, and says in a few words what came of it. The flag asks for every way to split it in two."""


class Target(NamedTuple):
    """What is fuzzed. `words` are what its inputs are made of; `open` gives its check, for a while."""

    kind: str
    words: Sequence[bytes]
    open: Callable[[], AbstractContextManager[Check]]

    def kept(self, corpus: Path = CORPUS) -> dict[str, bytes]:
        """The corpus by its files' names."""
        return {file.name: file.read_bytes() for file in sorted((corpus / self.kind).iterdir())}

    def inputs(self, corpus: Path = CORPUS) -> st.SearchStrategy[bytes]:
        """The corpus with words put in, taken out and exchanged, two of its files in a row, and words alone."""
        kept = st.sampled_from([*self.kept(corpus).values()])
        word = st.sampled_from(self.words) | st.binary(max_size=2)
        in_a_row = st.builds(bytes.__add__, kept, kept)
        words = st.lists(word, max_size=12).map(b"".join)
        edits = st.lists(st.tuples(st.integers(0, MAX_BYTES), st.integers(0, 6), word), min_size=1, max_size=4)
        return st.builds(_edited, kept | kept | in_a_row, edits) | words


def _edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, word in edits:
        start = place % (len(data) + 1)
        data = data[:start] + word + data[start + length :]
    return data[:MAX_BYTES]


def splits(data: bytes, every: bool) -> Iterator[list[bytes]]:
    """Ways in which it may arrive: at once, byte by byte, and in some pieces, or in any two."""
    yield [data]
    yield [data[place : place + 1] for place in range(len(data))]
    if every:
        yield from ([data[:place], data[place:]] for place in range(1, len(data)))
        return
    chance = Random(data)  # the same pieces for the same input
    for pieces in (2, 3, 6):
        places = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(pieces - 1))})
        yield [data[start:end] for start, end in pairwise(places)]
