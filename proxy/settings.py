"""The settings: one TOML file, then NOX_PROXY_* variables over it, frozen and checked at start."""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from proxy.contract.changes import CHANGES
from proxy.contract.version_change import AnyChange, Policies, UnmappedPolicy
from proxy.policy.manufacturers import UNAUTHENTICATED, UNREGISTERED
from proxy.wire.headers import Networks
from proxy.wire.transport import TransportName, check_url, tls_context

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


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("an upstream's URL is http or https, with a host")
    if parts.username or parts.password or set(value) & {"?", "#", "@"}:
        raise ValueError("an upstream's URL has no user, password, query or fragment")
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("a URL is visible ASCII; write other characters percent-encoded")
    check_url(value)
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
    if value in ("", UNREGISTERED, UNAUTHENTICATED):
        raise ValueError("an empty name, or one that the metrics use for keys no list names")
    return value


class Variable(str):
    """A value out of the environment, where all is text; in the file a number is a number."""

    __slots__ = ()


def _count(value: object) -> object:
    if type(value) not in (int, Variable):
        raise ValueError("must be a whole number")
    return value


def _seconds(value: object) -> object:
    if type(value) not in (int, float, Variable):
        raise ValueError("must be a number of seconds")
    return value


def _switch(value: object) -> object:
    if type(value) not in (bool, Variable):
        raise ValueError("must be true or false")
    return value


def _authority(value: Path) -> Path:
    try:
        tls_context(str(value))
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"no certificates to read: {error.strerror or error}") from None
    return value


AddressText = Annotated[Address, NoDecode, BeforeValidator(parse_address)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_count), Field(gt=0)]
Switch = Annotated[bool, BeforeValidator(_switch)]


class Section(BaseModel):
    """A level of the settings: frozen, and an unknown name is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UpstreamSettings(Section):
    """`[upstreams.v2]`; times in seconds."""

    url: Annotated[str, AfterValidator(_url)] = "https://auth.nox.energy/v2"
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 10.0
    max_connections: Count = 512
    keepalive_expiry: Seconds = 15.0
    transport: TransportName = "keepalive"
    ca_file: Annotated[Path, AfterValidator(_authority)] | None = None


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
    max_body_bytes: Count = 1_048_576
    max_response_bytes: Count = 1_048_576
    max_header_bytes: Count = 32_768
    keepalive_timeout: Seconds = 75.0
    drain_seconds: Seconds = 20.0
    trusted_proxies: Annotated[tuple[str, ...], AfterValidator(_networks)] = ("127.0.0.1", "::1")
    access_log: Switch = True
    upstreams: Upstreams = Upstreams()
    changes: Changes = Changes()
    manufacturers: dict[Annotated[str, AfterValidator(_name)], ManufacturerSettings] = {}

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
