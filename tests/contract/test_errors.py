"""The tree of errors is whole: every class says all that an answer needs, and is drawn."""

import re
from collections.abc import Iterator

import pytest

from proxy.contract import errors
from proxy.contract.errors import BreakerOpen, EndpointBrownout, ProxyError, RequestTimeout, UnmappedFieldRefused


def below(kind: type[ProxyError]) -> Iterator[type[ProxyError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


LEAVES = [kind for kind in below(ProxyError) if not kind.__subclasses__()]


def made(kind: type[ProxyError]) -> ProxyError:
    if kind is UnmappedFieldRefused:
        return UnmappedFieldRefused("device_ids")
    if kind is RequestTimeout:
        return RequestTimeout("header")
    return kind(60) if kind in (EndpointBrownout, BreakerOpen) else kind()


@pytest.mark.parametrize("kind", LEAVES)
def test_each_error_is_complete(kind: type[ProxyError]) -> None:
    error = made(kind)
    assert 400 <= error.status < 600
    assert re.fullmatch(r"[a-z_]+", error.error_code)
    assert re.fullmatch(r"[a-z_]+", error.reason)
    assert error.text[0].isupper() or isinstance(error, UnmappedFieldRefused)
    assert str(error) == error.text


@pytest.mark.parametrize("kind", LEAVES)
def test_each_error_is_drawn(kind: type[ProxyError]) -> None:
    assert errors.__doc__ is not None
    line = next(line for line in errors.__doc__.splitlines() if f"── {kind.__name__} " in line)
    code = "<field>_unsupported" if kind is UnmappedFieldRefused else made(kind).error_code
    assert code in line


def test_codes_are_each_errors_own() -> None:
    codes = [made(kind).error_code for kind in LEAVES]
    assert len(codes) == len(set(codes))


def test_a_text_and_a_reason_may_be_more_exact() -> None:
    error = errors.UpstreamUnavailable(reason="dns_error")
    assert (error.reason, error.text) == ("dns_error", errors.UpstreamUnavailable.text)
    assert errors.InvalidRequest("x is required").text == "x is required"
