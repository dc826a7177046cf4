"""Rows of the chunked coding: sizes, extensions, line ends and trailers (RFC 9112, section 7.1)."""

from tests.wire.syntax.row import BODY, CHUNKED, CHUNKS, INNER, LAST, LENGTH, Row, chunk, head, taken

X = b"%x" % len(BODY)
END = BODY + b"\r\n" + LAST + INNER

SIZES = (
    ("with 0x", b"0x" + X),
    ("with 0X", b"0X" + X),
    ("with a plus", b"+" + X),
    ("with a minus", b"-" + X),
    ("of minus zero", b"-0"),
    ("with an underscore", X[:1] + b"_" + X[1:]),
    ("with a fraction", X + b".0"),
    ("with an h", X + b"h"),
    ("with a comma", X + b","),
    ("behind a space", b" " + X),
    ("behind a tab", b"\t" + X),
    ("before a space", X + b" "),
    ("before a tab", X + b"\t"),
    ("behind a vertical tab", b"\x0b" + X),
    ("before a NUL", X + b"\x00"),
    ("of two words", X + b" " + X),
    ("of nothing", b""),
    ("of nothing but an extension", b";a=b"),
    ("in full-width digits", "２９".encode()),
    ("of letters", b"xyz"),
    ("of 2 to the 64th", b"1" + b"0" * 16),
    ("of 2 to the 64th and the body", b"1" + b"0" * 14 + X),
    ("of a hundred digits", b"F" * 100),
)

EXTENSIONS = (
    ("of a bare semicolon", b";"),
    # RFC 9112, section 7.1.1, has these three taken, and forbids to send them. llhttp refuses them.
    ("with a space before the semicolon", b" ;a"),
    ("with a space behind the semicolon", b"; a"),
    ("with spaces around its equals sign", b";a = b"),
    ("with a space in its name", b";a b"),
    ("with a NUL", b";a\x00"),
    ("with a control byte in its value", b";a=\x01"),
    ("with an odd byte in its value", b";a=\xff"),
    ("with an open quote", b';a="b'),
    ("with something behind its quotes", b';a="b"c'),
    ("with a bare LF", b";a\nb"),
    ("with a bare CR", b";a\rb"),
    ("with a bare LF in its value", b";a=b\nc"),
    ("with a bare LF in quotes", b';a="\n"'),
    ("with a bare CR in quotes", b';a="\r"'),
    ("with a bare LF that ends it", b";a\n%s\n" % BODY[:-1]),
)

TRAILERS = (
    ("with a space before its colon", b"X : a"),
    ("with a space before its name", b" X: a"),
    ("without a colon", b"X"),
    ("without a name", b": a"),
    ("with a NUL", b"X: \x00"),
    ("with a bare CR", b"X: a\rb"),
    ("with a bare LF", b"X: a\nY: b"),
    ("folded", b"X: a\r\n b"),
    ("of a length", b"Content-Length: 5"),
    ("of a faulty length", b"Content-Length: x"),
    ("of a coding", CHUNKED),
    ("of identity", b"Transfer-Encoding: identity"),
)

ENDS = (
    ("a bare LF behind a size", X + b"\n" + BODY + b"\r\n" + LAST),
    ("a bare CR behind a size", X + b"\r" + BODY + b"\r\n" + LAST),
    ("a bare LF behind an extension", X + b";a\n" + BODY + b"\r\n" + LAST),
    ("a bare LF behind an extension's value", X + b";a=b\n" + BODY + b"\r\n" + LAST),
    ("a bare LF behind a bare semicolon", X + b";\n" + BODY + b"\r\n" + LAST),
    ("a bare LF behind the data", chunk(BODY, end=b"\n") + LAST),
    ("a bare CR behind the data", chunk(BODY, end=b"\r") + LAST),
    ("nothing behind the data", chunk(BODY, end=b"") + LAST),
    ("two letters behind the data", chunk(BODY, end=b"xx") + LAST),
    ("LF CR behind the data", chunk(BODY, end=b"\n\r") + LAST),
    ("an empty line behind the data", chunk(BODY, end=b"\r\n\r\n") + LAST),
    ("more data than the size says", X + b"\r\n" + BODY + b"}\r\n" + LAST),
    ("less data than the size says", X + b"\r\n" + BODY[:-1] + b"\r\n" + LAST),
    ("a bare LF behind the last size", chunk(BODY) + b"0\n\r\n"),
    ("a bare LF for the last line", chunk(BODY) + b"0\r\n\n"),
    ("bare LFs at the end", chunk(BODY) + b"0\n\n"),
    ("a bare CR for the last line", chunk(BODY) + b"0\r\n\rx"),
    ("two CRs behind the last size", chunk(BODY) + b"0\r\r\n\r\n"),
    ("no last chunk but a call", chunk(BODY) + INNER),
    ("no chunks but a body", BODY),
    ("bare LFs throughout", CHUNKS.replace(b"\r\n", b"\n")),
)

