"""v2's answer as v1's (contract, "From v2"): for the caller, and for the shadow's comparison."""

import msgspec

from proxy.contract.envelope import failure, success
from proxy.contract.errors import InvalidUpstreamResponse
from proxy.contract.messages import Body
from proxy.rules import Endpoint
from proxy.wire.answer import Answer
from proxy.wire.headers import is_coded


class Translated(msgspec.Struct, frozen=True, gc=False):
    """A v1 envelope. `outcome` is `answered` or the error's `error_code`."""

    status: int
    body: bytes
    outcome: str
    drifted: bool
    """v2's body had a field that its description does not know."""

    def __repr__(self) -> str:
        return f"Translated({self.status})"  # the body names a user


def to_v1(endpoint: Endpoint, asked: Body, answer: Answer, now: float) -> Translated:
    """`asked` is what the caller sent, `now` in Unix seconds. Raises InvalidUpstreamResponse."""
    status = answer.status
    if is_coded(answer.fields):
        raise InvalidUpstreamResponse(reason="http_response_content_coding")
    if 200 <= status < 300:
        told, drifted = endpoint.change.read_answer(answer.body)
        data = endpoint.change.to_v1(asked, told, endpoint.policies)
        return Translated(201, success(data, now), "answered", drifted)
    if 400 <= status < 600:
        text, code, drifted = endpoint.errors.to_v1(status, answer.body)
        return Translated(status, failure(text, code, now), code, drifted)
    raise InvalidUpstreamResponse
