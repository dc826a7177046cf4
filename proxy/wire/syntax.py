"""What llhttp lets pass of a request's head and HTTP does not, judged on values (contract, admission 1).

Each function raises the CallerError that answers its fault.
"""

import re
from collections.abc import Sequence

from proxy.contract.errors import ExpectationFailed, MalformedMessage

HEAD_END = b"\r\n\r\n"
"""The empty line behind the last field (RFC 9112, section 2.1)."""

_HOST = re.compile(rb"(?:[0-9A-Za-z._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")
"""RFC 3986, section 3.2.2, without the comma, which would read as two hosts in x-forwarded-host."""
_ABSOLUTE = re.compile(rb"https?://(?P<host>[^:/?][^/?]*)(?P<path>.*)", re.IGNORECASE | re.DOTALL)
"""RFC 9110, section 4.2.1: an empty host is no host."""


def judge_head(version: str, hosts: Sequence[bytes], codings: Sequence[bytes]) -> None:
    """Of the values of Host and of Transfer-Encoding. Raises MalformedMessage."""
    if version not in ("1.1", "1.0"):
        raise MalformedMessage
    # RFC 9112, section 3.2: a server MUST answer 400 to a missing, repeated or invalid Host.
    if len(hosts) != 1 and (hosts or version == "1.1"):
        raise MalformedMessage
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise MalformedMessage
    # RFC 9112, section 6.1: of a coding that is not undone here nobody behind us would know; HTTP/1.0 has none.
    if codings and (version == "1.0" or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise MalformedMessage


def expects_continue(version: str, expectations: Sequence[bytes]) -> bool:
    """Whether the caller waits for a 100 before it sends the body. Raises ExpectationFailed for anything else.

    RFC 9110, section 10.1.1: an expectation in HTTP/1.0 is ignored.
    """
    if version == "1.0":
        return False
    members = {member.strip().lower() for member in b",".join(expectations).split(b",")} - {b""}
    if members - {b"100-continue"}:
        raise ExpectationFailed
    return bool(members)


def read_target(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Path and query, and the host of a target that is absolute (RFC 9112, section 3.2). `*` stays.

    Raises MalformedMessage, also for a host with a user (RFC 9110, section 4.2.4) and for a fragment.
    """
    if b"#" in target:
        raise MalformedMessage
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _HOST.fullmatch(absolute["host"]):
        raise MalformedMessage
    path = absolute["path"]
    return path if path.startswith(b"/") else b"/" + path, absolute["host"]
