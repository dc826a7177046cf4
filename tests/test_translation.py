"""v2's answers as v1's, where the wire has no part in it; the rest is in test_from_v2."""

import pytest

from proxy.contract.changes.connect_nox_user import V1Request
from proxy.contract.errors import InvalidUpstreamResponse
from proxy.contract.messages import Field
from proxy.translation import Translated, to_v1
from proxy.wire.answer import Answer
from tests.ruled import rules_of

ENDPOINT = rules_of().endpoints[0]
ASKED = V1Request("u", ("d",))
GOOD = b'{"manufacturer_user_id": "u", "nox_user_id": "n"}'
ENVELOPE = b'{"success":true,"timestamp":7,"data":{"manufacturer_user_id":"u","nox_user_id":"n","device_ids":["d"]}}'


def translated(status: int, body: bytes, *fields: Field) -> Translated:
    return to_v1(ENDPOINT, ASKED, Answer(status, fields, body), now=7.9)


def test_an_answer_and_an_error() -> None:
    assert translated(200, GOOD) == Translated(201, ENVELOPE, "answered", False)
    told = translated(400, b'{"error": "user_id is required", "more": 1}')
    assert (told.status, told.outcome, told.drifted) == (400, "invalid_request", True)
    assert b'"error":"manufacturer_user_id is required"' in told.body


@pytest.mark.parametrize("codings", [(b"gzip",), (b"BR",), (b"identity", b"gzip")])
@pytest.mark.parametrize("status", [201, 500])
def test_a_coding_that_was_not_asked_for(codings: tuple[bytes, ...], status: int) -> None:
    with pytest.raises(InvalidUpstreamResponse) as raised:
        translated(status, GOOD, *((b"content-encoding", coding) for coding in codings))
    assert raised.value.reason == "http_response_content_coding"


def test_identity_is_none() -> None:
    assert translated(201, GOOD, (b"content-encoding", b"Identity")).body == ENVELOPE


@pytest.mark.parametrize("status", [204, 302, 304])
def test_no_answer_of_v2s(status: int) -> None:
    with pytest.raises(InvalidUpstreamResponse):
        translated(status, b"")
