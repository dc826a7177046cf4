"""Rows of what a message says of its connection: close, upgrade, expectations, bodies nobody reads; and its size.

RFC 9112, section 9; RFC 9110, sections 7.8 and 10.1.1.
"""

from tests.wire.syntax.row import (
    BODY,
    CHUNKED,
    CHUNKS,
    HOST,
    INNER,
    KEY,
    LAST,
    LENGTH,
    LINE,
    Row,
    call,
    chunk,
    head,
    taken,
)

OLD = LINE[:-1] + b"0"
GET = b"GET /manufacturers/nox HTTP/1.1"
LIMIT = 32_768

CLOSING = (
    taken("Connection: close", call(b"Connection: close") + INNER, closes=True),
    taken("Connection: CLOSE", call(b"Connection: CLOSE") + INNER, closes=True),
    taken("close among other options", call(b"Connection: x-hop, close , te") + INNER, closes=True),
    taken("close in a second line", call(b"Connection: keep-alive", b"Connection: close") + INNER, closes=True),
    taken("close before garbage", call(b"Connection: close") + b"\x00garbage\r\n\r\n", closes=True),
    taken("close with chunks", head(CHUNKED, b"Connection: close") + CHUNKS + INNER, closes=True),
    taken("close and an upgrade", call(b"Connection: close, upgrade", b"Upgrade: a") + INNER, closes=True),
    taken("Connection: keep-alive", call(b"Connection: keep-alive", b"Keep-Alive: timeout=5")),
    taken("an option that begins as close", call(b"Connection: closed")),
    taken("an empty Connection", call(b"Connection:")),
    taken("a Connection that names the key", call(b"Connection: x-api-key")),
    Row("close on GET", head(b"Connection: close", line=GET) + INNER, 405),
)

