"""The types of single settings: what each takes, and what a fault in it reads like."""

import re
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from proxy.policy.manufacturers import UNAUTHENTICATED, UNREGISTERED
from proxy.wire.address import Address, parse_address
from proxy.wire.transport import check_url, tls_context

_URI = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
"""RFC 3986, section 2: what may stand in a Link header too."""


def _url(value: str) -> str:
    parts = _split(value, "an upstream's URL is http or https, with a host")
    if parts.username or parts.password or set(value) & {"?", "#", "@"}:
        raise ValueError("an upstream's URL has no user, password, query or fragment")
    if not _URI.fullmatch(value):
        raise ValueError("a URL is visible ASCII; write other characters percent-encoded")
    check_url(value)
    return value.rstrip("/")


def _web_link(value: str) -> str:
    rule = "a link is http or https, with a host and without a user"
    if "@" in _split(value, rule).netloc:
        raise ValueError(rule)
    if not _URI.fullmatch(value):
        raise ValueError("a link is visible ASCII without <, > and quotes; write other characters percent-encoded")
    return value


def _split(value: str, rule: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(rule)
    return parts


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        ip_network(network)
    return value


def _digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError("a key's SHA-256 is 64 hex digits; `nox-proxy hash-key` prints it")
    return value.lower()


def _name(value: str) -> str:
    if value in ("", UNREGISTERED, UNAUTHENTICATED):
        raise ValueError("an empty name, or one that the metrics use for keys no list names")
    if not value.isprintable():
        raise ValueError("a name is printable characters")
    return value


class Variable(str):
    """A value out of the environment, where all is text; in the file a number is a number."""

    __slots__ = ()


def _only(*kinds: type, words: str) -> BeforeValidator:
    """Of these types exactly, for pydantic would take a text for a number, and true for 1."""

    def check(value: object) -> object:
        if type(value) not in (*kinds, Variable):
            raise ValueError(f"must be {words}")
        return value

    return BeforeValidator(check)


def _moment(value: object) -> float:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, Variable) else value
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            datetime.fromtimestamp(moment.timestamp(), UTC)  # a moment that UTC has, too
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a date and time with its offset, as 2027-06-30T23:59:59Z")


def _share(value: float) -> float:
    if value != round(value, 2):
        raise ValueError("a share comes in steps of 0.01")
    return value


def _salt(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("a salt is one or more printable characters")
    return value


def _authority(value: Path) -> Path:
    try:
        tls_context(str(value))
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"no certificates to read: {error.strerror or error}") from None
    return value


AddressText = Annotated[Address, NoDecode, BeforeValidator(parse_address)]
Seconds = Annotated[float, _only(int, float, words="a number of seconds"), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, _only(int, words="a whole number"), Field(gt=0)]
Percent = Annotated[float, _only(int, float, words="a number from 0 to 100"), Field(ge=0, le=100)]
Ratio = Annotated[float, _only(int, float, words="a number over 0, to 1"), Field(gt=0, le=1)]
Share = Annotated[Percent, AfterValidator(_share)]
Moment = Annotated[float, BeforeValidator(_moment)]
"""Unix seconds."""
Switch = Annotated[bool, _only(bool, words="true or false")]
Url = Annotated[str, AfterValidator(_url)]
WebLink = Annotated[str, AfterValidator(_web_link)]
TrustedProxies = Annotated[tuple[str, ...], AfterValidator(_networks)]
Authority = Annotated[Path, AfterValidator(_authority)]
Digest = Annotated[str, AfterValidator(_digest)]
Name = Annotated[str, AfterValidator(_name)]
Salt = Annotated[str, AfterValidator(_salt)]
