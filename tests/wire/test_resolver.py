"""Lookups of hosts: few of them whatever their callers do, and every address of a host tried."""

import asyncio
import gc
import socket
from contextlib import ExitStack

import httpx
import pytest

from proxy.wire.pool import Limits, Origin, Pool
from proxy.wire.resolver import Resolver, look_up
from tests.wire.servers import OK, OURS, Authority, Scripted, Way, asynchronous, serve, turn, unused_port

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=OURS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


class Lookups:
    """A resolver of the system's that hangs until `found` is there, or fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return await asyncio.shield(self.found)


@asynchronous
async def test_one_lookup_for_all(way: Way) -> None:
    lookups = Lookups()
    resolver = Resolver(lookups)
    waiting = [asyncio.ensure_future(resolver.addresses("a", 80)) for _ in range(10)]
    another = asyncio.ensure_future(resolver.addresses("b", 80))
    await turn()
    assert lookups.asked == [("a", 80), ("b", 80)]
    lookups.found.set_result(["::1"])
    assert await asyncio.gather(*waiting, another) == [["::1"]] * 11


@asynchronous
async def test_those_who_gave_up_leave_no_lookups_behind(way: Way) -> None:
    """Else they would stand before the next caller's when the resolver is well again."""
    lookups = Lookups()
    resolver = Resolver(lookups)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.addresses("a", 80), 0.01)
    last = asyncio.ensure_future(resolver.addresses("a", 80))
    await turn()
    lookups.found.set_result(["::1"])
    assert await last == ["::1"]
    assert len(lookups.asked) == 1


@asynchronous
async def test_a_lookup_that_fails_is_not_kept(way: Way) -> None:
    lookups = Lookups()
    resolver = Resolver(lookups)
    for found in (lookups.found, asyncio.get_running_loop().create_future()):
        lookups.found = found
        waiting = [asyncio.ensure_future(resolver.addresses("a", 80)) for _ in range(2)]
        await turn()
        found.set_exception(socket.gaierror("no such name"))
        for each in waiting:
            with pytest.raises(socket.gaierror):
                await each
    assert len(lookups.asked) == 2


@asynchronous
async def test_a_lookup_that_fails_when_nobody_waits_is_no_matter(way: Way) -> None:
    """What asyncio says of an exception that nobody heard would fail this test."""
    lookups = Lookups()
    resolver = Resolver(lookups)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver.addresses("a", 80), 0.01)
    lookups.found.set_exception(socket.gaierror("no such name"))
    await turn()
    del lookups, resolver
    gc.collect()


@asynchronous
async def test_a_lookup_that_never_ends_holds_nobody_for_good(way: Way) -> None:
    lookups = Lookups()
    resolver = Resolver(lookups, patience=0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver.addresses("a", 80), 0.2)
    lookups.found = asyncio.get_running_loop().create_future()
    lookups.found.set_result(["::1"])
    assert await resolver.addresses("a", 80) == ["::1"]
    assert len(lookups.asked) == 2


@asynchronous
async def test_an_address_is_itself(way: Way) -> None:
    assert await look_up("127.0.0.1", 80) == ["127.0.0.1"]
    assert await look_up("::1", 80) == ["::1"]


# In the pool


def at_both(*addresses: str) -> Resolver:
    async def found(*_: object) -> list[str]:
        return list(addresses)

    return Resolver(found)


@asynchronous
async def test_where_one_address_refuses_the_next_is_tried(way: Way, authority: Authority) -> None:
    async with serve(Scripted(OK)) as server:
        pool = Pool(Limits(timeout=2.0), authority.client(), at_both("127.0.0.2", "127.0.0.1"))
        assert (await pool.exchange(Origin("http", "a", server.port), GET)).body == b"ok"
        await pool.aclose()


@asynchronous
async def test_where_one_address_hangs_the_next_has_its_time(way: Way, authority: Authority) -> None:
    """Its queue of connections is full, so the kernel does not answer."""
    async with serve(Scripted(OK)) as server:
        with socket.socket() as deaf, ExitStack() as queue:
            deaf.bind(("127.0.0.2", server.port))
            deaf.listen(0)
            for _ in range(4):
                waiting = queue.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.2", server.port))
            pool = Pool(Limits(timeout=2.0, connect_timeout=0.6), authority.client(), at_both("127.0.0.2", "127.0.0.1"))
            assert (await pool.exchange(Origin("http", "a", server.port), GET)).body == b"ok"
            await pool.aclose()


@asynchronous
async def test_where_all_refuse_the_last_ones_fault_counts(way: Way, authority: Authority) -> None:
    pool = Pool(Limits(timeout=2.0), authority.client(), at_both("127.0.0.2", "127.0.0.1"))
    with pytest.raises(httpx.ConnectError) as caught:
        await pool.exchange(Origin("http", "a", unused_port()), GET)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@asynchronous
async def test_a_certificate_at_fault_is_not_asked_for_again(way: Way) -> None:
    authority = Authority()
    async with serve(Scripted(OK), authority.server("expired")) as server:
        pool = Pool(Limits(timeout=2.0), authority.client(), at_both("127.0.0.1", "127.0.0.1"))
        with pytest.raises(httpx.ConnectError):
            await pool.exchange(Origin("https", "localhost", server.port), GET)
    assert authority.asked == ["localhost"]
