"""Values show no secret, and header lines are gathered by name."""

import pytest

from proxy.contract.changes.connect_nox_user import V1Request
from proxy.contract.messages import Request, Response, gather
from proxy.policy.credentials import Credential
from proxy.translation import Translated
from proxy.verify.calls import Call
from proxy.wire.connection import Answer

SECRET = "secret-4711"
LINE = (b"x-api-key", SECRET.encode())


@pytest.mark.parametrize(
    "value",
    [
        Request("POST", SECRET.encode(), gather([LINE])),
        Response(201, (LINE,), SECRET.encode()),
        Answer(201, (LINE,), SECRET.encode()),
        V1Request(SECRET, (SECRET,)),
        Credential(SECRET.encode(), "x-api-key", "ab" * 32),
        Translated(201, SECRET.encode(), "answered", drifted=False),
        Call(((b"x-api-key", SECRET.encode()),), SECRET.encode()),
    ],
)
def test_no_repr_holds_a_secret(value: object) -> None:
    assert SECRET not in f"{value!r} {value}"


def test_lines_are_gathered_in_their_order() -> None:
    assert gather([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]) == {b"a": (b"1", b"3"), b"b": (b"2",)}
