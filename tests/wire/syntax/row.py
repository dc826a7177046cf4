"""A row of the table: raw bytes and what has to become of them; and what rows are made of."""

from typing import NamedTuple

USER, SMUGGLED, BEFORE, BEHIND = "u-of-the-row", "u-smuggled", "u-before-the-row", "u-behind-the-row"
"""Whom a row's own call names, whom a call in its body, and whom the calls that are sent before and behind it."""

LINE = b"POST /manufacturers/nox HTTP/1.1"
HOST = b"Host: auth.nox.energy"
KEY = b"X-Api-Key: demo-key"

CODES = {
    400: "bad_request",
    401: "missing_api_key",
    404: "not_found",
    405: "method_not_allowed",
    417: "expectation_failed",
    431: "request_header_fields_too_large",
}


class Row(NamedTuple):
    """Bytes, the status of their one answer, and whether the connection closes after it.

    `continues`: a 100 comes before the answer.
    """

    name: str
    message: bytes
    status: int = 400
    closes: bool = True
    continues: bool = False


def taken(name: str, message: bytes, *, closes: bool = False, continues: bool = False) -> Row:
    """A call that is lawful, or as good as: v2 gets it, and the caller a 201."""
    return Row(name, message, 201, closes, continues)


def told(user: str) -> bytes:
    """A body that names a user."""
    return b'{"manufacturer_user_id": "%s"}' % user.encode()


BODY = told(USER)
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"


def head(*fields: bytes, line: bytes = LINE, host: bytes = HOST) -> bytes:
    """A head with a Host and a key, and whatever else."""
    return b"\r\n".join((line, host, KEY, *fields, b"", b""))


def call(*fields: bytes, line: bytes = LINE, host: bytes = HOST, body: bytes = BODY) -> bytes:
    """A call with a body of known length."""
    return head(*fields, b"Content-Length: %d" % len(body), line=line, host=host) + body


def chunk(data: bytes, extension: bytes = b"", end: bytes = b"\r\n") -> bytes:
    return b"%x%s\r\n%s%s" % (len(data), extension, data, end)


LAST = b"0\r\n\r\n"
CHUNKS = chunk(BODY) + LAST

INNER = call(body=told(SMUGGLED))
"""A whole call, for a body or for behind one."""
FIRST = call(body=told(BEFORE))
NEXT = call(b"Connection: close", body=told(BEHIND))
"""What is sent behind a row: after its answer nothing more can come, so that answers can be counted."""
