"""A socket's address as it is written: `host:port`."""

import re
from typing import NamedTuple


class Address(NamedTuple):
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int


def parse_address(value: object) -> Address:
    """`host:port`, an IPv6 host in brackets. Raises ValueError."""
    if isinstance(value, Address):
        return value
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):(\d{1,5})", str(value), re.ASCII)
    if found is None or int(found[3]) > 65_535:
        raise ValueError('an address is "host:port", with an IPv6 host in brackets')
    return Address(found[1] or found[2], int(found[3]))


def authority(host: str, port: int) -> str:
    """`host:port`, an IPv6 host in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
