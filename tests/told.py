"""Whether a proxy said any of the secrets that the tests sent; what they sent was taken down by `tests/sent.py`."""

import re
from collections.abc import Iterable

from tests.processes import ROOT, Proxy
from tests.sent import sent

OURS = {word for file in (ROOT / "proxy").rglob("*.py") for word in re.findall(r"[a-z_]+", file.read_text())}
"""Our own words, which a test may send as a user ID, and no log can be without."""


def told(proxies: Iterable[Proxy]) -> list[str]:
    """Each secret that is in one of their logs or expositions."""
    whole = "\n".join(proxy.said() for proxy in proxies)
    return [secret for secret in sorted(sent - OURS) if secret in whole]