UPGRADES = (
    taken("an upgrade to h2c", call(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEA")),
    taken("an upgrade with chunks", head(CHUNKED, b"Connection: upgrade", b"Upgrade: h2c") + CHUNKS),
    taken(
        "an upgrade to a websocket", call(b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    ),
    taken("an upgrade to several", call(b"Connection: upgrade", b"Upgrade: a/1, b/2")),
    taken("an Upgrade that Connection does not name", call(b"Upgrade: h2c")),
    taken("an upgrade that is not named", call(b"Connection: upgrade")),
    taken("an upgrade with HTTP/1.0", call(b"Connection: upgrade", b"Upgrade: a", line=OLD), closes=True),
    Row("an upgrade on GET", head(b"Connection: upgrade", b"Upgrade: websocket", line=GET), 405, closes=False),
    Row("an upgrade with a faulty length", head(b"Connection: upgrade", b"Upgrade: a", b"Content-Length: +5") + BODY),
    Row("an upgrade with CL and TE", head(b"Connection: upgrade", b"Upgrade: a", LENGTH, CHUNKED) + CHUNKS),
    Row("an upgrade with faulty chunks", head(b"Connection: upgrade", b"Upgrade: a", CHUNKED) + b"0x0\r\n\r\n" + INNER),
    Row("an upgrade with TE and HTTP/1.0", head(b"Connection: upgrade", b"Upgrade: a", CHUNKED, line=OLD) + CHUNKS),
)

EXPECTATIONS = (
    taken("Expect: 100-continue", call(b"Expect: 100-continue"), continues=True),
    taken("Expect: 100-Continue", call(b"Expect: 100-Continue"), continues=True),
    taken("Expect: 100-CONTINUE", call(b"Expect: 100-CONTINUE"), continues=True),
    taken("the expectation between white space", call(b"Expect:\t100-continue \t"), continues=True),
    taken("the expectation twice", call(b"Expect: 100-continue", b"Expect: 100-continue"), continues=True),
    taken("the expectation in a list", call(b"Expect: , 100-continue,"), continues=True),
    taken("the expectation with chunks", head(b"Expect: 100-continue", CHUNKED) + CHUNKS, continues=True),
    taken("an expectation of nothing", call(b"Expect:")),
    taken("the expectation with HTTP/1.0", call(b"Expect: 100-continue", line=OLD), closes=True),
    taken("another expectation with HTTP/1.0", call(b"Expect: 200-ok", line=OLD), closes=True),
    Row("another expectation", call(b"Expect: 200-ok"), 417),
    Row("an expectation that begins as the known one", call(b"Expect: 100-continued"), 417),
    Row("an expectation with a parameter", call(b"Expect: 100-continue;q=1"), 417),
    Row("an expectation in quotes", call(b'Expect: "100-continue"'), 417),
    Row("an expectation of a status", call(b"Expect: 100"), 417),
    Row("another beside the known one", call(b"Expect: 100-continue, x"), 417),
    Row("another behind the known one", call(b"Expect: 100-continue", b"Expect: x") + INNER, 417),
    Row("another on GET", head(b"Expect: x", line=GET), 417),
    Row("another with chunks", head(b"Expect: x", CHUNKED) + CHUNKS + INNER, 417),
    Row("another with an upgrade", call(b"Expect: x", b"Connection: upgrade", b"Upgrade: a"), 417),
    Row("another without a Host", call(b"Expect: x", host=b"X: a")),
    Row("the expectation with a faulty length", head(b"Expect: 100-continue", b"Content-Length: +5") + BODY),
)

UNREAD = (
    Row("a call in the body of a call without a key", call(host=HOST, body=INNER).replace(KEY, b"X: a", 1), 401),
    Row("a call in the body of another path", call(line=b"POST /else HTTP/1.1", body=INNER), 404),
    Row("a call in the body of GET", call(line=GET, body=INNER), 405),
    Row("a call in the chunks of GET", head(CHUNKED, line=GET) + chunk(INNER) + LAST, 405),
    Row("a call in the body of OPTIONS *", call(line=b"OPTIONS * HTTP/1.1", body=INNER), 404),
    Row("a call in the body of DELETE", call(line=b"DELETE /manufacturers/nox HTTP/1.1", body=INNER), 405),
    Row("a call in the body of TRACE", call(line=b"TRACE /manufacturers/nox HTTP/1.1", body=INNER), 405),
    Row("GET with a length of nothing", head(b"Content-Length: 0", line=GET), 405, closes=False),
    Row("GET without a body", head(line=GET), 405, closes=False),
    Row("no key and no body", b"\r\n".join((LINE, HOST, b"", b"")), 401, closes=False),
)

SIZES = (
    taken("a query of 30,000 bytes", call(line=b"POST /manufacturers/nox?%s HTTP/1.1" % (b"a" * 30_000))),
    taken("a name of 30,000 bytes", call(b"x" * 30_000 + b": a")),
    taken("a value of 30,000 bytes", call(b"X: " + b"a" * 30_000)),
    taken("a thousand fields", call(*(b"X-%d: a" % n for n in range(1_000)))),
    Row("a query of 40,000 bytes", call(line=b"POST /manufacturers/nox?%s HTTP/1.1" % (b"a" * 40_000)), 431),
    Row("a path of 40,000 bytes", call(line=b"POST /%s HTTP/1.1" % (b"a" * 40_000)), 431),
    Row("a name of 40,000 bytes", call(b"x" * 40_000 + b": a"), 431),
    Row("a value of 40,000 bytes", call(b"X: " + b"a" * 40_000), 431),
    Row("a value of the limit", call(b"X: " + b"a" * LIMIT), 431),
    Row("ten thousand fields", call(*(b"X: a" for _ in range(10_000))), 431),
    Row("ten thousand empty fields", call(*(b"X:" for _ in range(10_000))), 431),
)

ROWS = (*CLOSING, *UPGRADES, *EXPECTATIONS, *UNREAD, *SIZES)
