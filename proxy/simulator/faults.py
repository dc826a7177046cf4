"""Faults that a simulated service can be told to have, one name each.

status=503   answers with that status, 300 to 599, and the service's error form
delay=0.5    answers after so many seconds
hang         reads and never answers
close        closes without an answer
cut          breaks off in the middle of its answer
garbage      answers something that is not HTTP
html         answers a balancer's 502 page
odd          answers 201 with a body of another form
mismatch     answers with another nox_user_id
drift        answers with a new, unknown field
gzip         compresses its answer, though not asked to
"""

import re

import msgspec

NAMES = ("hang", "close", "cut", "garbage", "html", "odd", "mismatch", "drift", "gzip")

_FAULT = re.compile(rf"(status)=((?!304)[345]\d\d)|(delay)=(\d{{1,3}}(?:\.\d+)?)|({'|'.join(NAMES)})")


class Fault(msgspec.Struct, frozen=True):
    """One fault; `amount` is the status or the seconds."""

    name: str
    amount: float = 0.0


def parse_fault(text: str) -> Fault:
    """Raises ValueError for what is not one of the above."""
    found = _FAULT.fullmatch(text)
    if found is None:
        raise ValueError(f"not a fault; one of: status=503, delay=0.5, {', '.join(NAMES)}")
    status, code, delay, seconds, name = found.groups()
    return Fault(status or delay or name, float(code or seconds or 0))
