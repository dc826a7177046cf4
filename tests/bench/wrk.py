"""The load: wrk on its core, with a script made of a scenario, and what it counted."""

import json
import math
import signal
import subprocess
import time
from pathlib import Path

import msgspec

from tests.bench.machine import LOADS_CORE, pinned
from tests.bench.scenarios import HEADERS, Request, Scenario

OWN_IDS = 10_000
"""Heads that differ are made ahead and come round: wrk is to stay cheap."""
CYCLE = 20
"""Requests of an error mix, in an order that spreads them."""
ATTEMPTS = 3
MOST_BEHIND_MS = 100.0
"""What a paced load makes good: a candidate that cannot keep up is not charged for more, and its rate says so."""

_MADE = """
local made, turn = {{}}, 0
function init()
{steps}
end
function request()
   turn = turn % #made + 1
   return made[turn]
end
"""

_COUNTS = """
{zeroes}
function response(status)
   local name = "seen_" .. status
   if _G[name] then _G[name] = _G[name] + 1 else seen_others = seen_others + 1 end
end
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
local function counted(name) return threads[1]:get(name) end
"""

_PACED = """
local ffi = require("ffi")
ffi.cdef("typedef struct {{ long s; long n; }} moment; int clock_gettime(int, moment *);")
local at, due = ffi.new("moment"), nil
function delay()
   ffi.C.clock_gettime(1, at)
   local now = tonumber(at.s) * 1e3 + tonumber(at.n) / 1e6
   due = math.max(due or now, now - {behind}) - math.log(1 - math.random()) * {gap}
   return math.max(0, math.floor(due - now + math.random()))
end
"""
"""Calls come at random moments at a rate, whoever of the connections is free taking the next. wrk's delay counts whole
milliseconds; a moment between two is now the one, now the other, so that the rate holds."""

_DONE = """
function done(summary, latency)
   local errors = summary.errors
   io.stderr:write(string.format(
      '{{"requests":%d,"seconds":%.6f,"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,' ..
      '"p50_ms":%.4f,"p99_ms":%.4f,"seen":{{{formats}}}}}',
      summary.requests, summary.duration / 1e6, errors.status, errors.connect, errors.read, errors.write,
      errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3{values}))
end
"""


class Counted(msgspec.Struct, frozen=True):
    """What wrk says; `refused` are answers of 400 and above, `seen` the answers by status where they are told apart."""

    requests: int
    seconds: float
    refused: int
    connect: int
    read: int
    write: int
    timeout: int
    p50_ms: float
    p99_ms: float
    seen: dict[str, int]


