"""The contract's checks, each row of it that needs no fault, as a tuple of values.

Not here: an empty user ID, which would make a user that nobody finds again.
"""

from typing import NamedTuple

from proxy.contract.messages import Field
from proxy.verify.calls import V1, Call
from proxy.verify.judges import (
    Promise,
    connected,
    deprecation,
    device_ids,
    links,
    new_request_id,
    not_found,
    refused,
    refused_by_service,
    same_user,
    sunset,
    too_large,
    via,
)


class Check(NamedTuple):
    """A row of the contract, what is done there, and what is promised. Without calls all replies so far are judged."""

    row: str
    name: str
    promise: Promise
    calls: tuple[Call, ...] = ()

    @property
    def wanted(self) -> str:
        """In words."""
        return self.promise.wanted


class RawCheck(NamedTuple):
    """Bytes that are no call, written with `$BASE` (the URL's path) and `$HOST`."""

    row: str
    name: str
    message: bytes
    may_be_taken: bool = False
    """How much header a deployment takes is its own to set."""
    statuses: tuple[int, ...] = (400, 431)

    @property
    def wanted(self) -> str:
        """In words."""
        return f"{' or '.join(map(str, self.statuses))}, and the connection closed"


KEY = (b"x-api-key", b"$KEY")
APIKEY = (b"authorization", b"ApiKey $KEY")
JSON = (b"content-type", b"application/json")
GOOD = b'{"manufacturer_user_id": "$USER-1"}'
CALL = Call((KEY, JSON), GOOD)

MISSING = refused(401, "missing_api_key", "Missing API key")
CONFLICTING = refused(401, "conflicting_api_keys")
UNFIT = refused(401, "invalid_api_key")
LOOP = refused(502, "proxy_loop_detected")
MEDIA = refused(415, "unsupported_media_type")
NO_JSON = refused(400, "invalid_json")
NO_USER = refused(400, "invalid_request", "manufacturer_user_id is required and must be a string")
NO_DEVICES = refused(400, "invalid_request", "device_ids must be an array of strings")
NO_OBJECT = refused(400, "invalid_request", "Request body must be a JSON object")


def lines(row: str, name: str, promise: Promise, *fields: Field) -> Check:
    """A good body under these header lines."""
    return Check(row, name, promise, (Call(fields, GOOD),))


def body(row: str, name: str, promise: Promise, content: bytes) -> Check:
    """A body under good header lines."""
    return Check(row, name, promise, (CALL._replace(body=content),))


def user(name: str, text: bytes, *, odd: bool = False) -> Check:
    """A user of a kind."""
    return body("201", name, connected(odd=odd), b'{"manufacturer_user_id": "$USER-%s"}' % text)


def devices(listed: bytes) -> Call:
    """A call with device IDs."""
    return CALL._replace(body=b'{"manufacturer_user_id": "$USER-d%d", "device_ids": %s}' % (len(listed), listed))


HEAD = b"POST $BASE/manufacturers/nox HTTP/1.1\r\n"
PIECE = b"x" * 65_536

