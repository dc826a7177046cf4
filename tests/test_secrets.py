"""No key, user ID or device ID that the tests used is in any log or exposition, and one that is would be found.

`tests/conftest.py` looks through what all proxies said, at the end of each process of a run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT, UNMEASURED, Proxy, Simulator, call
from tests.sent import sent
from tests.told import told

KEY, USER, DEVICE = "a-key-to-be-kept", "a-user-to-be-kept", "a-device-to-be-kept"
BODY = json.dumps({"manufacturer_user_id": USER, "device_ids": [DEVICE]}).encode()


def test_no_secret_is_said(v2: Simulator) -> None:
    proxy = Proxy(v2.url)
    for headers in ({"x-api-key": KEY}, {"authorization": f"ApiKey {KEY}"}, {"authorization": f"Bearer {KEY}"}):
        call(proxy.address, BODY, headers)
        call(proxy.address, BODY[:-1], headers)
        call(proxy.address, BODY, headers, path=f"/{USER}?{KEY}")
    proxy.stop()
    assert sent >= {KEY, USER, DEVICE}
    assert proxy.said().count("connect_nox_user") > 3
    assert told([proxy]) == []


LEAK = f"""
from tests.processes import Proxy, call

def test_a_caller_has_its_key_logged(v2):
    proxy = Proxy(v2.url)
    call(proxy.address, {BODY!r}, {{"x-api-key": "{KEY}", "x-request-id": "{KEY}"}})
    assert proxy.stop() == 0
"""


def test_a_run_in_which_one_is_said_fails(tmp_path: Path) -> None:
    """In one of several processes: the caller gives its key for a request ID, which the log shows."""
    file = tmp_path / "test_leak.py"
    file.write_text(LEAK)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "1", "-p", "tests.conftest", str(file)]
    env = {**os.environ, **UNMEASURED, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert f"assert ['{KEY}'] == []" in run.stdout
    assert "1 passed, 1 error" in run.stdout