class Load(msgspec.Struct, frozen=True):
    """What one turn came to. `answered` counts the answers that were expected; `faults` says what was not."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    faults: tuple[str, ...]


def press(scenario: Scenario, url: str, seconds: float, directory: Path, rate: float | None = None) -> Load:
    """As much as a candidate takes, or at a rate a second."""
    script = directory / "load.lua"
    script.write_text(write_script(scenario, rate))
    options = ("-t1", f"-c{scenario.connections}", "--timeout", "60s", "-s", str(script))
    said = _run(seconds, *options, url)
    try:
        return _judge(scenario, msgspec.json.decode(said, type=Counted))
    except msgspec.DecodeError as error:
        raise RuntimeError(f"wrk said: {said}") from error


def _run(seconds: float, *options: str) -> str:
    """What wrk says on standard error. It takes whole seconds; within one it is interrupted, and still sums up.

    On a busy machine that may come before it listens to signals, and ends it: then it is run again.
    """
    is_whole = seconds == int(seconds)
    most = math.ceil(seconds) + (0 if is_whole else 5)
    for _ in range(ATTEMPTS):
        command = pinned(str(LOADS_CORE), "wrk", f"-d{most}s", *options)
        wrk = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            if not is_whole:
                time.sleep(seconds)
                wrk.send_signal(signal.SIGINT)
            said = wrk.communicate(timeout=seconds + 60)[1]
        finally:
            wrk.kill()
            wrk.wait()
        if wrk.returncode != -signal.SIGINT:
            break
    return said


def _judge(scenario: Scenario, counted: Counted) -> Load:
    kinds = {"connect": counted.connect, "read": counted.read, "write": counted.write, "timeout": counted.timeout}
    faults = [f"{count} {kind} errors" for kind, count in kinds.items() if count]
    answered = counted.requests - counted.refused
    if scenario.has_errors:
        answered = sum(count for status, count in counted.seen.items() if status != "others")
        faults += _wrong_shares(scenario, counted)
    elif counted.refused:
        faults.append(f"{counted.refused} answers of 400 and above")
    if not answered:
        faults.append("no answer")
    return Load(answered, counted.seconds, counted.p50_ms, counted.p99_ms, tuple(faults))


def _wrong_shares(scenario: Scenario, counted: Counted) -> list[str]:
    wrong = [f"{count} answers of another status" for count in (counted.seen["others"],) if count]
    for request in scenario.requests:
        share = 100 * counted.seen[str(request.expected)] / max(1, counted.requests)
        if abs(share - request.share) > 1 + 100 * scenario.connections / max(1, counted.requests):
            wrong.append(f"{share:.1f} % of {request.expected}, not {request.share} %")
    return wrong


def write_script(scenario: Scenario, rate: float | None = None) -> str:
    """In Lua."""
    return _requests(scenario) + (_PACED.format(gap=1_000 / rate, behind=MOST_BEHIND_MS) if rate else "")


def _requests(scenario: Scenario) -> str:
    """A static request, which wrk writes once, unless the scenario asks for more."""
    requests = scenario.requests
    if len(requests) == 1 and not scenario.own_ids:
        return f'wrk.method = "POST"\n{_lua_headers(requests[0])}wrk.body = {_quote(requests[0].body)}\n' + _done(())
    parts = ['wrk.method = "POST"\n', _MADE.format(steps="\n".join(_steps(scenario)))]
    statuses = tuple(str(request.expected) for request in requests) if scenario.has_errors else ()
    if statuses:
        zeroes = "\n".join(f"seen_{each} = 0" for each in (*statuses, "others"))
        parts.append(_COUNTS.format(zeroes=zeroes))
    return "".join(parts) + _done((*statuses, "others") if statuses else ())


def _steps(scenario: Scenario) -> list[str]:
    if scenario.own_ids:
        return [
            _lua_headers(scenario.requests[0]),
            f"local body = {_quote(scenario.requests[0].body)}",
            f"for number = 1, {OWN_IDS} do",
            '   wrk.headers["x-request-id"] = string.format("call-%08x-%08x", number * 2654435761 % 2^32, number)',
            "   made[number] = wrk.format(nil, nil, nil, body)",
            "end",
        ]
    return [
        f"{_lua_headers(request)}made[{place + 1}] = wrk.format(nil, nil, nil, {_quote(request.body)})"
        for place, request in enumerate(_spread(scenario.requests))
    ]


def _spread(requests: tuple[Request, ...]) -> list[Request]:
    """A cycle with each request as often as its share says, none in one heap."""
    placed = []
    for request in requests:
        count = request.share * CYCLE // 100
        placed += [((place + 0.5) / count, request) for place in range(count)]
    return [request for _, request in sorted(placed, key=lambda each: each[0])]


def _done(names: tuple[str, ...]) -> str:
    formats = ",".join(f'"{name}":%d' for name in names)
    return _DONE.format(formats=formats, values="".join(f', counted("seen_{name}")' for name in names))


def _lua_headers(request: Request) -> str:
    headers = {**HEADERS, "x-api-key": request.key}
    return "".join(f"wrk.headers[{_quote(name)}] = {_quote(value)}\n" for name, value in headers.items())


def _quote(text: str) -> str:
    """As Lua reads it; what is said here is ASCII without a line's end, and JSON's quoting is Lua's there."""
    return json.dumps(text)
