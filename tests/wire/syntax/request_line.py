"""Rows of the request line (RFC 9112, section 3): method, target, version, and the spaces between them."""

from tests.wire.syntax.row import BODY, HOST, INNER, KEY, LENGTH, LINE, Row, call, head, taken

PATH = b"/manufacturers/nox"

SPACES = (
    ("a tab before the target", b"POST\t/manufacturers/nox HTTP/1.1"),
    ("a tab before the version", b"POST /manufacturers/nox\tHTTP/1.1"),
    ("a vertical tab before the target", b"POST\x0b/manufacturers/nox HTTP/1.1"),
    ("a form feed before the version", b"POST /manufacturers/nox\x0cHTTP/1.1"),
    ("a no-break space before the version", b"POST /manufacturers/nox\xa0HTTP/1.1"),
    ("a bare CR before the version", b"POST /manufacturers/nox\rHTTP/1.1"),
    ("a space behind the version", LINE + b" "),
    ("a tab behind the version", LINE + b"\t"),
    ("a word behind the version", LINE + b" HTTP/1.1"),
    ("a bare CR behind the version", LINE + b"\r"),
    ("a space before the method", b" " + LINE),
    ("a tab before the method", b"\t" + LINE),
    ("a NUL before the method", b"\x00" + LINE),
    ("a byte order mark before the method", b"\xef\xbb\xbf" + LINE),
    ("no space at all", b"POST/manufacturers/noxHTTP/1.1"),
    ("no target", b"POST HTTP/1.1"),
    ("no method", b"/manufacturers/nox HTTP/1.1"),
    ("a folded line", b"POST\r\n /manufacturers/nox HTTP/1.1"),
)

METHODS = (
    ("a method in lower case", b"post"),
    ("a method in mixed case", b"Post"),
    ("an unknown method", b"CONNECTUSER"),
    ("an unknown method that begins as a known one", b"POSTS"),
    ("an empty method", b""),
    ("a NUL in the method", b"PO\x00ST"),
    ("an odd byte in the method", b"P\xd6ST"),
    ("a separator in the method", b"PO(ST"),
    ("a method of 5,000 letters", b"P" * 5_000),
    ("another protocol's method", b"DESCRIBE"),
)

TARGETS = (
    ("a NUL in the target", PATH + b"\x00"),
    ("a control byte in the target", PATH + b"\x01"),
    ("DEL in the target", PATH + b"\x7f"),
    ("a raw UTF-8 letter in the target", PATH + b"\xc3\xa9"),
    ("a NUL in the query", PATH + b"?a=\x00"),
    ("an odd byte in the query", PATH + b"?a=\xff"),
    ("a space in the target", b"/manufacturers /nox"),
    ("a bare LF in the target", b"/manufacturers\n/nox"),
    ("a fragment", PATH + b"#a"),
    ("a fragment in an absolute target", b"http://auth.nox.energy/manufacturers/nox#a"),
    ("a target without its slash", b"manufacturers/nox"),
    ("a target that is a query", b"?manufacturers/nox"),
    ("a target of a backslash", b"\\manufacturers\\nox"),
    ("authority form", b"auth.nox.energy:443"),
    ("asterisk form of another method than OPTIONS", b"*"),
    ("asterisk form with a tail", b"*/manufacturers/nox"),
    ("absolute form without a host", b"http:///manufacturers/nox"),
    ("absolute form with a port only", b"http://:80/manufacturers/nox"),
    ("absolute form without its slashes", b"http:/manufacturers/nox"),
    ("absolute form with a user", b"http://user@auth.nox.energy/manufacturers/nox"),
    ("absolute form with a user and a password", b"http://user:word@auth.nox.energy/manufacturers/nox"),
    ("absolute form with a port of letters", b"http://auth.nox.energy:http/manufacturers/nox"),
    ("absolute form with two hosts", b"http://auth.nox.energy,other.example/manufacturers/nox"),
    ("absolute form with an open bracket", b"http://[::1/manufacturers/nox"),
    ("absolute form with a backslash", b"http://auth.nox.energy\\@other.example/manufacturers/nox"),
    ("absolute form of another scheme", b"ftp://auth.nox.energy/manufacturers/nox"),
    ("absolute form without a scheme", b"://auth.nox.energy/manufacturers/nox"),
)

VERSIONS = (
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/1.9",
    b"HTTP/2.0",
    b"HTTP/3.0",
    b"HTTP/9.9",
    b"HTTP/2",
    b"HTTP/1",
    b"HTTP/1.",
    b"HTTP/.1",
    b"HTTP/11",
    b"HTTP/1.10",
    b"HTTP/1.01",
    b"HTTP/01.1",
    b"HTTP/1,1",
    b"HTTP/+1.1",
    b"HTTP/-1.1",
    b"HTTP/ 1.1",
    b"HTTP /1.1",
    b"HTTP//1.1",
    b"HTTP\\1.1",
    b"HTTP/1.\x00",
    b"HTTP/1.1\x00",
    b"HTTP/1.1;",
    b"http/1.1",
    b"Http/1.1",
    b"HTTPS/1.1",
    b"HTP/1.1",
    b"RTSP/2.0",
    b"RTSP/1.2",
    b"ICE/1.1",
    b"\x0bHTTP/1.1",
)

