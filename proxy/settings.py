"""The settings: one TOML file, then NOX_PROXY_* variables over it, frozen and checked at start."""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from proxy.contract.changes import CHANGES
from proxy.contract.version_change import AnyChange, Policies, UnmappedPolicy
from proxy.setting_types import (
    Address,
    AddressText,
    Authority,
    Count,
    Digest,
    Name,
    Seconds,
    Switch,
    TrustedProxies,
    Url,
    Variable,
)
from proxy.wire.headers import Networks
from proxy.wire.transport import TransportName

PREFIX = "NOX_PROXY_"
WORDS = {
    "extra_forbidden": "unknown setting",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
}
"""pydantic's kinds of fault, where its own words speak of Python."""
TABLES = ("upstreams", "changes", "manufacturers")


class Section(BaseModel):
    """A level of the settings: frozen, and an unknown name is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UpstreamSettings(Section):
    """`[upstreams.v2]`; times in seconds."""

    url: Url = "https://auth.nox.energy/v2"
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 10.0
    max_connections: Count = 512
    keepalive_expiry: Seconds = 15.0
    transport: TransportName = "keepalive"
    ca_file: Authority | None = None


class Upstreams(Section):
    """`[upstreams]`."""

    v2: UpstreamSettings = UpstreamSettings()


class ChangeSettings(Section):
    """`[changes.NAME]`: what every change has. Its unmapped fields are added by their names below."""

    error_codes: dict[str, str] = {}


class ManufacturerSettings(Section):
    """`[manufacturers.NAME]`."""

    keys_sha256: tuple[Digest, ...] = ()


def _change_section(change: AnyChange) -> type[ChangeSettings]:
    policies: dict[str, Any] = dict.fromkeys(change.unmapped, (UnmappedPolicy, "echo"))
    return create_model(change.name, __base__=ChangeSettings, **policies)


def _changes_section() -> type[Section]:
    sections: dict[str, Any] = {}
    for change in CHANGES:
        section = _change_section(change)
        sections[change.name] = (section, section())
    return create_model("Changes", __base__=Section, **sections)


if TYPE_CHECKING:
    Changes = Section
else:
    Changes = _changes_section()  # so that a new change needs no line here


class Settings(BaseSettings):
    """All settings, with the defaults of the README's table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    listen: AddressText = Address("127.0.0.1", 8080)
    admin_listen: AddressText = Address("127.0.0.1", 9464)
    max_body_bytes: Count = 1_048_576
    max_response_bytes: Count = 1_048_576
    max_header_bytes: Count = 32_768
    keepalive_timeout: Seconds = 75.0
    drain_seconds: Seconds = 20.0
    trusted_proxies: TrustedProxies = ("127.0.0.1", "::1")
    access_log: Switch = True
    upstreams: Upstreams = Upstreams()
    changes: Changes = Changes()
    manufacturers: dict[Name, ManufacturerSettings] = {}

    @model_validator(mode="after")
    def _without_contradiction(self) -> Self:
        if self.listen == self.admin_listen and self.listen.port:
            raise ValueError("admin_listen: the same address as listen")
        owners: dict[str, str] = {}
        for name, listed in self.manufacturers.items():
            for digest in listed.keys_sha256:
                if owners.setdefault(digest, name) != name:
                    raise ValueError(f"manufacturers.{name}.keys_sha256: a key that {owners[digest]} has too")
        return self

    @property
    def trusted_networks(self) -> Networks:
        """`trusted_proxies`, parsed."""
        return tuple(ip_network(network) for network in self.trusted_proxies)

    def policies(self, change: AnyChange) -> Policies:
        """What becomes of the fields that v2 has no room for."""
        section = getattr(self.changes, change.name)
        return {field: getattr(section, field) for field in change.unmapped}

    def error_codes(self, change: AnyChange) -> Mapping[str, str]:
        """More rows for the `error_code` table."""
        section: ChangeSettings = getattr(self.changes, change.name)
        return section.error_codes

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A variable overrides the file, which comes as the initial values."""
        return _Variables(settings_cls), init_settings


class SettingsFault(Exception):
    """What is wrong with the settings: one line a fault, naming the place and never a value."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


def load(file: Path | None) -> Settings:
    """The settings of a file, if one is given, and the environment. Raises SettingsFault."""
    written = _read(file) if file else {}
    # BaseSettings takes names that begin with _ for instructions to itself.
    unknown = [*(name for name in written if name not in Settings.model_fields), *_unknown_variables()]
    try:
        settings = Settings(**{name: value for name, value in written.items() if name in Settings.model_fields})
    except ValidationError as error:
        faults = [_line(fault["loc"], fault["type"], fault["msg"]) for fault in error.errors()]
    except SettingsError as error:
        faults = [f"{_place_of(error)}: a list or table in a variable is JSON"]
    else:
        faults = []
    if unknown or faults:
        raise SettingsFault(*(f"{name}: unknown setting" for name in unknown), *faults)
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsFault(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsFault(f"{file}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsFault(f"{file}: {error}") from None


class _Variables(EnvSettingsSource):
    """The environment, its texts marked as such."""

    def __call__(self) -> dict[str, Any]:
        return {name: _as_variables(value) for name, value in super().__call__().items()}


def _as_variables(value: Any) -> Any:
    """Marks every text of a nested dict."""
    if isinstance(value, dict):
        return {name: _as_variables(inner) for name, inner in value.items()}
    return Variable(value) if isinstance(value, str) else value


def _unknown_variables() -> list[str]:
    """Variables that pydantic-settings passes over: an unknown first part, or parts below a plain value."""

    def is_known(name: str) -> bool:
        first, *below = name.upper().removeprefix(PREFIX).lower().split("__")
        return first in Settings.model_fields and not (below and first not in TABLES)

    return [name for name in os.environ if name.upper().startswith(PREFIX) and not is_known(name)]


def _place_of(error: SettingsError) -> str:
    """The setting that pydantic-settings could not parse."""
    found = re.search(r'field "(\w+)"', str(error))
    return found[1] if found else f"a {PREFIX}* variable"


def _line(place: tuple[int | str, ...], kind: str, text: str) -> str:
    said = WORDS.get(kind) or text.removeprefix("Value error, ").replace("Input should be ", "must be ")
    where = ".".join(str(part) for part in place if part != "[key]")
    return f"{where}: {said}" if where else said
