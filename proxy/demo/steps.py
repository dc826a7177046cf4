"""The demo's callers, and the calls that they make."""

from typing import NamedTuple

KEY = "demo-key"
UNLISTED = "unlisted-key"
MANUFACTURERS = {"acme": KEY, "boreal": "boreal-key", "corvid": "corvid-key"}
"""The demo's manufacturers and their keys. A brownout hits boreal alone; corvid has moved to v2."""

_SAMPLE = '{"manufacturer_user_id": "user-4711", "device_ids": ["heat-pump-1", "wallbox-2"]}'


class Step(NamedTuple):
    """A call of the old integration, and the answer that v1 promises it."""

    title: str
    headers: dict[str, str]
    body: str
    status: int
    error_code: str | None = None
    reaches_v2: bool = True
    v2_runs: bool = True


STEPS = (
    Step("A connection", {"x-api-key": KEY}, _SAMPLE, 201),
    Step("The same with Authorization: ApiKey", {"authorization": f"ApiKey {KEY}"}, _SAMPLE, 201),
    Step(
        "By a manufacturer in a brownout",
        {"x-api-key": "boreal-key"},
        _SAMPLE,
        410,
        "endpoint_brownout",
        reaches_v2=False,
    ),
    Step("With a key that no list names", {"x-api-key": UNLISTED}, _SAMPLE, 201),
    Step("Without a key", {}, _SAMPLE, 401, "missing_api_key", reaches_v2=False),
    Step("With a key that v2 refuses", {"x-api-key": "wrong"}, _SAMPLE, 401, "invalid_api_key"),
    Step(
        "With a bad body",
        {"x-api-key": KEY},
        '{"manufacturer_user_id": 4711}',
        400,
        "invalid_request",
        reaches_v2=False,
    ),
    Step("While v2 is down", {"x-api-key": KEY}, _SAMPLE, 502, "upstream_unavailable", reaches_v2=False, v2_runs=False),
    Step("After v2 came back", {"x-api-key": KEY}, _SAMPLE, 201),
)
