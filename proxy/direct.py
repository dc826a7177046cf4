"""The direct door into the pipeline, beside the one for ASGI: for whole requests, by heads that are known."""

from functools import partial

from proxy.contract.messages import Request
from proxy.pipeline import Pipeline
from proxy.rules import Rules
from proxy.wire.direct import Known

MOST_HEADS = 1_024
MOST_BYTES = 2_048
"""Of a head that is kept. The two bound what all of them take to a few megabytes."""


class DirectDoor:
    """Keeps what follows from a head, so that a caller who says the same again is heard at once.

    When there are too many all go: callers whose heads differ each time would drive out the others one by one. And
    `forget` is called now and then, so that no key outlasts its calls for long.
    """

    def __init__(self, pipeline: Pipeline, max_body_bytes: int) -> None:
        self._pipeline = pipeline
        self._max_body_bytes = max_body_bytes
        self.known: dict[tuple[str | None, bytes], Known] = {}

    def __repr__(self) -> str:
        return f"DirectDoor({len(self.known)} heads)"  # which hold keys

    def settle(self) -> None:
        """The calls of one stage have gone as far as they could."""
        self._pipeline.settle()

    def apply(self, _: Rules) -> None:
        """Other rules hold from now on."""
        self.forget()

    def forget(self) -> None:
        """Each head is judged anew when it comes again."""
        self.known.clear()

    def learn(self, head: bytes, request: Request, length: int) -> Known | None:
        """Judges the head of a request with a body of `length` bytes. None: it is not for this door."""
        judged = self._pipeline.recognise(request) if length <= self._max_body_bytes else None
        if judged is None:
            return None
        answer, needs_body = partial(self._pipeline.answer_known, judged), partial(self._pipeline.needs_body, judged)
        known = Known(length, answer, needs_body)
        if len(head) <= MOST_BYTES:
            if len(self.known) >= MOST_HEADS:
                self.known.clear()
            self.known[request.client, head] = known
        return known
