"""The secrets that the tests send, taken down so that none of them can be in a log unseen."""

import contextlib
import json
import re

from hypothesis import currently_in_test_context

sent: set[str] = set()
"""Every key, user ID and device ID that `call` and `Wire` sent, where it is long enough to be told from a word."""

_KEYS = re.compile(rb"(?im)^(?:x-api-key|authorization: *\w+) *:? *([!-~]+)")


def note_secrets(body: bytes, headers: dict[str, str] | None = None) -> None:
    """Takes down the secrets of a request; without `headers` `body` is the whole message.

    Not what Hypothesis makes up: it takes texts out of our own source, and no log can be without `nox-proxy`.
    """
    if currently_in_test_context():
        return
    if headers is None:
        head, _, body = body.partition(b"\r\n\r\n")
    else:
        head = "\n".join(f"{name}: {value}" for name, value in headers.items()).encode()
    found = [key.decode("latin-1") for key in _KEYS.findall(head)]
    with contextlib.suppress(ValueError, RecursionError):
        asked = json.loads(body)
        if isinstance(asked, dict):
            devices = asked.get("device_ids")
            found += [asked.get("manufacturer_user_id"), *(devices if isinstance(devices, list) else [])]
    sent.update(secret for secret in found if isinstance(secret, str) and len(secret) >= 6)
