"""The table of raw requests: the faults that http-garden, h1spec, Http11Probe and http-conformance know, by class.

Beside them stands what is odd and lawful, so that strictness breaks no caller. The statuses are those of RFC 9110 and
RFC 9112. Where these have a finer one (501 for a method or a coding that nobody knows, 505 for a version, 414 for a
long target) contract.md, admission 1, says 400 or 431; where they leave a choice, the row is refused.
"""

from tests.wire.syntax import chunks, connections, fields, framing, request_line

ROWS = (*request_line.ROWS, *fields.ROWS, *framing.ROWS, *chunks.ROWS, *connections.ROWS)
