"""What is asked: how many connections, which bodies, which heads."""

import json

import msgspec

KEY = "demo-key"
BAD_KEY = "bad-key"
"""The stub v2 refuses it."""
IDS = {"manufacturer_user_id": "user-4711", "nox_user_id": "nox_d09fd7d4a6ef46b8a74dcfe7da2690f9"}
"""What the stub v2 says."""

HEADERS = {
    "content-type": "application/json",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "user-agent": "heat-pump-cloud/3.2",
}
"""A typical client's, beside Host and the key."""


class Request(msgspec.Struct, frozen=True):
    """One request of a scenario, and how many of a hundred are such."""

    body: str
    expected: int = 201
    share: int = 100
    key: str = KEY


class Scenario(msgspec.Struct, frozen=True):
    """`own_ids`: each request has its own x-request-id, so that nothing can be kept by a head's bytes."""

    name: str
    column: str
    title: str
    connections: int
    requests: tuple[Request, ...]
    own_ids: bool = False

    @property
    def has_errors(self) -> bool:
        return any(request.expected != 201 for request in self.requests)


def body(device_ids: int) -> str:
    """A v1 body with so many device IDs."""
    ids = [f"device-{number:05}" for number in range(device_ids)]
    return json.dumps({"manufacturer_user_id": IDS["manufacturer_user_id"], "device_ids": ids})


WITHOUT_USER = json.dumps({"device_ids": ["device-00000", "device-00001"]})
_SMALL = (Request(body(2)),)
MIX = (
    Request(body(2), share=85),
    Request(body(2), 401, share=10, key=BAD_KEY),
    Request(WITHOUT_USER, 400, share=5),
)

TYPICAL = Scenario("32", "32", "32 connections", 32, _SMALL)
"""Its rates are halved, and memory and workers are looked at with it."""

SCENARIOS = (
    Scenario("1", "1", "1 connection", 1, _SMALL),
    TYPICAL,
    Scenario("256", "256", "256 connections", 256, _SMALL),
    Scenario("1024", "1,024", "1,024 connections", 1024, _SMALL),
    Scenario("100_ids", "100 IDs", "32 connections, 100 device IDs", 32, (Request(body(100)),)),
    Scenario("5000_ids", "5,000 IDs", "32 connections, 5,000 device IDs", 32, (Request(body(5_000)),)),
    Scenario("errors", "15 % errors", "32 connections, 10 % 401 and 5 % 400", 32, MIX),
    Scenario("heads", "heads differ", "32 connections, heads that differ", 32, _SMALL, own_ids=True),
)
