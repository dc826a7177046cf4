"""Header lines are gathered by name."""

from proxy.contract.messages import gather


def test_lines_are_gathered_in_their_order() -> None:
    assert gather([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]) == {b"a": (b"1", b"3"), b"b": (b"2",)}
