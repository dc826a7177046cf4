"""v1's two envelopes, and v2's errors turned into the second."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from proxy.contract.decoding import TolerantDecoder
from proxy.contract.messages import Body

ERROR_CODES: tuple[tuple[str, str], ...] = (
    ("missing api key", "missing_api_key"),
    ("invalid api key", "invalid_api_key"),
    ("manufacturer … not enabled", "manufacturer_not_enabled"),
    ("… is required …", "invalid_request"),
)
"""v2's error texts and v1's `error_code`. `…` stands for any text, none included; case does not count."""

STATUS_CODES: Mapping[int, str] = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "payload_too_large",
    422: "invalid_request",
    429: "rate_limited",
    500: "internal_server_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
"""v1's `error_code` where the text is not known."""


_encode = msgspec.json.Encoder().encode


class Success(Body, frozen=True):
    """v1's 201. `timestamp` is in Unix seconds."""

    success: bool
    timestamp: int
    data: Body


class Failure(Body, frozen=True):
    """v1's every other answer. `error` and `message` are the same text, as in the published sample."""

    success: bool
    timestamp: int
    error: str
    error_code: str
    message: str


class V2Error(Body, frozen=True):
    """v2's 4xx and 5xx."""

    error: str


class V1Error(NamedTuple):
    """What a v1 error says. `drifted`: v2's body had a field that its description does not know."""

    text: str
    error_code: str
    drifted: bool

    def __repr__(self) -> str:
        return f"V1Error({self.error_code})"  # v2's text may name a user


def success(data: Body, now: float) -> bytes:
    """The body of v1's 201; `now` is in Unix seconds."""
    return _encode(Success(True, int(now), data))


def failure(text: str, error_code: str, now: float) -> bytes:
    """The body of a v1 error; `now` is in Unix seconds."""
    return _encode(Failure(False, int(now), text, error_code, text))


class ErrorTranslator:
    """Turns v2's error bodies into v1's (contract, "From v2").

    `renamed` maps v2's field names to v1's. `more_codes` are rows of the settings; they come first.
    """

    def __init__(self, renamed: Mapping[str, str], more_codes: Mapping[str, str]) -> None:
        self._renamed = [(re.compile(rf"\b{re.escape(theirs)}\b"), ours) for theirs, ours in renamed.items()]
        self._codes = [(_pattern(text), code) for text, code in (*more_codes.items(), *ERROR_CODES)]

    def to_v1(self, status: int, body: bytes) -> V1Error:
        """v1's words for v2's answer; a body of another form is replaced by a plain text of ours."""
        try:
            told, drifted = _V2_ERROR.decode(body)
        except ValueError:
            return V1Error(_phrase(status), _code_of(status), drifted=False)
        text = told.error
        for word, ours in self._renamed:
            text = word.sub(ours, text)
        return V1Error(text, self._known_code(told.error) or _code_of(status), drifted)

    def _known_code(self, text: str) -> str | None:
        return next((code for pattern, code in self._codes if pattern.fullmatch(text.strip())), None)


_V2_ERROR = TolerantDecoder(V2Error)


def _pattern(text: str) -> re.Pattern[str]:
    """Each gap but the last ends for good where the next words first stand: no text is to be tried in many ways."""
    parts = (part.strip() for part in text.split("…"))
    first, *others = [rf"(?<!\w){re.escape(part)}(?!\w)" if part else "" for part in parts]
    between = "".join(rf"(?>.*?{words})" for words in others[:-1])
    last = "".join(rf".*{words}" for words in others[-1:])
    return re.compile(first + between + last, re.IGNORECASE | re.DOTALL)


def _code_of(status: int) -> str:
    return STATUS_CODES.get(status, "upstream_error")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Upstream error"
