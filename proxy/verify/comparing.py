"""The same call's replies from two deployments, compared as the shadow compares v1's and v2's answers."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from proxy.contract.comparison import Difference, NotAnEnvelope, compare, is_measure, read_envelope
from proxy.verify.calls import Call, Reply
from proxy.verify.checks import APIKEY, JSON, KEY
from proxy.verify.judges import links_of

HEADERS = ("deprecation", "sunset")

CALLS: tuple[tuple[str, Call], ...] = (
    *((f"user {number}", Call((KEY, JSON), b'{"manufacturer_user_id": "$USER-c%d"}' % number)) for number in range(12)),
    *(
        (
            f"user {number} with device IDs",
            Call(
                (APIKEY, JSON),
                b'{"manufacturer_user_id": "$USER-c%d", "device_ids": ["$USER-%d", "b"]}' % (number, number),
            ),
        )
        for number in range(12)
    ),
    ("no key", Call((JSON,), b'{"manufacturer_user_id": "$USER-c0"}')),
    ("a key that nobody has", Call(((b"x-api-key", b"$REFUSED"), JSON), b'{"manufacturer_user_id": "$USER-c0"}')),
    ("no user", Call((KEY, JSON), b"{}")),
    ("a number for a user", Call((KEY, JSON), b'{"manufacturer_user_id": 4711}')),
)
"""What a legacy integration sends; each answer is one that v1 and v2 give alike."""


class Compared(msgspec.Struct, frozen=True):
    """One call's two replies. `differences` are kinds by field; `why` says why they were not compared."""

    call: str
    result: Literal["same", "differs", "not compared"]
    differences: dict[str, str] = {}
    why: str = ""


def compare_replies(call: str, url: Reply | None, against: Reply | None) -> Compared:
    """`against` is the measure; None stands for no answer. Its own faults say nothing about `url`."""
    if against is None:
        return Compared(call, "not compared", why="no answer from --against")
    if not is_measure(against.status):
        return Compared(call, "not compared", why=f"{against.status} from --against")
    try:
        read_envelope(against.body)
    except NotAnEnvelope:
        return Compared(call, "not compared", why="no v1 envelope from --against")
    found = (Difference("answer", "missing"),) if url is None else _differences(against, url)
    return Compared(call, "differs" if found else "same", {each.field: each.kind for each in found})


def _differences(against: Reply, url: Reply) -> tuple[Difference, ...]:
    try:
        found = compare(against.status, against.body, url.status, url.body)
    except NotAnEnvelope:
        return (Difference("envelope", "missing"),)
    return (*found, *_header_differences(against, url))


def _header_differences(against: Reply, url: Reply) -> tuple[Difference, ...]:
    """None where one of the two announces no deprecation: it is then no nox-proxy, but v1 itself."""
    if not links_of(against) or not links_of(url):
        return ()
    found = [Difference(name, "value") for name in HEADERS if against.value(name) != url.value(name)]
    if links_of(against) != links_of(url):
        found.append(Difference("link", "value"))
    return tuple(found)


class Latency(msgspec.Struct, frozen=True):
    """In milliseconds, over all calls that were answered."""

    p50: float
    p95: float
    p99: float


def latency(replies: Sequence[Reply]) -> Latency | None:
    """By nearest rank; None without replies."""
    taken = sorted(reply.seconds * 1_000 for reply in replies)
    if not taken:
        return None
    return Latency(*(round(taken[math.ceil(len(taken) * share) - 1], 2) for share in (0.5, 0.95, 0.99)))


class Comparison(msgspec.Struct, frozen=True):
    """What came of comparing. Latencies decide nothing."""

    against: str
    minimum: int
    calls: tuple[Compared, ...]
    url_latency: Latency | None
    against_latency: Latency | None

    def count(self, result: str) -> int:
        """How many calls came out so."""
        return sum(call.result == result for call in self.calls)

    @property
    def is_enough(self) -> bool:
        """Whether enough were compared to say that the two are alike."""
        return len(self.calls) - self.count("not compared") >= self.minimum
