"""After the whole run: no key, user ID or device ID that the tests used is in any log or exposition.

`tests/conftest.py` has this file run last. What it looks for and where was taken down by `tests/sent.py`.
"""

import json
import re

from tests.processes import ROOT, Proxy, Simulator, call, proxies
from tests.sent import sent

KEY, USER, DEVICE = "a-key-to-be-kept", "a-user-to-be-kept", "a-device-to-be-kept"
OURS = {word for file in (ROOT / "proxy").rglob("*.py") for word in re.findall(r"[a-z_]+", file.read_text())}
"""Our own words, which a test may send as a user ID, and no log can be without."""


def test_no_secret_of_the_whole_run_was_said(v2: Simulator) -> None:
    """Run alone it makes a load of its own, so that there is always something to be found."""
    proxy = Proxy(v2.url)
    body = json.dumps({"manufacturer_user_id": USER, "device_ids": [DEVICE]}).encode()
    for headers in ({"x-api-key": KEY}, {"authorization": f"ApiKey {KEY}"}, {"authorization": f"Bearer {KEY}"}):
        call(proxy.address, body, headers)
        call(proxy.address, body[:-1], headers)
        call(proxy.address, body, headers, path=f"/{USER}?{KEY}")
    proxy.stop()

    secrets = sorted(sent - OURS)
    assert {KEY, USER, DEVICE} <= set(secrets)
    whole = "\n".join(each.said() for each in proxies)
    assert whole.count("connect_nox_user") > 3
    assert [secret for secret in secrets if secret in whole] == []
