"""An upstream's answer, and what is known of the heads of answers."""

import msgspec

from proxy.contract.messages import Field


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An upstream's whole answer. Names are in lower case."""

    status: int
    fields: tuple[Field, ...]
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


class AnswerHead(msgspec.Struct, frozen=True, gc=False):
    """The head of an answer that came whole in one packet and left its connection fit for another."""

    status: int
    fields: tuple[Field, ...]
    length: int
    """Of its body."""

    def __repr__(self) -> str:
        return f"AnswerHead({self.status}, {self.length} bytes)"


AnswerHeads = dict[bytes, AnswerHead]
"""By their bytes. A head that was parsed once needs no parser when it comes again: most differ from each other in
their Date alone."""
MOST_HEADS = 256
"""When there are so many, all go."""
