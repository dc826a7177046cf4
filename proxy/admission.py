"""What a call must be to be taken (contract, "Admission"), but for the schedule and the message itself."""

import re

from proxy.contract.errors import (
    AmbiguousPath,
    CredentialError,
    MethodNotAllowed,
    NotFound,
    ProxyLoopDetected,
    UnsupportedMediaType,
)
from proxy.contract.messages import Fields, Request
from proxy.policy.credentials import Credential, read_credential
from proxy.wire import headers

METHOD = "POST"
"""Of every change, in v1 and in v2."""

_SLASH = rb"(?:[/\\]|%2f|%5c)"
_DOT_SEGMENT = re.compile(_SLASH + rb"(?:\.|%2e){1,2}(?:" + _SLASH + rb"|;|%3b|$)", re.IGNORECASE)
"""As any server may read it: RFC 3986, section 5.2.4, with what some decode first, and path parameters."""


def admit_head(request: Request) -> Credential:
    """Admission 3 to 7: what can be judged before the body is read."""
    if request.method != METHOD:
        raise MethodNotAllowed
    if headers.is_loop(request.fields):
        raise ProxyLoopDetected
    return read_credential(request.fields)


def admit_body(request: Request) -> None:
    """Admission 10 and 11, which come after the body's size."""
    if headers.is_encoded(request.fields):
        raise UnsupportedMediaType("Content-Encoding is not supported")
    if not headers.media_type_is_json(request.fields):
        raise UnsupportedMediaType


def admit_passage(request: Request) -> None:
    """Of a call that passes untouched: it has a path, which leads where it says, it may go further, and is no loop.

    A server behind us would resolve a dot segment, and the call would come out at a path that was never judged.
    """
    if not request.target.startswith(b"/"):
        raise NotFound  # OPTIONS *
    if headers.forwards_left(request) == 0:
        raise NotFound
    if headers.is_loop(request.fields):
        raise ProxyLoopDetected
    if _DOT_SEGMENT.search(request.path):
        raise AmbiguousPath


def find_credential(fields: Fields) -> Credential | None:
    """The key of a call that passes untouched, to count it by; whether it will do is the upstream's to say."""
    try:
        return read_credential(fields)
    except CredentialError:
        return None
