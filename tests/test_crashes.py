"""Bugs of ours, put in on purpose where a caller's values are at hand: what the log says of them, and what it does not.

Their words, their arguments and their locals hold those values, as any bug's may.
"""

import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.processes import ROOT, Proxy, Simulator, call, eventually

KEY, USER = "the-key-of-a-crash", "the-user-of-a-crash"
BODY = b'{"manufacturer_user_id": "%s"}' % USER.encode()

SCRIPT = """
import asyncio, re, sys, threading, time
from proxy import cli, serve
from proxy.app import Door
from proxy.direct import DirectDoor
from proxy.wire.protocol import ServerProtocol
from proxy.wire.senders import PoolSender

kept = []

def stumble(place, *values):
    words = " ".join(map(str, values))
    raise type(f"BugIn{place.title()}", (KeyError,), {})(words, *values)

async def stumble_later(*values):
    stumble(*values)

class Last:
    def __init__(self, *values):
        self.values = values
    def __del__(self):
        stumble(*self.values)

places = {
    "protocol": stumble,
    "call": lambda *values: asyncio.get_running_loop().call_soon(stumble, *values),
    "task": lambda *values: asyncio.get_running_loop().create_task(stumble_later(*values)) and None,
    "thread": lambda *values: threading.Thread(target=stumble, args=values).start(),
    "finalizer": Last,
    "end": lambda *values: kept.append(values),
}

def around(method):
    def data_received(self, data):
        place = re.search(rb"x-bug: ([a-z]+)", data)
        if place and place[1].decode() in places:
            places[place[1].decode()](place[1].decode(), data)
        method(self, data)
    return data_received

def at_the_door(method):
    async def door(self, scope, receive, send):
        if (b"x-bug", b"door") in scope["headers"]:
            time.sleep(0.2)
            stumble("door", scope["headers"])
        await method(self, scope, receive, send)
    return door

def at_the_direct_door(method):
    def learn(self, head, request, length):
        if request.fields.get(b"x-bug") == (b"direct",):
            stumble("direct", head)
        return method(self, head, request, length)
    return learn

def before_the_end(function):
    async def run_servers(*args, **kwargs):
        await function(*args, **kwargs)
        for values in kept:
            stumble(*values)
    return run_servers

async def send(self, *values):
    stumble("send", *values)

ServerProtocol.data_received = around(ServerProtocol.data_received)
Door.__call__ = at_the_door(Door.__call__)
DirectDoor.learn = at_the_direct_door(DirectDoor.learn)
PoolSender.send = send
serve.run_servers = before_the_end(serve.run_servers)
cli.main()
"""
PLACES = ("send", "door", "direct", "protocol", "call", "task", "thread", "finalizer", "end")
"""Found by the pipeline, by uvicorn, by the event loop in four ways, by Python in two, and as the process ends."""


class Buggy(Proxy):
    command = (sys.executable, "-c", SCRIPT)

    def tells(self, place: str) -> bool:
        return any(line.endswith(f"BugIn{place.title()}") for line in list(self.err))


@pytest.mark.parametrize(("workers", "debug"), [("1", True), ("2", False)])
def test_a_bug_is_told_without_its_words(
    v2: Simulator, monkeypatch: pytest.MonkeyPatch, workers: str, debug: bool
) -> None:
    """Its type and the lines of code that led to it are, and in Python's development mode what takes long."""
    if debug:
        monkeypatch.setenv("PYTHONDEVMODE", "1")
    proxy = Buggy(v2.url, WORKERS=workers)
    monkeypatch.undo()
    for place in PLACES:
        with suppress(OSError):  # not each bug leaves somebody who answers
            path = "/other" if place == "door" else "/manufacturers/nox"
            headers = {"x-api-key": KEY, "content-type": "application/json", "x-bug": place}
            call(proxy.address, BODY, headers, path=path)
        assert place == "end" or eventually(partial(proxy.tells, place)), place
    proxy.stop()
    told = "\n".join([*proxy.out, *proxy.err])
    assert proxy.tells("end")
    assert "in stumble" in told
    assert "in data_received" in told
    assert ("Executing <" in told) is debug
    assert [secret for secret in (KEY, USER) if secret in told] == []


VERIFY = """
import os
from proxy import cli
from proxy.verify.run import Run

def make(self, on_progress):
    raise KeyError(os.environ["NOX_VERIFY_KEY"], self._plan.key)

Run.make = make
cli.main()
"""


def test_a_bug_of_verify_does_not_show_its_key() -> None:
    made = subprocess.run(
        [sys.executable, "-c", VERIFY, "verify", "--url", "http://127.0.0.1:9"],
        env={**os.environ, "NOX_VERIFY_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )
    assert made.returncode == 1
    assert made.stderr.startswith("crashed: KeyError\n")
    assert "in make" in made.stderr
    assert KEY not in made.stdout + made.stderr


def test_no_core_file_is_written(proxy: Proxy) -> None:
    """The keys of the calls under way would be in it; its workers have their limits from the first process."""
    limits = Path(f"/proc/{proxy.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