LAWFUL = (
    taken("a size in upper case", head(CHUNKED) + X.upper() + b"\r\n" + BODY + b"\r\n" + LAST),
    taken("a size of letters in both cases", head(CHUNKED) + b"".join(map(chunk, (BODY, b" " * 0xA))) + LAST),
    taken("a size with leading zeros", head(CHUNKED) + b"00000" + CHUNKS),
    taken("a size with forty leading zeros", head(CHUNKED) + b"0" * 40 + CHUNKS),
    taken("a last size of three zeros", head(CHUNKED) + chunk(BODY) + b"000\r\n\r\n"),
    taken("a chunk a byte", head(CHUNKED) + b"".join(chunk(bytes([byte])) for byte in BODY) + LAST),
    taken("an extension", head(CHUNKED) + chunk(BODY, b";a") + LAST),
    taken("an extension with a value", head(CHUNKED) + chunk(BODY, b";a=b") + LAST),
    taken("an extension in quotes", head(CHUNKED) + chunk(BODY, b';a="b;\\" \tc"') + LAST),
    taken("several extensions", head(CHUNKED) + chunk(BODY, b";a;b=c;d") + b"0;e=f\r\n\r\n"),
    taken("an extension of a kilobyte", head(CHUNKED) + chunk(BODY, b";a=" + b"b" * 1_000) + LAST),
    taken("an extension that looks like a size", head(CHUNKED) + chunk(BODY, b";5=5") + LAST),
    taken("a trailer", head(CHUNKED, b"Trailer: X") + chunk(BODY) + b"0\r\nX: a\r\nY:\r\n\r\n"),
    taken("a trailer of a Host", head(CHUNKED) + chunk(BODY) + b"0\r\nHost: other.example\r\n\r\n"),
    taken("a trailer of a key", head(CHUNKED) + chunk(BODY) + b"0\r\nX-Api-Key: another-key\r\n\r\n"),
    taken("a trailer of an expectation", head(CHUNKED) + chunk(BODY) + b"0\r\nExpect: x\r\n\r\n"),
    taken("a trailer of an upgrade", head(CHUNKED) + chunk(BODY) + b"0\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n"),
    taken("a trailer of a close", head(CHUNKED) + chunk(BODY) + b"0\r\nConnection: close\r\n\r\n", closes=True),
    taken("a call in a chunk's data", head(CHUNKED) + chunk(BODY[:-1] + b', "x": "POST /"}') + LAST),
)

TOLERATED = (
    taken("an extension with an empty value", head(CHUNKED) + chunk(BODY, b";a=") + LAST),
    taken("an extension with an empty name", head(CHUNKED) + chunk(BODY, b";=a") + LAST),
    taken("an extension of two semicolons", head(CHUNKED) + chunk(BODY, b";;a") + LAST),
)
"""Not lawful; but the line ends where it ends, and all extensions are dropped."""

ROWS = (
    *(Row(f"a size {name}", head(CHUNKED) + size + b"\r\n" + END) for name, size in SIZES),
    *(Row(f"an extension {name}", head(CHUNKED) + X + extension + b"\r\n" + END) for name, extension in EXTENSIONS),
    *(Row(f"a trailer {name}", head(CHUNKED) + chunk(BODY) + b"0\r\n%s\r\n\r\n" % line) for name, line in TRAILERS),
    *(Row(f"chunks with {name}", head(CHUNKED) + rest + INNER) for name, rest in ENDS),
    *LAWFUL,
    *TOLERATED,
    Row(
        "chunks with a length among the trailers", head(CHUNKED) + chunk(BODY) + b"0\r\n" + LENGTH + b"\r\n\r\n" + BODY
    ),
)
