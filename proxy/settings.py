"""The settings: one TOML file, then NOX_PROXY_* variables over it, frozen and checked at start."""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from proxy.contract.changes import CHANGES
from proxy.contract.version_change import AnyChange, Policies, UnmappedPolicy
from proxy.wire.headers import Networks
from proxy.wire.transport import TransportName

PREFIX = "NOX_PROXY_"


class Address(NamedTuple):
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int


def parse_address(value: object) -> Address:
    """`host:port`, an IPv6 host in brackets. Raises ValueError."""
    if isinstance(value, Address):
        return value
    host, _, port = str(value).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError('an address is "host:port", with an IPv6 host in brackets')
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("an upstream's URL is http or https, with a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("an upstream's URL has no user, password, query or fragment")
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("a URL is visible ASCII; write other characters percent-encoded")
    return value.rstrip("/")


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        ip_network(network)
    return value


def _digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError("a key's SHA-256 is 64 hex digits; `nox-proxy hash-key` prints it")
    return value.lower()


def _name(value: str) -> str:
    if value in ("unregistered", "unauthenticated"):
        raise ValueError("a name that the metrics use for keys no list names")
    return value


AddressText = Annotated[Address, NoDecode, BeforeValidator(parse_address)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A level of the settings: frozen, and an unknown name is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UpstreamSettings(Section):
    """`[upstreams.v2]`; times in seconds."""

    url: Annotated[str, AfterValidator(_url)] = "https://auth.nox.energy/v2"
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 10.0
    max_connections: Annotated[int, Field(gt=0)] = 512
    keepalive_expiry: Seconds = 15.0
    transport: TransportName = "keepalive"
    ca_file: Path | None = None


class Upstreams(Section):
    """`[upstreams]`."""

    v2: UpstreamSettings = UpstreamSettings()


class ChangeSettings(Section):
    """`[changes.NAME]`: what every change has. Its unmapped fields are added by their names below."""

    error_codes: dict[str, str] = {}


class ManufacturerSettings(Section):
    """`[manufacturers.NAME]`."""

    keys_sha256: tuple[Annotated[str, AfterValidator(_digest)], ...] = ()


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
    max_body_bytes: Bytes = 1_048_576
    max_response_bytes: Bytes = 1_048_576
    max_header_bytes: Bytes = 32_768
    keepalive_timeout: Seconds = 75.0
    drain_seconds: Seconds = 20.0
    trusted_proxies: Annotated[tuple[str, ...], AfterValidator(_networks)] = ("127.0.0.1", "::1")
    access_log: bool = True
    upstreams: Upstreams = Upstreams()
    changes: Changes = Changes()
    manufacturers: dict[Annotated[str, AfterValidator(_name)], ManufacturerSettings] = {}

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
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """A variable overrides the file, which comes as the initial values."""
        return env_settings, init_settings


class SettingsFault(Exception):
    """What is wrong with the settings: one line a fault, naming the place and never a value."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


def load(file: Path | None) -> Settings:
    """The settings of a file, if one is given, and the environment. Raises SettingsFault."""
    written = _read(file) if file else {}
    if unknown := _unknown_variables():
        raise SettingsFault(*(f"{name}: unknown setting" for name in unknown))
    try:
        return Settings(**written)
    except ValidationError as error:
        raise SettingsFault(*(_line(fault["loc"], fault["type"], fault["msg"]) for fault in error.errors())) from None
    except SettingsError:
        raise SettingsFault(f"a {PREFIX}* variable holds a list or table that is not JSON") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsFault(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsFault(f"{file}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsFault(f"{file}: {error}") from None


def _unknown_variables() -> list[str]:
    """pydantic-settings passes over a variable whose first part it does not know."""
    ours = (name for name in os.environ if name.upper().startswith(PREFIX))
    return [name for name in ours if name.upper()[len(PREFIX) :].split("__")[0].lower() not in Settings.model_fields]


def _line(place: tuple[int | str, ...], kind: str, text: str) -> str:
    said = "unknown setting" if kind == "extra_forbidden" else text.removeprefix("Value error, ")
    return f"{'.'.join(str(part) for part in place if part != '[key]')}: {said}"
