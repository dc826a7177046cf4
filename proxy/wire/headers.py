"""Header fields across the proxy: what goes to an upstream, what comes back, and what is ours to add.

A translated call is made anew: nothing of the caller's goes on but what is named here (contract, "To v2"). A call that
passes untouched keeps its end-to-end fields, both ways.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from os import register_at_fork, urandom

from proxy import __version__
from proxy.contract.messages import Field, Fields, Request, gather, read_lines, write_lines
from proxy.policy.deprecation import http_date
from proxy.wire.answer import MOST_HEADS, Answer

PSEUDONYM = b"nox-proxy"
"""Our name in Via and Proxy-Status."""
VIA = b"1.1 " + PSEUDONYM

IDS_AT_ONCE = 256

Networks = tuple[IPv4Network | IPv6Network, ...]

_USER_AGENT = PSEUDONYM + b"/" + __version__.encode()
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")
_CLEAN = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_IDS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT = re.compile(rb"00" + _IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _IDS + rb"(?:-[\x21-\x7e]*)?")
_TRACESTATE = re.compile(rb"[a-z0-9][a-z0-9_*/@-]*=[\x20-\x7e]+")
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110, sections 7.6.1 and 11.7; trailers themselves are read and left out."""
_OURS = frozenset(
    (
        b"content-length",
        b"expect",  # met: the body is at hand
        b"forwarded",
        b"host",
        b"nox-upstream",
        b"traceparent",
        b"tracestate",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
    )
)
"""Of a request that passes untouched: what is written anew, or was said to us alone."""
_NOT_PASSED = _HOP_BY_HOP | _OURS
_NOT_HANDED_BACK = _HOP_BY_HOP | {b"via"}
_LIMITS = (b"ratelimit", b"x-ratelimit-")
_DIGITS = re.compile(rb"\d{1,9}")
_VIA_COMMENT = re.compile(rb"\([^()]*\)")


def request_id(fields: Fields) -> bytes:
    """The caller's, or a new one."""
    return sent_request_id(fields) or new_request_id()


def sent_request_id(fields: Fields) -> bytes | None:
    """The caller's `x-request-id` if it is 1 to 128 visible ASCII characters."""
    theirs = _single(fields, b"x-request-id")
    return theirs if theirs and _REQUEST_ID.fullmatch(theirs) else None


def new_request_id() -> bytes:
    """A UUID (RFC 9562, version 4), out of randomness that is fetched for many at a time."""
    if not _ids:
        _ids.extend(_make_ids())
    return _ids.pop()


def is_loop(fields: Fields) -> bool:
    """Whether our own name stands in Via (RFC 9110, section 7.6.3): the proxy was pointed at itself."""
    return any(PSEUDONYM in value.lower() and _names_us(value) for value in fields.get(b"via", ()))


def _names_us(via: bytes) -> bool:
    hops = (hop.split() for hop in _VIA_COMMENT.sub(b" ", via).lower().split(b","))
    return any(len(hop) > 1 and hop[1] == PSEUDONYM for hop in hops)


def forwards_left(request: Request) -> int | None:
    """How often it may be sent on (RFC 9110, section 7.6.2); None where nothing is said of it."""
    said = _single(request.fields, b"max-forwards")
    return int(said) if said and _DIGITS.fullmatch(said) and request.method in ("OPTIONS", "TRACE") else None


def media_type_is_json(fields: Fields) -> bool:
    """`application/json`, any `+json`, or none (admission 11)."""
    sent = fields.get(b"content-type")
    if sent is None or sent == (b"application/json",):
        return True
    essence = sent[0].split(b";", 1)[0].strip().lower()
    kind, _, subtype = essence.partition(b"/")
    return len(sent) == 1 and (essence in (b"", b"application/json") or (bool(kind) and subtype.endswith(b"+json")))


def is_encoded(fields: Fields) -> bool:
    """Whether a Content-Encoding other than identity is on the body (admission 10)."""
    codings = b",".join(fields.get(b"content-encoding", ())).split(b",")
    return any(coding.strip().lower() not in (b"", b"identity") for coding in codings)


class ToUpstream:
    """Writes the header lines of a call, all but Host, which is the upstream's own.

    `trusted`: the peers whose `x-forwarded-*` and `forwarded` count. `trace`: its lines instead of the caller's.
    """

    def __init__(self, trusted: Networks) -> None:
        self._trusts = lru_cache(maxsize=1024)(lambda client: _is_among(client, trusted))

    def translated(self, request: Request, key: bytes) -> bytes:
        """Of a call to v2 in a v1 call's place (contract, "To v2"), but for its length, its ID and its trace."""
        fields = request.fields
        lines = [
            (b"x-api-key", key),
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", _valid(fields, b"user-agent") or _USER_AGENT),
            (b"via", _appended(fields, b"via", VIA)),
        ]
        lines += self._forwarding(request)
        if (idempotency_key := _valid(fields, b"idempotency-key")) is not None:
            lines.append((b"idempotency-key", idempotency_key))
        return write_lines(lines)

    def untouched(
        self, request: Request, request_id: bytes, body: bytes, trace: Iterable[Field] | None = None
    ) -> bytes:
        """Of a call that passes as it came: its end-to-end lines, the framing and forwarding ones written anew."""
        fields = request.fields
        left_out = _NOT_PASSED | _connection_options(fields)
        if (left := forwards_left(request)) is not None:
            fields = {**fields, b"max-forwards": (b"%d" % (left - 1),)}
        lines = [(name, value) for name, values in fields.items() if name not in left_out for value in values]
        if body or b"content-length" in fields or b"transfer-encoding" in fields:
            lines.append((b"content-length", b"%d" % len(body)))
        lines += ((b"via", _appended(fields, b"via", VIA)), (b"x-request-id", request_id))
        if self._is_trusted(request):
            lines += ((b"forwarded", value) for value in fields.get(b"forwarded", ()))
        lines += self._forwarding(request)
        lines += trace_context(fields) if trace is None else trace
        return write_lines(lines)

    def _is_trusted(self, request: Request) -> bool:
        return request.client is not None and self._trusts(request.client)

    def _forwarding(self, request: Request) -> Iterator[Field]:
        fields = request.fields if self._is_trusted(request) else {}
        if request.client:
            yield b"x-forwarded-for", _appended(fields, b"x-forwarded-for", request.client.encode())
        yield b"x-forwarded-proto", _valid(fields, b"x-forwarded-proto") or request.scheme.encode()
        host = _valid(fields, b"x-forwarded-host") or _valid(request.fields, b"host")
        if host:
            yield b"x-forwarded-host", host


