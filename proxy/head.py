"""What the head of a call on a deprecated endpoint says: judged once, and good for each call that has the same."""

import msgspec

from proxy.admission import admit_body, admit_head
from proxy.contract.errors import ProxyError
from proxy.contract.messages import Request, write_lines
from proxy.policy.credentials import Credential
from proxy.rules import Endpoint, Rules
from proxy.wire import headers
from proxy.wire.headers import ToUpstream


class Head(msgspec.Struct, frozen=True, gc=False):
    """An admitted head (admission 3 to 7), and what follows from it by the rules of its time."""

    endpoint: Endpoint
    request: Request
    credential: Credential
    listed: str | None
    """The manufacturer whose list names the key."""
    request_id: bytes | None
    """The caller's own."""
    v2_target: bytes
    """Below the v2 upstream's URL."""
    v2_lines: bytes
    """The header lines of the call to v2, but for those that each call has of its own and the trace's."""
    trace_lines: bytes
    """The caller's trace context, for a call without spans of ours."""

    def __repr__(self) -> str:
        return f"Head({self.endpoint.change.name})"  # the lines hold the key


def read_head(rules: Rules, endpoint: Endpoint, request: Request, to_upstream: ToUpstream) -> Head:
    """Raises the errors of admission 3 to 7."""
    credential, fields = admit_head(request), request.fields
    return Head(
        endpoint,
        request,
        credential,
        rules.manufacturers.listed(credential.digest),
        headers.sent_request_id(fields),
        endpoint.v2_target,
        to_upstream.translated(request, credential.key),
        write_lines(headers.trace_context(fields)),
    )


def recognise(rules: Rules, request: Request, to_upstream: ToUpstream) -> Head | None:
    """The head of a call that can be refused for its body or by the schedule alone; None for any other."""
    endpoint = rules.by_path.get(request.path)
    if endpoint is None:
        return None
    try:
        head = read_head(rules, endpoint, request, to_upstream)
        admit_body(request)
    except ProxyError:
        return None
    return head
