"""Spans as a collector gets them from running proxies, and the proxy where there is no collector, or no spans.

It is long because all of it is one promise seen from many sides, over one collector and one traced proxy.
"""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proxy import __version__
from proxy.policy.credentials import digest
from proxy.settings import exports_spans
from proxy.telemetry.spans import FLUSH_SECONDS
from tests.processes import Proxy, Reply, Simulator, call, eventually
from tests.telemetry.collector import Collector, attributes
from tests.test_admission import GOOD, JSON

PARENT = "b7ad6b7169203331"
OTEL = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
)


def is_error(span: Span) -> bool:
    return span.status.code == Status.STATUS_CODE_ERROR


def parent(trace: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{PARENT}-{flags}"}


def connect(proxy: Proxy, trace: str, **headers: str) -> Reply:
    return call(proxy.address, GOOD, {**JSON, **parent(trace), **headers})


@contextmanager
def proxy_with(variables: dict[str, str], v2_url: str) -> Iterator[Proxy]:
    """A proxy whose environment has these variables; `tests/conftest.py` saw to it that no other asks for spans."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        proxy = Proxy(v2_url)
    try:
        yield proxy
    finally:
        assert proxy.stop() == 0


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    its = Collector()
    yield its
    its.close()


@pytest.fixture(scope="module")
def at_once(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}


@pytest.fixture(scope="module")
def traced(at_once: dict[str, str], v2: Simulator) -> Iterator[Proxy]:
    settings = {
        "NOX_PROXY_MANUFACTURERS": json.dumps({"acme": {"keys_sha256": [digest(b"demo-key")]}}),
        "NOX_PROXY_UPSTREAMS__V2__TIMEOUT": "0.5",
    }
    with proxy_with({**at_once, **settings}, v2.url) as proxy:
        yield proxy


def test_the_spans_of_one_call(traced: Proxy, collector: Collector, v2: Simulator) -> None:
    trace = uuid4().hex
    v2.forget()
    assert connect(traced, trace, tracestate="a=1,b@c=2").status == 201
    caller, to_v2 = collector.pair(trace)
    assert to_v2 is not None
    assert (caller.parent_span_id.hex(), caller.name) == (PARENT, "POST /manufacturers/nox")
    assert attributes(caller) == {
        "http.request.method": "POST",
        "http.route": "/manufacturers/nox",
        "http.response.status_code": 201,
        "nox_proxy.endpoint": "connect_nox_user",
        "nox_proxy.manufacturer": "acme",
    }
    assert (to_v2.parent_span_id, to_v2.name) == (caller.span_id, "POST")
    host, port = v2.address.split(":")
    assert attributes(to_v2) == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "server.address": host,
        "server.port": int(port),
    }
    assert caller.start_time_unix_nano <= to_v2.start_time_unix_nano < to_v2.end_time_unix_nano
    assert to_v2.end_time_unix_nano <= caller.end_time_unix_nano
    assert not is_error(caller)
    assert not is_error(to_v2)
    headers = dict(v2.calls()[0]["headers"])
    assert headers["traceparent"] == f"00-{trace}-{to_v2.span_id.hex()}-01"
    assert headers["tracestate"] == "a=1,b@c=2"
    assert {(one["service.name"], one["service.version"]) for one in collector.resources()} == {
        ("nox-proxy", __version__)
    }


def test_a_call_without_a_parent_begins_a_trace(traced: Proxy, collector: Collector, v2: Simulator) -> None:
    v2.forget()
    assert call(traced.address, GOOD, {**JSON, "traceparent": "00-no-parent-01", "tracestate": "a=1"}).status == 201
    headers = dict(v2.calls()[0]["headers"])
    _, trace, span, flags = headers["traceparent"].split("-")
    caller, to_v2 = collector.pair(trace)
    assert to_v2 is not None
    assert (caller.parent_span_id, to_v2.span_id.hex(), int(flags, 16) & 1) == (b"", span, 1)
    assert "tracestate" not in headers


ROUTE = "/manufacturers/nox"
NO_KEY = {"x-api-key": ""}


@pytest.mark.parametrize(
    ("method", "path", "headers", "name", "status", "endpoint"),
    [
        ("POST", ROUTE, NO_KEY, "POST /manufacturers/nox", 401, "connect_nox_user"),
        ("POST", ROUTE + "/?a=b", NO_KEY, "POST /manufacturers/nox", 401, "connect_nox_user"),
        ("GET", ROUTE, {}, "GET /manufacturers/nox", 405, "connect_nox_user"),
        ("PROPFIND", ROUTE, {}, "HTTP /manufacturers/nox", 405, "connect_nox_user"),
        ("POST", "/else", {}, "POST", 404, "unmatched"),
        ("PROPFIND", "/else", {}, "HTTP", 404, "unmatched"),
    ],
)
def test_a_refused_request(
    traced: Proxy,
    collector: Collector,
    method: str,
    path: str,
    headers: dict[str, str],
    name: str,
    status: int,
    endpoint: str,
) -> None:
    """No call to v2, and no error: a 4xx is the caller's."""
    trace = uuid4().hex
    reply = call(traced.address, GOOD, {**JSON, **parent(trace), **headers}, method=method, path=path)
    caller, to_v2 = collector.pair(trace, called=False)
    assert (reply.status, caller.name, is_error(caller), to_v2) == (status, name, False, None)
    route = {"http.route": ROUTE} if endpoint != "unmatched" else {}
    assert attributes(caller) == {
        "http.request.method": method if method != "PROPFIND" else "_OTHER",
        "http.response.status_code": status,
        "nox_proxy.endpoint": endpoint,
        "nox_proxy.manufacturer": "unauthenticated",
        **route,
    }


@pytest.mark.parametrize(
    ("fault", "status", "ours", "v2s_status", "of_call"),
    [
        ("status=400", 400, None, 400, "400"),
        ("status=503", 503, "service_unavailable", 503, "503"),
        ("status=302", 502, "invalid_upstream_response", 302, "http_protocol_error"),
        ("html", 502, "bad_gateway", 502, "502"),
        ("close", 502, "upstream_disconnected", None, "connection_terminated"),
        ("hang", 504, "upstream_timeout", None, "http_response_timeout"),
    ],
)
def test_a_failure_of_v2(
    traced: Proxy,
    collector: Collector,
    v2: Simulator,
    fault: str,
    status: int,
    ours: str | None,
    v2s_status: int | None,
    of_call: str,
) -> None:
    """The caller's span is an error from 500 on; to the one who calls v2, a 4xx is one too."""
    trace = uuid4().hex
    with v2.fault(fault):
        assert connect(traced, trace).status == status
    caller, to_v2 = collector.pair(trace)
    assert to_v2 is not None
    told = attributes(caller)
    assert (told["http.response.status_code"], told.get("error.type"), is_error(caller)) == (status, ours, bool(ours))
    told = attributes(to_v2)
    assert (told.get("http.response.status_code"), told["error.type"], is_error(to_v2)) == (v2s_status, of_call, True)


def test_a_fallback(collector: Collector, at_once: dict[str, str], v1: Simulator) -> None:
    """A span for each call to an upstream, in their order; v2's failure is none of the caller's span."""
    trace, port = uuid4().hex, closed_port()
    settings = {
        "NOX_PROXY_UPSTREAMS__V1__URL": f"http://{v1.address}",
        "NOX_PROXY_CHANGES__CONNECT_NOX_USER__ROLLOUT__FALLBACK": "not_sent",
    }
    v1.forget()
    with proxy_with({**at_once, **settings}, f"http://127.0.0.1:{port}/v2") as proxy:
        assert connect(proxy, trace).status == 201
    (its,) = v1.calls()
    headers = dict(its["headers"])
    assert eventually(lambda: len(collector.spans(trace)) == 3)
    spans = sorted(collector.spans(trace), key=lambda span: span.start_time_unix_nano)
    caller, to_v2, to_v1 = spans
    assert [span.kind for span in spans] == [Span.SPAN_KIND_SERVER, *[Span.SPAN_KIND_CLIENT] * 2]
    assert [span.parent_span_id for span in (to_v2, to_v1)] == [caller.span_id] * 2
    assert [is_error(span) for span in spans] == [False, True, False]
    refused, answered = attributes(to_v2), attributes(to_v1)
    assert (refused["server.port"], refused["error.type"]) == (port, "connection_refused")
    assert (answered["server.port"], answered["http.response.status_code"]) == (int(v1.address.split(":")[1]), 201)
    assert "http.response.status_code" not in refused
    assert to_v2.end_time_unix_nano <= to_v1.start_time_unix_nano < to_v1.end_time_unix_nano
    assert headers["traceparent"] == f"00-{trace}-{to_v1.span_id.hex()}-01"


def test_a_key_that_v2_refuses(traced: Proxy, collector: Collector) -> None:
    trace = uuid4().hex
    assert connect(traced, trace, **{"x-api-key": "of-nobody"}).status == 401
    caller, to_v2 = collector.pair(trace)
    assert to_v2 is not None
    assert (attributes(caller)["nox_proxy.manufacturer"], is_error(caller)) == ("unauthenticated", False)
    assert (attributes(to_v2)["error.type"], is_error(to_v2)) == ("401", True)


def test_an_unsampled_parent_is_followed(traced: Proxy, collector: Collector, v2: Simulator) -> None:
    """Spans leave in their order, so nothing of an earlier call comes once a later one's are there."""
    unsampled, sampled = uuid4().hex, uuid4().hex
    v2.forget()
    assert connect(traced, unsampled, **parent(unsampled, "00")).status == 201
    assert connect(traced, sampled).status == 201
    collector.pair(sampled)
    assert collector.spans(unsampled) == []
    _, trace, span, flags = dict(v2.calls()[0]["headers"])["traceparent"].split("-")
    assert (trace, flags) == (unsampled, "00")
    assert span != PARENT


def test_no_secret_is_in_any_span(traced: Proxy, collector: Collector, v2: Simulator) -> None:
    trace = uuid4().hex
    body = b'{"manufacturer_user_id": "secret-user", "device_ids": ["secret-device"]}'
    secrets = {"x-api-key": "secret-key", "x-request-id": "secret-id", "user-agent": "secret-agent"}
    headers = {**parent(trace), **secrets}
    call(traced.address, body, headers, path="/manufacturers/nox?secret-query")
    call(traced.address, body, headers, path="/secret-path/secret-key")
    call(traced.address, body, {**parent(trace), "authorization": "ApiKey secret-key"})
    with v2.fault("garbage"):
        call(traced.address, body, headers)
    assert eventually(lambda: len(collector.spans(trace)) == 7)
    everything = b"".join(body for _, body in collector.exports)
    assert trace.encode() not in everything  # ids are bytes; what follows would be text
    assert b"nox_proxy.manufacturer" in everything
    assert b"secret" not in everything
    assert b"demo-key" not in everything
    assert b"d-1" not in everything


def test_each_worker_sends_its_own(collector: Collector, at_once: dict[str, str]) -> None:
    """To a v2 that is down, however often it takes until both had a call."""
    never = {"NOX_PROXY_UPSTREAMS__V2__BREAKER": '{"failures": 10000, "min_requests": 10000}'}
    variables = {**at_once, **never, "OTEL_SERVICE_NAME": "of-two", "NOX_PROXY_WORKERS": "2"}
    before, traces = len(collector.exports), list[str]()

    def both_sent() -> bool:
        traces.append(uuid4().hex)
        assert connect(proxy, traces[-1]).status == 502
        return len({port for port, _ in collector.exports[before:]}) == 2

    with proxy_with(variables, f"http://127.0.0.1:{closed_port()}/v2") as proxy:
        assert eventually(both_sent)
    for trace in traces:
        caller, to_v2 = collector.pair(trace)
        assert to_v2 is not None
        assert attributes(caller)["error.type"] == "upstream_unavailable"
        assert attributes(to_v2)["error.type"] == "connection_refused"
    assert collector.resources()[-1]["service.name"] == "of-two"


def test_the_last_spans_leave_at_the_stop(collector: Collector, v2: Simulator) -> None:
    """Even that of a call which the drain cuts short."""
    trace = uuid4().hex
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "NOX_PROXY_DRAIN_SECONDS": "1",
    }
    v2.forget()
    with ThreadPoolExecutor(1) as caller_of, v2.fault("hang"):
        with proxy_with(variables, v2.url) as proxy:
            under_way = caller_of.submit(connect, proxy, trace)
            assert eventually(lambda: len(v2.calls()) == 1)
            assert collector.spans(trace) == []
        assert under_way.result().status == 503
    caller, to_v2 = collector.pair(trace)
    assert to_v2 is not None
    assert attributes(caller)["error.type"] == "service_unavailable"
    assert attributes(to_v2)["error.type"] == "proxy_internal_error"
    assert "http.response.status_code" not in attributes(to_v2)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_dead_collector_holds_up_nothing(v2: Simulator, how: str) -> None:
    """And the log says so, with neither the collector's token nor a caller's words in it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if how == "hangs" else closed_port()
        variables = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{port}/v1/traces?token=secret",
            "OTEL_EXPORTER_OTLP_HEADERS": "secret token",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_BSP_MAX_QUEUE_SIZE": "10",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        }
        with proxy_with(variables, v2.url) as proxy:
            for _ in range(50):
                began = time.monotonic()
                assert connect(proxy, uuid4().hex, tracestate="1x=secret").status == 201
                assert time.monotonic() - began < 2
            stopped = time.monotonic()
        assert time.monotonic() - stopped < FLUSH_SECONDS + 4
    said = [line.partition("spans: ")[2] for line in proxy.err if "spans: " in line]
    for text in ("Header format invalid", "Member doesn't match", "Queue full"):
        assert len([line for line in said if line.startswith(text)]) == 1, said
    assert len(said) <= 5
    assert "secret" not in "\n".join(proxy.err)


def test_off_unless_asked_for(traced: Proxy, collector: Collector, at_once: dict[str, str], v2: Simulator) -> None:
    """OpenTelemetry is not even loaded, which its compiled part would show; traceparent passes as it came."""
    trace = uuid4().hex
    v2.forget()
    with proxy_with({**at_once, "OTEL_SDK_DISABLED": "true"}, v2.url) as proxy:
        assert connect(proxy, trace, tracestate="a=1").status == 201
        assert (loads_protobuf(traced), loads_protobuf(proxy)) == (True, False)
    headers = dict(v2.calls()[0]["headers"])
    assert (headers["traceparent"], headers["tracestate"]) == (parent(trace)["traceparent"], "a=1")
    assert collector.spans(trace) == []


def loads_protobuf(proxy: Proxy) -> bool:
    return "google/_upb" in Path(f"/proc/{proxy.pid}/maps").read_text()


HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, False),
        (HERE, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({**HERE, "OTEL_SDK_DISABLED": "True"}, False),
        ({**HERE, "OTEL_SDK_DISABLED": "false"}, True),
        ({**HERE, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**HERE, "OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_what_asks_for_spans(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], asked: bool) -> None:
    for name in OTEL:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert exports_spans() is asked


def test_where_opentelemetry_is_not_installed(tmp_path: Path, at_once: dict[str, str], v2: Simulator) -> None:
    """One warning for all workers, and the proxy goes on without spans."""
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError(__name__)")
    trace = uuid4().hex
    v2.forget()
    with proxy_with({**at_once, "PYTHONPATH": str(tmp_path), "NOX_PROXY_WORKERS": "2"}, v2.url) as proxy:
        proxy.find("OpenTelemetry is not installed: ./deploy/venv otel")
        assert connect(proxy, trace).status == 201
    assert dict(v2.calls()[0]["headers"])["traceparent"] == parent(trace)["traceparent"]
    assert len([line for line in proxy.err if "OpenTelemetry" in line]) == 1


def test_where_opentelemetry_refuses_its_variables(at_once: dict[str, str], v2: Simulator) -> None:
    with proxy_with({**at_once, "OTEL_BSP_MAX_QUEUE_SIZE": "0"}, v2.url) as proxy:
        assert connect(proxy, uuid4().hex).status == 201
    assert len([line for line in proxy.err if "OpenTelemetry does not take its OTEL_" in line]) == 1
