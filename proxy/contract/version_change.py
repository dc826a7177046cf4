"""A breaking change between v1 and v2 as one value, and the steps that every change shares."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import msgspec

from proxy.contract.decoding import StrictDecoder, TolerantDecoder
from proxy.contract.errors import InvalidJson, InvalidRequest, InvalidUpstreamResponse, UnmappedFieldRefused
from proxy.contract.messages import Body

Asked = TypeVar("Asked", bound=Body)
Told = TypeVar("Told", bound=Body)

UnmappedPolicy = Literal["echo", "drop", "reject"]
"""What becomes of a field that v2 has no room for: echoed in the answer, emptied, or refused."""

Policies = Mapping[str, UnmappedPolicy]
"""The policy of each unmapped field, by its v1 name."""


@dataclass(frozen=True)
class VersionChange(Generic[Asked, Told]):
    """How one deprecated v1 call is answered by v2.

    `v1_request` must declare its optional fields with `msgspec.UNSET`, so that absent and empty differ.
    """

    name: str
    """The `endpoint` on the metrics, and the section in the settings."""
    v1_path: str
    v2_path: str
    """Below the v2 upstream's URL."""
    v1_request: type[Asked]
    v2_answer: type[Told]
    faults: Mapping[str, str]
    """By field of `v1_request`: what its caller reads when the field is missing or of the wrong type."""
    renamed: Mapping[str, str]
    """v2's field names to v1's, for the texts of v2's errors."""
    unmapped: tuple[str, ...]
    """The fields of `v1_request` that v2 has no room for."""
    to_v2: Callable[[Asked], Body]
    """v1's request as v2's."""
    to_v1: Callable[[Asked, Told, Policies], Body]
    """v2's answer as v1's `data`."""
    user: Callable[[Asked], str]
    """Whom the call is about: a rollout sticks to users."""

    @cached_property
    def v1_paths(self) -> frozenset[bytes]:
        """With and without one trailing slash: never a redirect, old clients do not follow a POST's."""
        path = self.v1_path.encode()
        return frozenset((path, path + b"/"))

    @cached_property
    def _requests(self) -> StrictDecoder[Asked]:
        return StrictDecoder(self.v1_request)

    @cached_property
    def _answers(self) -> TolerantDecoder[Told]:
        return TolerantDecoder(self.v2_answer)

    def read_request(self, body: bytes) -> Asked:
        """A v1 request body (admission 12 and 13). Raises InvalidJson or InvalidRequest."""
        try:
            return self._requests.decode(body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(self.faults.get(_field_at_fault(str(error)))) from None
        except ValueError:
            raise InvalidJson from None

    def refuse_unmapped(self, asked: Asked, policies: Policies) -> None:
        """Raises UnmappedFieldRefused for the first field present whose policy is `reject` (admission 14)."""
        for field in self.unmapped:
            if policies[field] == "reject" and getattr(asked, field) is not msgspec.UNSET:
                raise UnmappedFieldRefused(field)

    def lost_fields(self, asked: Asked) -> tuple[str, ...]:
        """The unmapped fields that came with a value: what this call says and v2 will not keep."""
        lost: tuple[str, ...] = ()
        for field in self.unmapped:
            if getattr(asked, field):
                lost += (field,)
        return lost

    def read_answer(self, body: bytes) -> tuple[Told, bool]:
        """A 2xx body of v2's, and whether it drifted. Raises InvalidUpstreamResponse."""
        try:
            return self._answers.decode(body)
        except ValueError:
            raise InvalidUpstreamResponse from None


AnyChange = VersionChange[Any, Any]  # a list of changes holds messages of many types


_FIELD = re.compile(r"missing required field `(\w+)`|at `\$\.(\w+)")


def _field_at_fault(message: str) -> str:
    """The field that msgspec's message names; empty where the fault is the whole body."""
    found = _FIELD.search(message)
    return (found[1] or found[2]) if found else ""
