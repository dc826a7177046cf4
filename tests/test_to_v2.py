"""contract.md, "To v2": what arrives at v2, whatever the caller sent, by each transport and door."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import __version__
from tests.processes import DOORS, Proxy, Simulator, call
from tests.test_admission import JSON, succeeded
from tests.test_from_v2 import EACH

BODY = b'{"manufacturer_user_id": "u-1", "device_ids": ["d-1"], "more": 1}'
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module", params=EACH, ids=" ".join)
def each(request: pytest.FixtureRequest, v2: Simulator) -> Iterator[Proxy]:
    transport, door = request.param
    running = Proxy(v2.url, door=door, UPSTREAMS__V2__TRANSPORT=transport)
    yield running
    assert running.stop() == 0


@pytest.fixture
def proxy(by_each_door: Proxy) -> Proxy:
    return by_each_door


def arrived(v2: Simulator, proxy: Proxy, headers: dict[str, str], body: bytes = BODY) -> dict[str, Any]:
    v2.forget()
    assert call(proxy.address, body, {**JSON, **headers}).status == 201
    (came,) = v2.calls()
    return came


def test_the_request_is_exactly_this(each: Proxy, v2: Simulator) -> None:
    """No field of the caller's that is not named; nothing that a client library adds by itself."""
    cookies = {"cookie": "a=b", "accept": "text/html", "x-custom": "1", "user-agent": "legacy/1.0", "te": "trailers"}
    came = arrived(v2, each, {**cookies, "connection": "x-custom"})
    assert (came["method"], came["path"]) == ("POST", "/v2/manufacturer/device-connections")
    assert came["body"] == '{"user_id":"u-1"}'
    headers = dict(came["headers"])
    assert len(headers) == len(came["headers"])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", headers.pop("x-request-id"))
    assert headers == {
        "host": v2.address,
        "x-api-key": "demo-key",
        "content-type": "application/json",
        "content-length": "17",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "legacy/1.0",
        "via": "1.1 nox-proxy",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": each.address,
    }


def test_authorization_reaches_v2_as_x_api_key(each: Proxy, v2: Simulator) -> None:
    v2.forget()
    reply = call(each.address, BODY, {"authorization": "ApiKey demo-key"})
    assert succeeded(reply, devices=("d-1",))
    headers = dict(v2.calls()[0]["headers"])
    assert headers["x-api-key"] == "demo-key"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({}, {"user-agent": f"nox-proxy/{__version__}"}),
        ({"via": "1.0 edge, 1.1 gate (x)"}, {"via": "1.0 edge, 1.1 gate (x), 1.1 nox-proxy"}),
        ({"x-request-id": "abc-123!"}, {"x-request-id": "abc-123!"}),
        ({"traceparent": PARENT, "tracestate": "a=1,b@c=2"}, {"traceparent": PARENT, "tracestate": "a=1,b@c=2"}),
        ({"traceparent": PARENT, "tracestate": "no state"}, {"traceparent": PARENT, "tracestate": None}),
        (
            {"traceparent": "00-" + "0" * 32 + PARENT[35:], "tracestate": "a=1"},
            {"traceparent": None, "tracestate": None},
        ),
        ({"traceparent": PARENT.upper()}, {"traceparent": None}),
        ({"traceparent": "01" + PARENT[2:] + "-more"}, {"traceparent": "01" + PARENT[2:] + "-more"}),
        ({"traceparent": PARENT + "-more"}, {"traceparent": None}),
        ({"via": "", "x-forwarded-for": ""}, {"via": "1.1 nox-proxy", "x-forwarded-for": "127.0.0.1"}),
        ({"traceparent": "ff" + PARENT[2:]}, {"traceparent": None}),
        ({"tracestate": "a=1"}, {"tracestate": None}),
        ({"idempotency-key": '"8e03978e 40d5"'}, {"idempotency-key": '"8e03978e 40d5"'}),
        ({"x-forwarded-for": "203.0.113.9"}, {"x-forwarded-for": "203.0.113.9, 127.0.0.1"}),
        ({"x-forwarded-proto": "https"}, {"x-forwarded-proto": "https"}),
        ({"x-forwarded-host": "auth.nox.energy"}, {"x-forwarded-host": "auth.nox.energy"}),
        ({"forwarded": "for=1.2.3.4"}, {"forwarded": None}),
    ],
)
def test_a_field_of_the_callers(
    each: Proxy, v2: Simulator, sent: dict[str, str], expected: dict[str, str | None]
) -> None:
    headers = dict(arrived(v2, each, sent)["headers"])
    assert {name: headers.get(name) for name in expected} == expected


@pytest.mark.parametrize("sent", ["", "x" * 129, "with space", "t\xf6n"])
def test_an_unfit_request_id_is_replaced(each: Proxy, v2: Simulator, sent: str) -> None:
    headers = dict(arrived(v2, each, {"x-request-id": sent})["headers"])
    assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])


def test_the_request_id_comes_back(each: Proxy) -> None:
    assert call(each.address, BODY, {**JSON, "x-request-id": "abc"}).headers["x-request-id"] == "abc"
    assert call(each.address, b"", {"x-request-id": "abc"}, path="/").headers["x-request-id"] == "abc"


@pytest.mark.parametrize("door", DOORS)
def test_forwarding_fields_count_only_from_a_trusted_peer(v2: Simulator, door: str) -> None:
    proxy = Proxy(v2.url, door=door, TRUSTED_PROXIES='["10.0.0.0/8"]')
    try:
        forged = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}
        headers = dict(arrived(v2, proxy, forged)["headers"])
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["x-forwarded-host"] == proxy.address
    finally:
        proxy.stop()


ALL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
USERS = st.text(st.characters(codec="utf-8"), max_size=200) | st.sampled_from(
    ["\x00", '"\\', "😀" * 2_500, "x" * 10_000, "</script>", "\u2028\u2029", "ÿ\x7f", "null", ""]
)


@ALL
@given(
    user=USERS,
    devices=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=20),
    ascii_only=st.booleans(),
)
def test_any_string_arrives_and_comes_back_the_same(
    proxy: Proxy, v2: Simulator, user: str, devices: list[str], ascii_only: bool
) -> None:
    """`ascii_only` writes the body with escapes, as some clients do."""
    v2.forget()
    body = json.dumps({"manufacturer_user_id": user, "device_ids": devices}, ensure_ascii=ascii_only).encode()
    reply = call(proxy.address, body, JSON)
    assert succeeded(reply, user, tuple(devices))
    (came,) = v2.calls()
    assert json.loads(came["body"].encode("latin-1")) == {"user_id": user}


@ALL
@given(body=st.binary(max_size=300) | st.text().map(lambda text: json.dumps(text).encode()))
def test_any_bytes_as_a_body_are_never_our_fault(proxy: Proxy, body: bytes) -> None:
    reply = call(proxy.address, body, JSON)
    assert reply.status < 500
    assert reply.json()["success"] in (True, False)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@ALL
@given(
    asked=st.fixed_dictionaries(
        {}, optional={"manufacturer_user_id": JSON_VALUES, "device_ids": JSON_VALUES, "more": JSON_VALUES}
    )
)
def test_any_json_is_taken_or_refused_by_its_form(proxy: Proxy, asked: dict[str, Any]) -> None:
    devices = asked.get("device_ids", [])
    fits = isinstance(asked.get("manufacturer_user_id"), str) and (
        isinstance(devices, list) and all(isinstance(device, str) for device in devices)
    )
    reply = call(proxy.address, json.dumps(asked).encode(), JSON)
    assert reply.status == (201 if fits else 400)
