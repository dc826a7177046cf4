"""An OTLP collector for the tests."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.processes import eventually


class Collector:
    """An OTLP collector on loopback; `exports` holds the sender's port and the bytes of each."""

    def __init__(self) -> None:
        exports = self.exports = list[tuple[int, bytes]]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()
                exports.append((self.client_address[1], body))

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def resources(self) -> list[dict[str, object]]:
        return [attributes(sent.resource) for sent in self._sent()]

    def spans(self, trace: str) -> list[Span]:
        """What came of a trace so far."""
        return [
            span
            for sent in self._sent()
            for scope in sent.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace
        ]

    def pair(self, trace: str, *, called: bool = True) -> tuple[Span, Span | None]:
        """The caller's span of a trace and, if v2 was called, that of the call; waits for them."""
        assert eventually(lambda: len(self.spans(trace)) == 1 + called), (trace, self.spans(trace))
        kinds = {span.kind: span for span in self.spans(trace)}
        return kinds[Span.SPAN_KIND_SERVER], kinds.get(Span.SPAN_KIND_CLIENT)

    def _sent(self) -> Iterator[Any]:
        for _, body in list(self.exports):
            yield from ExportTraceServiceRequest.FromString(body).resource_spans


def attributes(of: Any) -> dict[str, object]:
    return {its.key: its.value.string_value or its.value.int_value for its in of.attributes}
