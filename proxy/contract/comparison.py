"""Two v1 envelopes compared field by field: by name and by what kind of difference, never by value."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from proxy.contract.envelope import Failure, Success

Kind = Literal["value", "type", "missing", "surplus"]
"""What is wrong with v2's field, measured by v1's."""

OTHER = "other"
"""Stands for every field that no envelope of ours has: no upstream can add a name to the metrics."""


class Difference(NamedTuple):
    """A field, by its path in the envelope, in which v2's answer is not v1's."""

    field: str
    kind: Kind


class NotAnEnvelope(ValueError):
    """A body that is no v1 envelope: no JSON object whose `success` is true or false."""


def is_measure(status: int) -> bool:
    """Whether an answer of v1's says what v2's should be: it is no fault, no limit and no schedule of its own."""
    return status < 500 and status not in (410, 429)


def read_envelope(body: bytes) -> Mapping[str, object]:
    """Raises NotAnEnvelope."""
    try:
        said = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise NotAnEnvelope from None  # the decoder's words may hold a value
    if not isinstance(said, dict) or not isinstance(said.get("success"), bool):
        raise NotAnEnvelope
    return said


def compare(v1_status: int, v1_body: bytes, v2_status: int, v2_body: bytes) -> tuple[Difference, ...]:
    """In what v2's answer, turned into v1's envelope, differs from v1's. Raises NotAnEnvelope for either body.

    `timestamp` is left out, arrays are compared as sets. The bodies of two statuses say different things, so the
    status is then the one difference, and v2's body is not read. v2's fields are ours, so they are named as they are.
    """
    theirs = _fields(read_envelope(v1_body))
    if v1_status != v2_status:
        return (Difference("status", "value"),)
    ours = _fields(read_envelope(v2_body))
    found = {path: _differ(path, theirs, ours) for path in {**ours, **theirs}}
    named = [
        Difference(".".join(path) if path in ours or path in _OURS else OTHER, kind)
        for path, kind in found.items()
        if kind is not None
    ]
    return tuple(dict.fromkeys(named))


Path = tuple[str, ...]

_DATA = "data"
_TIMESTAMP = "timestamp"
_OURS = {(name,) for envelope in (Success, Failure) for name in envelope.__struct_fields__ if name != _DATA}
"""v1 may have them where v2's answer is the other envelope."""


def _fields(envelope: Mapping[str, object]) -> dict[Path, object]:
    """What there is to compare: the envelope's own fields, and those of `data`."""
    fields: dict[Path, object] = {(name,): value for name, value in envelope.items() if name != _TIMESTAMP}
    data = fields.get((_DATA,))
    if isinstance(data, dict):
        del fields[_DATA,]
        fields.update(((_DATA, name), value) for name, value in data.items())
    return fields


def _differ(path: Path, theirs: Mapping[Path, object], ours: Mapping[Path, object]) -> Kind | None:
    if path not in theirs:
        return "surplus"
    if path not in ours:
        return "missing"
    their, our = theirs[path], ours[path]
    if type(their) is not type(our):
        return "type"
    try:
        return None if _same(their, our) else "value"
    except RecursionError:  # nested as deep as JSON can be read; no answer of ours is
        return "value"


_encode = msgspec.json.Encoder(order="sorted").encode


def _same(their: object, our: object) -> bool:
    """Compared as JSON: in Python true equals 1, and an object has no place in a set."""
    if _encode(their) == _encode(our):
        return True
    return isinstance(their, list) and isinstance(our, list) and _members(their) == _members(our)


def _members(array: list[object]) -> set[bytes]:
    return set(map(_encode, array))
