"""Faults that a simulated service can be told to have, one name each.

status=503   answers with that status and the service's error form
delay=0.5    answers after so many seconds
hang         reads and never answers
close        closes without an answer
cut          breaks off in the middle of its answer
garbage      answers something that is not HTTP
html         answers a balancer's 502 page
odd          answers 201 with a body of another form
drift        answers with a new, unknown field
gzip         compresses its answer, though not asked to
"""

import re

import msgspec

NAMES = ("status", "delay", "hang", "close", "cut", "garbage", "html", "odd", "drift", "gzip")


class Fault(msgspec.Struct, frozen=True):
    """One fault; `amount` is the status or the seconds."""

    name: str
    amount: float = 0.0


def parse_fault(text: str) -> Fault:
    """Raises ValueError for what is not one of the above."""
    name, _, amount = text.partition("=")
    numeric = name in ("status", "delay")
    if name not in NAMES or numeric != bool(amount) or (amount and not re.fullmatch(r"\d{1,4}(\.\d+)?", amount)):
        raise ValueError(f"not a fault; one of: {', '.join(NAMES)} (status=503, delay=0.5)")
    return Fault(name, float(amount or 0))
