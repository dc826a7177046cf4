"""A running proxy whose v2 fails: its breaker is seen by callers, in the metrics, on the page and in the log."""

from collections.abc import Iterator

import pytest

from tests.processes import ROOT, Proxy, Simulator, call, eventually
from tests.test_admission import GOOD, JSON, failed, succeeded
from tests.two_upstreams import Upstreams

FAILURES = 3
BREAKER = {"UPSTREAMS__V2__BREAKER__FAILURES": str(FAILURES), "UPSTREAMS__V2__BREAKER__OPEN_FOR": "1"}
OPEN = 'nox_proxy_breaker_open{upstream="v2"}'
REFUSED = 'nox_proxy_upstream_failures_total{reason="breaker_open",upstream="v2"}'


@pytest.fixture(scope="module")
def proxy(v2: Simulator) -> Iterator[Proxy]:
    running = Proxy(v2.url, cwd=ROOT, **BREAKER)
    yield running
    assert running.stop() == 0


def test_it_opens_is_told_and_closes(proxy: Proxy, v2: Simulator) -> None:
    v2.forget()
    with v2.fault("status=503"):
        for _ in range(FAILURES):
            assert call(proxy.address, GOOD, JSON).json()["error_code"] == "service_unavailable"
        reply = call(proxy.address, GOOD, JSON)
        assert failed(reply, 503, "upstream_overloaded")
        assert reply.headers["retry-after"] == "1"
        assert reply.headers["proxy-status"] == "nox-proxy; error=destination_unavailable"
        assert proxy.metrics()[REFUSED] >= 1
        assert eventually(lambda: proxy.metrics()[OPEN] == 1)
        assert "breaker" in call(proxy.admin, method="GET", path="/").body.decode()
    assert proxy.find(r"(breaker of v2: open)")
    assert eventually(lambda: call(proxy.address, GOOD, JSON).status == 201)
    assert proxy.find(r"(breaker of v2: closed)")
    assert eventually(lambda: proxy.metrics()[OPEN] == 0)


def test_a_callers_mistakes_open_nothing(proxy: Proxy) -> None:
    for _ in range(FAILURES + 2):
        assert call(proxy.address, GOOD, {**JSON, "x-api-key": "no-such-key"}).status == 401
    assert succeeded(call(proxy.address, GOOD, JSON))


def test_a_path_that_fails_is_no_upstream_that_fails(both: Upstreams) -> None:
    """Anybody can call one that v2 does not have, without a key: that is not to cost others their answers."""
    with both.proxy({}, None, **BREAKER) as proxy:
        for path in ("/v2/nonsense", "/nonsense"):
            for _ in range(2 * FAILURES):
                assert call(proxy.address, b"", {"simulate-fault": "status=500"}, path=path).status == 500
        assert succeeded(call(proxy.address, GOOD, JSON))


def test_with_fallback_v1_answers_while_it_is_open(both: Upstreams) -> None:
    with both.proxy({"fallback": "not_sent"}, None, **BREAKER) as proxy:
        with both.v2.fault("status=500"):
            for _ in range(FAILURES):
                assert call(proxy.address, GOOD, JSON).status == 500
            both.forget()
            reply = call(proxy.address, GOOD, JSON)
        assert reply.status == 201
        assert reply.headers["proxy-status"] == (
            'nox-proxy; next-hop="v1"; error=destination_unavailable; details="v2 took nothing"'
        )
        assert (len(both.v1.calls()), len(both.v2.calls())) == (1, 0)
        fallbacks = 'nox_proxy_fallbacks_total{endpoint="connect_nox_user",reason="breaker_open"}'
        assert proxy.metrics()[fallbacks] == 1