def _is_among(client: str, networks: Networks) -> bool:
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in network for network in networks)


def trace_context(fields: Fields) -> Iterator[Field]:
    """`traceparent` and `tracestate` as they came, if valid (W3C Trace Context, sections 3.2 and 3.3)."""
    parent = _single(fields, b"traceparent")
    if not parent or not _TRACEPARENT.fullmatch(parent):
        return
    yield b"traceparent", parent
    state = b",".join(fields.get(b"tracestate", ()))
    members = [member.strip() for member in state.split(b",") if member.strip()]
    if members and len(members) <= 32 and all(_TRACESTATE.fullmatch(member) for member in members):
        yield b"tracestate", state


def _appended(fields: Fields, name: bytes, last: bytes) -> bytes:
    """A list field with one more member (RFC 9110, section 5.6.1)."""
    return b", ".join([*filter(None, fields.get(name, ())), last])


def _single(fields: Fields, name: bytes) -> bytes | None:
    """The value of a field that came exactly once."""
    values = fields.get(name)
    return values[0] if values is not None and len(values) == 1 else None


def _valid(fields: Fields, name: bytes) -> bytes | None:
    """The value of a field that came exactly once and may stand in a message (RFC 9110, section 5.5)."""
    value = _single(fields, name)
    return value if value and _VALUE.fullmatch(value) else None


@lru_cache(maxsize=MOST_HEADS)
def is_coded(fields: tuple[Field, ...]) -> bool:
    """Whether an upstream's body is compressed, though that was not asked for."""
    return any(name == b"content-encoding" and value.lower() != b"identity" for name, value in fields)


@lru_cache(maxsize=MOST_HEADS)
def from_upstream(fields: tuple[Field, ...]) -> bytes:
    """What of v2's header the caller gets: `retry-after` and the rate limits."""
    lines = b""
    for name, value in fields:
        if (name == b"retry-after" or name.startswith(_LIMITS)) and _VALUE.fullmatch(value):
            lines += b"%b: %b\r\n" % (name, value)
    return lines


def untouched_from_upstream(answer: Answer, method: bytes, announced: bytes, now: float) -> bytes:
    """The end-to-end lines of an answer that passes as it came, those announced, and Via (RFC 9110, section 7.6.3).

    Its own Deprecation and Sunset give way to ours. A Date that it lacks is added; `now` is in Unix seconds.
    """
    fields = gather(answer.fields)
    left_out = (
        _NOT_HANDED_BACK | _connection_options(fields) | {name for name, _ in read_lines(announced) if name != b"link"}
    )
    if method != b"HEAD":
        left_out |= {b"content-length"}
    kept = [(name, value) for name, value in answer.fields if name not in left_out and _CLEAN.fullmatch(value)]
    if method != b"HEAD" and answer.status not in (204, 304):
        kept.append((b"content-length", b"%d" % len(answer.body)))
    if b"date" not in fields:
        kept.append((b"date", date(now)))
    return write_lines(kept) + announced + write_lines(((b"via", _appended(fields, b"via", VIA)),))


def _connection_options(fields: Fields) -> set[bytes]:
    """The fields that Connection names: they were meant for one hop (RFC 9110, section 7.6.1)."""
    return {name.strip() for name in b",".join(fields.get(b"connection", ())).lower().split(b",")}


def proxy_status(reason: str) -> Field:
    """RFC 9209: why the answer is ours and not the upstream's."""
    return b"proxy-status", PSEUDONYM + b"; error=" + _type_of(reason)


def fallback_status(reason: str) -> Field:
    """RFC 9209: why v1 gave the answer and not v2."""
    return b"proxy-status", PSEUDONYM + b'; next-hop="v1"; error=' + _type_of(reason) + b'; details="v2 took nothing"'


def _type_of(reason: str) -> bytes:
    """The error's type as RFC 9209, section 2.3.2, has it: of a breaker it speaks as a next hop thought to be down."""
    return b"destination_unavailable" if reason == "breaker_open" else reason.encode()


def date(now: float) -> bytes:
    """A Date (RFC 9110, section 6.6.1); `now` is in Unix seconds."""
    return _date(int(now))


@lru_cache(maxsize=2)
def _date(seconds: int) -> bytes:
    return http_date(seconds).encode()


_ids: list[bytes] = []
register_at_fork(after_in_child=_ids.clear)  # no two processes are to give out the same


def _make_ids() -> list[bytes]:
    digits = urandom(16 * IDS_AT_ONCE).hex().encode()
    return [_uuid(digits[start : start + 32]) for start in range(0, len(digits), 32)]


def _uuid(digits: bytes) -> bytes:
    variant = b"89ab"[digits[16] % 4 :][:1]
    parts = (digits[:8], digits[8:12], digits[13:16], variant, digits[17:20], digits[20:])
    return b"%b-%b-4%b-%b%b-%b" % parts