CHECKS: tuple[Check | RawCheck, ...] = (
    Check("201", "a connection", connected(), (CALL,)),
    RawCheck("1", "no Host", HEAD + b"content-length: 0\r\n\r\n"),
    RawCheck("1", "two Hosts", HEAD + b"host: $HOST\r\nhost: other\r\ncontent-length: 0\r\n\r\n"),
    RawCheck("1", "two lengths", HEAD + b"host: $HOST\r\ncontent-length: 0\r\ncontent-length: 1\r\n\r\n"),
    RawCheck("1", "no request line", b"nonsense\r\n\r\n"),
    RawCheck(
        "1",
        "64 KiB of header",
        HEAD + b"host: $HOST\r\nconnection: close\r\ncontent-length: 0\r\nx-verify: " + PIECE + b"\r\n\r\n",
        may_be_taken=True,
    ),
    RawCheck(
        "9",
        "an answer before the body",
        HEAD + b"host: $HOST\r\ncontent-length: %d\r\n\r\nbut a few" % (1 << 40),
        statuses=(401, 413),  # a key it has none, and whoever stands in front of the proxy may judge the length first
    ),
    Check("2", "a trailing slash", connected(), (CALL._replace(path=V1 + b"/"),)),
    Check("2", "another path", not_found(), (Call((), b"", b"GET", b"/$USER"),)),
    *(
        Check("3", method.decode(), refused(405, "method_not_allowed"), (CALL._replace(method=method, body=b""),))
        for method in (b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS")
    ),
    lines("4", "our name in Via", LOOP, KEY, JSON, (b"via", b"1.1 nox-proxy")),
    lines("4", "our name among others", LOOP, KEY, JSON, (b"via", b"1.0 a, 1.1 NOX-Proxy (b), 1.1 c")),
    lines("4", "another name in Via", connected(), KEY, JSON, (b"via", b"1.1 nox-proxy-edge")),
    lines("5", "no key", MISSING, JSON),
    lines("5", "an empty x-api-key", MISSING, JSON, (b"x-api-key", b"")),
    lines("5", "an ApiKey without one", MISSING, JSON, (b"authorization", b"ApiKey")),
    lines("5", "Bearer", MISSING, JSON, (b"authorization", b"Bearer $KEY")),
    lines("6", "two x-api-key", CONFLICTING, KEY, JSON, (b"x-api-key", b"$REFUSED")),
    lines("6", "both headers, differing", CONFLICTING, KEY, JSON, (b"authorization", b"ApiKey $REFUSED")),
    lines("6", "both headers, the same", connected(), KEY, JSON, APIKEY),
    lines("6", "x-api-key and Bearer", connected(), KEY, JSON, (b"authorization", b"Bearer $REFUSED")),
    lines("7", "a key with a space", UNFIT, JSON, (b"x-api-key", b"a b")),
    lines("7", "a key of 513 bytes", UNFIT, JSON, (b"x-api-key", b"k" * 513)),
    lines("401", "a key that nobody has", refused_by_service(), JSON, (b"x-api-key", b"$REFUSED")),
    Check(
        "9",
        "a body of 1 TiB announced",
        refused(413, "payload_too_large"),
        (Call((KEY, JSON, (b"content-length", b"%d" % (1 << 40))), b""),),
    ),
    Check(
        "9",
        "a body of 2 MiB in chunks",
        too_large(),
        (Call((KEY, JSON, (b"transfer-encoding", b"chunked")), (b"10000\r\n" + PIECE + b"\r\n") * 32 + b"0\r\n\r\n"),),
    ),
    lines("10", "Content-Encoding: gzip", MEDIA, KEY, JSON, (b"content-encoding", b"gzip")),
    lines("10", "Content-Encoding: identity", connected(), KEY, JSON, (b"content-encoding", b"identity")),
    lines("11", "text/plain", MEDIA, KEY, (b"content-type", b"text/plain")),
    lines("11", "a form", MEDIA, KEY, (b"content-type", b"application/x-www-form-urlencoded")),
    lines("11", "JSON with a charset", connected(), KEY, (b"content-type", b"Application/JSON; charset=utf-8")),
    lines("11", "+json", connected(), KEY, (b"content-type", b"application/vnd.nox.v1+json")),
    lines("11", "no media type", connected(), KEY),
    body("12", "no body", NO_JSON, b""),
    body("12", "half an object", NO_JSON, GOOD[:-1]),
    body("12", "NaN", NO_JSON, b'{"manufacturer_user_id": "$USER-1", "x": NaN}'),
    body("12", "-Infinity", NO_JSON, b'{"manufacturer_user_id": "$USER-1", "x": -Infinity}'),
    body("12", "a lone surrogate", NO_JSON, b'{"manufacturer_user_id": "$USER-\\ud800"}'),
    body("12", "one in another field", NO_JSON, b'{"manufacturer_user_id": "$USER-1", "x": "\\udfff"}'),
    body("12", "no UTF-8", NO_JSON, b'{"manufacturer_user_id": "$USER-\xff"}'),
    body("12", "text after it", NO_JSON, GOOD + b" more"),
    body("12", "a byte order mark", NO_JSON, b"\xef\xbb\xbf" + GOOD),
    body("12", "a comma too many", NO_JSON, GOOD[:-1] + b",}"),
    body("12", "50,000 arrays deep", NO_JSON, b'{"manufacturer_user_id": "$USER-1", "x": ' + b"[" * 50_000),
    body(
        "12", "two equal names", connected(), b'{"manufacturer_user_id": "$USER-no", "manufacturer_user_id": "$USER-1"}'
    ),
    body("13", "no field", NO_USER, b"{}"),
    body("13", "a null user", NO_USER, b'{"manufacturer_user_id": null}'),
    body("13", "a number for a user", NO_USER, b'{"manufacturer_user_id": 4711}'),
    body("13", "v2's field", NO_USER, b'{"user_id": "$USER-1"}'),
    body("13", "a text for devices", NO_DEVICES, GOOD[:-1] + b', "device_ids": "d"}'),
    body("13", "null for devices", NO_DEVICES, GOOD[:-1] + b', "device_ids": null}'),
    body("13", "a number among devices", NO_DEVICES, GOOD[:-1] + b', "device_ids": ["d", 1]}'),
    body("13", "an array", NO_OBJECT, b"[]"),
    body("13", "a text", NO_OBJECT, b'"$USER-1"'),
    body("13", "fields that v1 does not know", connected(), GOOD[:-1] + b', "other": {"deep": [1]}}'),
    Check(
        "order",
        "the method before the loop",
        refused(405, "method_not_allowed"),
        (Call((KEY, (b"via", b"1.1 nox-proxy")), b"", method=b"GET"),),
    ),
    lines("order", "the loop before the key", LOOP, JSON, (b"via", b"1.1 nox-proxy")),
    lines("order", "the key before the media type", MISSING, (b"content-type", b"text/plain")),
    Check("order", "the media type before the JSON", MEDIA, (Call((KEY, (b"content-type", b"text/plain")), b"{"),)),
    lines("201", "Authorization: ApiKey", connected(), JSON, APIKEY),
    lines("201", "apikey in small letters", connected(), JSON, (b"authorization", b"apikey $KEY")),
    lines("x-request-id", "one with a space", new_request_id(), (b"x-request-id", b"a b")),
    user("an emoji", "🙂".encode(), odd=True),
    user("quotes and backslashes", rb"\"'\\/", odd=True),
    user("a NUL", rb"\u0000", odd=True),
    user("10,000 characters", b"x" * 10_000, odd=True),
    Check("201", "the same user again", same_user(), (CALL, CALL, Call((APIKEY, JSON), GOOD))),
    Check(
        "14",
        "device_ids",
        device_ids(),
        tuple(map(devices, (b'["$USER-d"]', b'["$USER-2", "$USER-1"]', b'["", "\\ud83d\\ude42", "$USER"]', b"[]"))),
    ),
    Check("headers", "Via", via()),
    Check("headers", "Link", links()),
    Check("headers", "Deprecation", deprecation()),
    Check("headers", "Sunset", sunset()),
)