FOREIGN = (
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
    ("SMTP", b"EHLO auth.nox.energy\r\n"),
    ("SOCKS", b"\x05\x01\x00"),
    ("the PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
    ("the PROXY protocol's second version", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)),
    ("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("a bare body", BODY),
    ("NULs", bytes(64)),
    ("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
)

LAWFUL = (
    taken("a query", call(line=b"POST /manufacturers/nox?a=1&b=%20?/ HTTP/1.1")),
    taken("a bare question mark", call(line=b"POST /manufacturers/nox? HTTP/1.1")),
    taken("a trailing slash", call(line=b"POST /manufacturers/nox/ HTTP/1.1")),
    taken("an empty line before the request", b"\r\n" + call()),
    taken("five empty lines before the request", b"\r\n" * 5 + call()),
    taken("an empty line behind the body", call() + b"\r\n"),
    taken("absolute form", call(line=b"POST http://auth.nox.energy/manufacturers/nox HTTP/1.1")),
    taken("absolute form with a port", call(line=b"POST http://auth.nox.energy:80/manufacturers/nox HTTP/1.1")),
    taken("absolute form with an empty port", call(line=b"POST http://auth.nox.energy:/manufacturers/nox HTTP/1.1")),
    taken("absolute form with an IPv6 host", call(line=b"POST http://[::1]:8080/manufacturers/nox HTTP/1.1")),
    taken("absolute form of https", call(line=b"POST https://auth.nox.energy/manufacturers/nox HTTP/1.1")),
    taken("absolute form in upper case", call(line=b"POST HTTP://AUTH.NOX.ENERGY/manufacturers/nox HTTP/1.1")),
    taken("absolute form with another Host", call(line=b"POST http://a.example/manufacturers/nox HTTP/1.1")),
    Row("absolute form without a path", head(line=b"GET http://auth.nox.energy HTTP/1.1"), 404, closes=False),
    Row("absolute form with a bare query", head(line=b"GET http://auth.nox.energy?a HTTP/1.1"), 404, closes=False),
    Row("OPTIONS *", head(line=b"OPTIONS * HTTP/1.1"), 404, closes=False),
    Row("characters that no URI has", head(line=b'GET /"<>\\^`{|} HTTP/1.1'), 404, closes=False),
    Row("percents that encode nothing", head(line=b"GET /%zz% HTTP/1.1"), 404, closes=False),
    Row("an encoded NUL", head(line=b"GET /manufacturers/nox%00 HTTP/1.1"), 404, closes=False),
    Row("a target of two slashes", head(line=b"GET //auth.nox.energy/manufacturers/nox HTTP/1.1"), 404, closes=False),
    Row("a method of WebDAV", head(line=b"PROPFIND /manufacturers/nox HTTP/1.1"), 405, closes=False),
    Row("a method with a hyphen", head(line=b"M-SEARCH /manufacturers/nox HTTP/1.1"), 405, closes=False),
    taken("HTTP/1.0", call(line=b"POST /manufacturers/nox HTTP/1.0"), closes=True),
    taken("HTTP/1.0 without a Host", b"\r\n".join((LINE[:-1] + b"0", KEY, LENGTH, b"", BODY)), closes=True),
    taken("HTTP/1.0 that would go on", call(b"Connection: keep-alive", line=LINE[:-1] + b"0"), closes=True),
)

TOLERATED = (
    # RFC 9112, section 2.2: a bare LF may end a line, and an empty one before the request is to be ignored.
    taken("a bare LF before the request", b"\n" + call()),
    # RFC 9112, section 3: a recipient may part the words of the line at any white space.
    taken("two spaces before the target", call(line=b"POST  /manufacturers/nox HTTP/1.1")),
    taken("two spaces before the version", call(line=b"POST /manufacturers/nox  HTTP/1.1")),
    # llhttp takes these names for HTTP's, and tells nobody; the message is framed as HTTP's all the same.
    taken("RTSP/1.1", call(line=LINE[:-8] + b"RTSP/1.1")),
    taken("RTSP/1.0", call(line=LINE[:-8] + b"RTSP/1.0"), closes=True),
    Row("ICE/1.0", head(line=b"SOURCE /manufacturers/nox ICE/1.0"), 405),
)
"""Not lawful, or not quite; but nobody could read them otherwise than as one message of the same length."""

ENDS = (
    Row("a bare LF behind the request line", LINE + b"\n" + b"\r\n".join((HOST, KEY, LENGTH, b"", BODY))),
    Row("a bare CR for the end of the request line", LINE + b"\r" + b"\r\n".join((HOST, KEY, LENGTH, b"", BODY))),
    Row("bare LFs throughout", call().replace(b"\r\n", b"\n")),
    Row("bare CRs throughout", call().replace(b"\r\n", b"\r")),
    Row("LF CR throughout", call().replace(b"\r\n", b"\n\r")),
    Row("a simple request of HTTP/0.9", b"GET /manufacturers/nox\r\n\r\n"),
    Row("a request of HTTP/0.9 with a head", call(line=b"POST /manufacturers/nox")),
    Row("CONNECT", head(line=b"CONNECT auth.nox.energy:443 HTTP/1.1") + INNER),
    Row("CONNECT with a body", call(line=b"CONNECT auth.nox.energy:443 HTTP/1.1", body=INNER)),
    Row("CONNECT with a path", call(line=b"CONNECT /manufacturers/nox HTTP/1.1")),
)

ROWS = (
    *(Row(name, call(line=line)) for name, line in SPACES),
    *(Row(name, call(line=method + LINE[4:])) for name, method in METHODS),
    *(Row(name, call(line=b"POST %s HTTP/1.1" % target)) for name, target in TARGETS),
    *(Row(f"version {version!r}", call(line=LINE[:-8] + version)) for version in VERSIONS),
    *(Row(f"foreign: {name}", message) for name, message in FOREIGN),
    *LAWFUL,
    *TOLERATED,
    *ENDS,
)
