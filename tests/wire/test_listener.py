"""The listening socket as it closes: who has got in is kept, and nobody gets in any more."""

import contextlib
import errno
import select
import socket
from collections.abc import Iterator

import pytest

from proxy.wire.listener import accept_waiting, bind, turn_away_newcomers

RETRANSMITTED_SECONDS = 10.0
"""Linux sends a SYN again after one second, and then after two."""


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with bind(request.param, 0) as listener:
        yield listener


@contextlib.contextmanager
def connecting(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(listener.family) as caller:
        caller.setblocking(False)
        assert caller.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        yield caller


def test_those_who_wait_get_in_and_newcomers_find_it_closed(listener: socket.socket) -> None:
    with connecting(listener) as first, connecting(listener) as second:
        turn_away_newcomers(listener)
        with connecting(listener) as late:
            waiting = accept_waiting(listener)
            assert sorted(each.getpeername() for each in waiting) == sorted(
                each.getsockname() for each in (first, second)
            )
            listener.close()
            _, settled, _ = select.select([], [late], [], RETRANSMITTED_SECONDS)
            assert settled
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        for caller, ours in zip((first, second), waiting, strict=True):
            caller.sendall(b"heard")
            select.select([ours], [], [], RETRANSMITTED_SECONDS)
            assert ours.recv(5) == b"heard"
            ours.close()


def test_nobody_waits(listener: socket.socket) -> None:
    assert accept_waiting(listener) == []
