"""v1's `POST /manufacturers/nox`, which v2 calls `POST /manufacturer/device-connections`."""

import msgspec

from proxy.contract.messages import Body
from proxy.contract.version_change import Policies, VersionChange


class V1Request(Body, frozen=True, gc=False):
    """What a v1 caller sends."""

    manufacturer_user_id: str
    device_ids: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class V1Connection(Body, frozen=True, gc=False):
    """The `data` of v1's 201."""

    manufacturer_user_id: str
    nox_user_id: str
    device_ids: tuple[str, ...]


class V2Request(Body, frozen=True, gc=False):
    """What v2 takes."""

    user_id: str


class V2Connection(Body, frozen=True, gc=False):
    """v2's 201."""

    manufacturer_user_id: str
    nox_user_id: str


def to_v2(asked: V1Request) -> V2Request:
    """The user alone: v2 keeps no device IDs."""
    return V2Request(asked.manufacturer_user_id)


def to_v1(asked: V1Request, told: V2Connection, policies: Policies) -> V1Connection:
    """The two IDs as v2 gave them, and the device IDs by their policy."""
    echoed = asked.device_ids if policies["device_ids"] == "echo" else ()
    return V1Connection(told.manufacturer_user_id, told.nox_user_id, echoed or ())


connect_nox_user = VersionChange(
    name="connect_nox_user",
    v1_path="/manufacturers/nox",
    v2_path="/manufacturer/device-connections",
    v1_request=V1Request,
    v2_answer=V2Connection,
    faults={
        "manufacturer_user_id": "manufacturer_user_id is required and must be a string",
        "device_ids": "device_ids must be an array of strings",
    },
    renamed={"user_id": "manufacturer_user_id"},
    unmapped=("device_ids",),
    to_v2=to_v2,
    to_v1=to_v1,
    user=lambda asked: asked.manufacturer_user_id,
)
"""Connecting a manufacturer's user to NOX without an energy-supplier account.

What changed: the path; `manufacturer_user_id` is now `user_id`; the key goes in `x-api-key` only; the
answer is no longer wrapped in `success`, `timestamp` and `data`; errors are `{"error": text}`.

What is gone: `device_ids`. v2 neither takes nor returns them. By the `device_ids` policy the proxy echoes
what was sent, answers `[]`, or refuses the call.

What to do: call `POST /v2/manufacturer/device-connections` with `{"user_id": …}`, and keep the device IDs
on your side.
"""
