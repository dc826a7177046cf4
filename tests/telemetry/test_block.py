"""Numbers in memory that outlives the worker that wrote them."""

import logging
import os

import pytest

from proxy.telemetry.block import SCRAP, WORD, Block, Key

CALLS: Key = ("calls", ("acme", "201"))
TIMES: Key = ("times", ('é\u2028 "quoted"',))


def test_a_series_begins_at_nothing_and_keeps_its_place() -> None:
    block = Block()
    calls, times = block.place(CALLS), block.place(TIMES, 3)
    block.cells[calls] += 1
    block.cells[times + 2] += 2.5
    assert (block.place(CALLS), block.place(TIMES, 3)) == (calls, times)
    assert dict(block.values()) == {CALLS: [1.0], TIMES: [0.0, 0.0, 2.5]}


def test_another_process_reads_them_and_goes_on_where_a_killed_one_stopped() -> None:
    """What a forked worker wrote is there after its end, and so is what its successor adds."""
    block = Block()

    def work() -> None:
        block.cells[block.place(CALLS)] += 1
        block.cells[block.place(TIMES, 3)] += 1

    for count in (1.0, 2.0):
        pid = os.fork()
        if not pid:
            work()
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
        assert dict(block.values()) == {CALLS: [count], TIMES: [count, 0.0, 0.0]}


def test_a_series_that_was_cut_off_while_it_was_made_is_made_anew() -> None:
    """A worker was killed before its new series counted as one: nothing of it shows in the next."""
    block = Block()
    block._bytes[WORD:] = b"x" * (len(block._bytes) - WORD)
    block.place(TIMES, 3)
    assert dict(block.values()) == {TIMES: [0.0, 0.0, 0.0]}


def test_a_full_block_costs_the_count_and_not_the_call(caplog: pytest.LogCaptureFixture) -> None:
    block = Block((100 + SCRAP) * WORD)
    placed = [block.place(("n", (str(n),)), 15) for n in range(9)]
    with caplog.at_level(logging.ERROR):
        for first in placed:
            for cell in range(first, first + 15):
                block.cells[cell] += 1
    kept = dict(block.values())
    assert 0 < len(kept) < 9
    assert all(cells == [1.0] * 15 for cells in kept.values())
    assert placed == [block.place(("n", (str(n),)), 15) for n in range(9)]
    assert len(caplog.records) == 9 - len(kept)
