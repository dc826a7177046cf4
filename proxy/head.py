"""What the head of a call on a deprecated endpoint says: judged once, and good for each call that has the same."""

from dataclasses import dataclass
from functools import cached_property

from proxy.admission import admit_body, admit_head
from proxy.contract.errors import ProxyError
from proxy.contract.messages import Request, write_lines
from proxy.policy.credentials import Credential
from proxy.rules import Endpoint, Rules
from proxy.wire import headers
from proxy.wire.headers import ToUpstream


@dataclass(frozen=True)
class Head:
    """An admitted head (admission 2 to 7), and what follows from it by the rules of its time."""

    rules: Rules
    endpoint: Endpoint
    request: Request
    credential: Credential
    to_upstream: ToUpstream

    def __repr__(self) -> str:
        return f"Head({self.endpoint.change.name})"  # the request may hold more than its repr shows

    @cached_property
    def listed(self) -> str | None:
        """The manufacturer whose list names the key."""
        return self.rules.manufacturers.listed(self.credential.digest)

    @cached_property
    def request_id(self) -> bytes | None:
        """The caller's own."""
        return headers.sent_request_id(self.request.fields)

    @cached_property
    def v2_lines(self) -> bytes:
        """The header lines of the call to v2, but for those that each call has of its own and the trace's."""
        return self.to_upstream.translated(self.request, self.credential.key)

    @cached_property
    def trace_lines(self) -> bytes:
        """The caller's trace context, where there are no spans of ours."""
        return write_lines(headers.trace_context(self.request.fields))

    @cached_property
    def v2_target(self) -> bytes:
        """Below the v2 upstream's URL."""
        return self.endpoint.change.v2_path.encode()


def read_head(rules: Rules, endpoint: Endpoint, request: Request, to_upstream: ToUpstream) -> Head:
    """Raises the CallerErrors of admission 3 to 7."""
    return Head(rules, endpoint, request, admit_head(request), to_upstream)


def recognise(rules: Rules, request: Request, to_upstream: ToUpstream) -> Head | None:
    """The head of a call that can be refused for its body or the schedule alone; None for any other."""
    endpoint = rules.by_path.get(request.path)
    if endpoint is None:
        return None
    try:
        head = read_head(rules, endpoint, request, to_upstream)
        admit_body(request)
    except ProxyError:
        return None
    return head
