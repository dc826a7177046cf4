"""deploy/SECURITY.md says what the settings say."""

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from proxy.settings import Settings
from tests.processes import ROOT

PAGE = (ROOT / "deploy/SECURITY.md").read_text()
LIMITS = dict(
    re.findall(r"^\| `([a-z_.*0-9]+)` \| ([^|]+) \|", PAGE.partition("\n## What is limited")[2], re.MULTILINE)
)


def defaults(section: BaseModel, above: str = "") -> Iterator[tuple[str, object]]:
    """Each setting by its place; of the upstreams v2's stand for both."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from defaults(value, f"{above}{name}.")
        else:
            yield f"{above}{name}".replace("upstreams.v2.", "upstreams.*."), value


DEFAULTS = dict(defaults(Settings()))


@pytest.mark.parametrize("name", [name for name in LIMITS if name in DEFAULTS])
def test_each_limit_is_the_default(name: str) -> None:
    number = re.match(r"[\d,]+", LIMITS[name])
    assert number
    assert float(number[0].replace(",", "")) == DEFAULTS[name]


def test_each_bound_of_the_settings_is_named() -> None:
    """A setting in seconds, bytes or connections is a limit."""
    bounds = {name for name in DEFAULTS if re.search(r"(timeout|_bytes|_connections|_seconds)$", name)}
    assert bounds - {"upstreams.*.keepalive_expiry"} <= set(LIMITS)
