"""Reload under load: 20 of them, half of broken files, and wrk checks every answer.

Two settings differ in all that an answer shows: who answered, the error code, the device IDs, the deprecation date.
"""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.policy.credentials import digest
from tests.processes import Simulator, eventually
from tests.test_reload import CHANGE, OK, RELOADED, Operated

REFUSED_KEY = "a-key-v2-does-not-know"
CALLS_BETWEEN = 100

SETTINGS = """
    [{change}]
    device_ids = "{device_ids}"
    [{change}.error_codes]
    "invalid api key" = "code_{name}"
    [{change}.deprecation]
    deprecated_at = {deprecated}
    [{change}.rollout]
    v2_percent = {percent}
    [manufacturers.pinned]
    keys_sha256 = ["{pinned}"]
    v2_percent = 100
"""
PINNED = digest(REFUSED_KEY.encode())
OLD = SETTINGS.format(
    change=CHANGE, name="old", device_ids="drop", deprecated="2023-06-30T23:59:59Z", percent=100, pinned=PINNED
)
NEW = SETTINGS.format(
    change=CHANGE, name="new", device_ids="drop", deprecated="2024-06-30T23:59:59Z", percent=0, pinned=PINNED
)
BROKEN = (NEW.replace("drop", "hunter-2"), f"{NEW}\n[manufacturers", OLD.replace("pinned", "unregistered"), "", "a = 1")

SCRIPT = """
-- Every second call bears a key that v2 refuses. An answer is one of four, or it is wrong.
local good = '{"manufacturer_user_id": "u-1", "device_ids": ["d-1"]}'
local calls = {}
local right = {
  ["201 @1688169599 []"] = "old", ["401 @1688169599 code_old"] = "old",
  ["201 @1719791999 [\\"d-1\\"]"] = "new", ["401 @1719791999 code_new"] = "new",
}
local threads, turn = {}, 0
old, new, wrong, example = 0, 0, 0, ""

function setup(thread) table.insert(threads, thread) end

function init()
  for _, key in ipairs({"demo-key", "REFUSED_KEY"}) do
    local headers = {["x-api-key"] = key, ["content-type"] = "application/json"}
    table.insert(calls, wrk.format("POST", "/manufacturers/nox", headers, good))
  end
end

function request() turn = turn + 1 return calls[turn % 2 + 1] end

function response(status, headers, body)
  local told = body:match('"error_code":"([%w_]+)"') or body:match('"device_ids":(%[[^%]]*%])')
  local seen = status .. " " .. tostring(headers["deprecation"]) .. " " .. tostring(told)
  local which = right[seen]
  if which == "old" then old = old + 1 elseif which == "new" then new = new + 1
  else wrong = wrong + 1 example = seen end
end

function done(summary)
  local sum, seen = {old = 0, new = 0, wrong = 0}, ""
  for _, thread in ipairs(threads) do
    for name in pairs(sum) do sum[name] = sum[name] + thread:get(name) end
    seen = seen .. thread:get("example")
  end
  local e = summary.errors
  io.write(string.format('\\n{"old": %d, "new": %d, "wrong": %d, "failed": %d, "example": %q}\\n',
    sum.old, sum.new, sum.wrong, e.connect + e.read + e.write + e.timeout, seen))
end
""".replace("REFUSED_KEY", REFUSED_KEY)


@pytest.mark.parametrize("workers", ["1", "2"], ids=["one worker", "two workers"])
def test_every_call_is_answered_by_the_old_settings_or_the_new(
    tmp_path: Path, v1: Simulator, v2: Simulator, need: Callable[[str], str], workers: str
) -> None:
    file = tmp_path / "nox-proxy.toml"
    file.write_text(OLD)
    proxy = Operated(file, v2, WORKERS=workers, UPSTREAMS__V1__URL=f"http://{v1.address}")
    try:
        told = under_load(need("wrk"), tmp_path, proxy, lambda: reload_20_times(proxy))
        assert (told["wrong"], told["failed"]) == (0, 0), told
        assert min(told["old"], told["new"]) > 10 * CALLS_BETWEEN / 2
        assert proxy.metrics()[OK] == 1
        assert not [line for line in proxy.err if "Traceback" in line]
    finally:
        assert proxy.stop() == 0


def under_load(wrk: str, place: Path, proxy: Operated, do: Callable[[], None]) -> dict[str, Any]:
    """What wrk saw while something was done."""
    script = place / "check.lua"
    script.write_text(SCRIPT)
    load = subprocess.Popen(
        [wrk, "-t2", "-c16", "-d120s", "--timeout", "20s", "-s", str(script), f"http://{proxy.address}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        do()
    finally:
        load.send_signal(signal.SIGINT)
        said, _ = load.communicate(timeout=20)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def reload_20_times(proxy: Operated) -> None:
    for number in range(20):
        before = len(proxy.out)
        assert eventually(lambda before=before: len(proxy.out) > before + CALLS_BETWEEN)  # type: ignore[misc]
        if number % 2 == 0:
            proxy.refuse(BROKEN[number // 2 % len(BROKEN)])
        else:
            assert any(line.endswith(RELOADED) for line in proxy.reload(NEW if number % 4 == 1 else OLD))
