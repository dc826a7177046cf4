"""The faults that v2 may have, each with what its callers are to be told (contract, "From v2")."""

from typing import Literal, NamedTuple

from tests.faults.manners import (
    GARBAGE,
    HTML,
    all_of_it,
    answers,
    answers_slowly,
    closes,
    closes_after,
    counted,
    fails_in_bursts,
    in_turns,
    instead,
    message,
    none_of_it,
    pours,
    resets,
    up_to,
    waits_a_little,
    with_another,
    without_last_chunk,
)
from tests.faults.v2 import Manner

DEADLINE = 2.0
"""The proxy's `timeout` for v2, in seconds."""
MIB = 1_048_576

Answer = tuple[int, str]
"""Status and `error_code`."""

CREATED: Answer = (201, "")
UNAVAILABLE: Answer = (502, "upstream_unavailable")
DISCONNECTED: Answer = (502, "upstream_disconnected")
INVALID: Answer = (502, "invalid_upstream_response")
TIMEOUT: Answer = (504, "upstream_timeout")
OVERLOADED: Answer = (503, "upstream_overloaded")


Place = Literal["plain", "tls", "nowhere"]
"""Where v2 is; nowhere has no address."""


class Fault(NamedTuple):
    """What v2 does, and what its callers are told: each of `answers` at least once, and `may` beside them."""

    name: str
    manner: Manner
    answers: tuple[Answer, ...]
    may: tuple[Answer, ...] = ()
    place: Place = "plain"
    padding: int = 0
    """Bytes by which each request is longer than it need be."""
    weight: int = 1
    """How many times longer than usual callers wait from call to call: it costs the test so much more."""


WELL = Manner(answers(all_of_it))

FAULTS = (
    Fault("refused", Manner(closes, listens=False), (UNAVAILABLE,)),
    Fault("unresolved", Manner(closes), (UNAVAILABLE,), place="nowhere"),
    Fault("never reads", Manner(closes, reads=False), (TIMEOUT,), padding=MIB // 4, weight=2),
    Fault("never answers", Manner(answers(none_of_it, "hold")), (TIMEOUT,)),
    Fault("a byte a second", Manner(answers_slowly), (TIMEOUT,)),
    Fault("closes at once", Manner(closes), (DISCONNECTED,)),
    Fault("closes in its header", Manner(answers(up_to(30), "close")), (DISCONNECTED,)),
    Fault("closes in its body", Manner(answers(up_to(-9), "close")), (DISCONNECTED,)),
    Fault(
        "closes between requests",
        Manner(in_turns(closes_after(0), closes_after(0.5), closes_after(1))),
        (CREATED,),
        (DISCONNECTED,),
    ),
    Fault(
        "resets",
        Manner(in_turns(resets, *(answers(say, "reset") for say in (none_of_it, up_to(30), up_to(-9))))),
        (DISCONNECTED,),
        (UNAVAILABLE,),  # it may come before the connection is made
    ),
    Fault(
        "a length too long",
        Manner(in_turns(answers(counted(9), "hold"), answers(counted(9), "close"))),
        (TIMEOUT, DISCONNECTED),
    ),
    Fault("a length too short", Manner(in_turns(answers(counted(-9)), answers(with_another))), (INVALID, CREATED)),
    Fault(
        "chunked, cut short",
        Manner(
            in_turns(
                answers(without_last_chunk, "close"), answers(lambda answer: without_last_chunk(answer)[:-9], "close")
            )
        ),
        (DISCONNECTED,),
    ),
    Fault("garbage", Manner(in_turns(*(answers(instead(each), "hold") for each in GARBAGE))), (INVALID,)),
    Fault(
        "100 MB",
        Manner(
            in_turns(
                pours(f"content-length: {100 * MIB}\r\n", b"x" * MIB),
                pours("transfer-encoding: chunked\r\n", b"%x\r\n%s\r\n" % (MIB, b"x" * MIB)),
                pours("", b"x" * MIB),
            )
        ),
        (INVALID,),
        weight=4,
    ),
    Fault(
        "a header of 1 MB",
        Manner(
            in_turns(
                answers(instead(message("201 Created", b"{}", f"a: {'x' * MIB}"))),
                answers(instead(message("201 Created", b"{}", *["a: b"] * (MIB // 6)))),
                answers(instead(f"HTTP/1.1 201 {'x' * MIB}\r\n\r\n".encode())),
            )
        ),
        (INVALID,),
        weight=4,
    ),
    Fault(
        "a page for a 502",
        Manner(answers(instead(message("502 Bad Gateway", HTML, "content-type: text/html")))),
        ((502, "bad_gateway"),),
    ),
    Fault(
        "a page for a 200",
        Manner(answers(instead(message("200 OK", HTML, "content-type: text/html")))),
        (INVALID,),
    ),
    Fault("expired", Manner(WELL.serve, certificate="expired"), (UNAVAILABLE,), place="tls", weight=2),
    Fault("another's certificate", Manner(WELL.serve, certificate="wrong_host"), (UNAVAILABLE,), place="tls", weight=2),
    Fault("self-signed", Manner(WELL.serve, certificate="self_signed"), (UNAVAILABLE,), place="tls", weight=2),
    Fault("500s in bursts", Manner(fails_in_bursts()), ((500, "internal_server_error"), CREATED)),
    Fault("goes and comes back", Manner(waits_a_little, period=0.7), (CREATED, UNAVAILABLE), (DISCONNECTED,)),
)

NAMED = {fault.name: fault for fault in FAULTS}
