"""The settings: one TOML file, then NOX_PROXY_* variables over it, frozen and checked at start."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from proxy.contract.changes import CHANGES
from proxy.contract.version_change import AnyChange, Policies
from proxy.policy.deprecation import Deprecation
from proxy.policy.manufacturers import UNREGISTERED
from proxy.policy.rollout import Override, Rollout
from proxy.setting_sections import Changes, ChangeSettings, ManufacturerSettings, Upstreams
from proxy.setting_types import AddressText, Count, Name, Seconds, Switch, TrustedProxies, Variable
from proxy.wire.address import Address
from proxy.wire.headers import Networks

PREFIX = "NOX_PROXY_"
WORDS = {
    "extra_forbidden": "unknown setting",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "missing": "is missing",
}
"""pydantic's kinds of fault, where its own words speak of Python."""
TABLES = ("upstreams", "changes", "manufacturers")
RELOADED = ("changes", "manufacturers")
"""What a running proxy takes over from a file that was changed."""


class Settings(BaseSettings):
    """All settings, with the defaults of the README's table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    listen: AddressText = Address("127.0.0.1", 8080)
    admin_listen: AddressText = Address("127.0.0.1", 9464)
    workers: Count = 1
    max_body_bytes: Count = 1_048_576
    max_response_bytes: Count = 1_048_576
    max_header_bytes: Count = 32_768
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 20.0
    keepalive_timeout: Seconds = 75.0
    max_connections: Count = 10_000
    drain_seconds: Seconds = 20.0
    trusted_proxies: TrustedProxies = ("127.0.0.1", "::1")
    access_log: Switch = True
    upstreams: Upstreams = Upstreams()
    changes: Changes = Changes()
    manufacturers: dict[Name, ManufacturerSettings] = {}

    @model_validator(mode="after")
    def _without_contradiction(self) -> Self:
        if faults := [*self.contradictions()]:
            raise ValueError("\n".join(faults))
        return self

    def contradictions(self) -> Iterator[str]:
        """What of the sections cannot stand together, a line each, with its place."""
        yield from self._shared_addresses()
        yield from self._shared_keys()
        yield from self._unknown_names()
        if self.upstreams.v1 is None:
            yield from (f"{need} needs upstreams.v1.url" for need in self._needs_of_v1())

    def _shared_addresses(self) -> Iterator[str]:
        if self.listen == self.admin_listen and self.listen.port:
            yield "admin_listen: the same address as listen"
        v1, v2 = self.upstreams.v1, self.upstreams.v2
        if v1 is not None and v1.url.casefold() == v2.url.casefold():
            yield "upstreams.v1.url: the same as upstreams.v2.url; v1's is the host without v2's prefix"

    def _shared_keys(self) -> Iterator[str]:
        owners: dict[str, str] = {}
        for name, listed in self.manufacturers.items():
            for digest in listed.keys_sha256:
                if owners.setdefault(digest, name) != name:
                    yield f"manufacturers.{name}.keys_sha256: a key that {owners[digest]} has too"

    def _unknown_names(self) -> Iterator[str]:
        known = {*self.manufacturers, UNREGISTERED}
        for change in CHANGES:
            for number, window in enumerate(self._section(change).deprecation.brownouts):
                for place, name in enumerate(window.exempt):
                    if name not in known:
                        where = f"changes.{change.name}.deprecation.brownouts.{number}.exempt.{place}"
                        yield f"{where}: not the name of a manufacturer"

    def _needs_of_v1(self) -> Iterator[str]:
        for change in CHANGES:
            for need in self._section(change).rollout.needs_of_v1():
                yield f"changes.{change.name}.rollout.{need}"
        for name, listed in self.manufacturers.items():
            for need in listed.needs_of_v1():
                yield f"manufacturers.{name}.{need}"

    @property
    def trusted_networks(self) -> Networks:
        """`trusted_proxies`, parsed."""
        return tuple(ip_network(network) for network in self.trusted_proxies)

    def policies(self, change: AnyChange) -> Policies:
        """What becomes of the fields that v2 has no room for."""
        section = self._section(change)
        return {field: getattr(section, field) for field in change.unmapped}

    def error_codes(self, change: AnyChange) -> Mapping[str, str]:
        """More rows for the `error_code` table."""
        return self._section(change).error_codes

    def deprecation(self, change: AnyChange) -> Deprecation:
        """The schedule of its end."""
        return self._section(change).deprecation.schedule(self.upstreams.v2.url + change.v2_path)

    def rollout(self, change: AnyChange) -> Rollout:
        """Which upstream answers its calls."""
        overrides = {name: listed.override() for name, listed in self.manufacturers.items()}
        return self._section(change).rollout.plan({name: its for name, its in overrides.items() if its != Override()})

    def _section(self, change: AnyChange) -> ChangeSettings:
        section: ChangeSettings = getattr(self.changes, change.name)
        return section

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
    return load_text(read_file(file) if file else None, str(file))


def read_file(file: Path) -> bytes:
    """What stands in a settings file. Raises SettingsFault."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsFault(f"{file}: {error.strerror}") from None


def load_text(text: bytes | None, name: str) -> Settings:
    """The settings of a text, if there is one, and the environment. Raises SettingsFault; `name` is the file's."""
    written = {} if text is None else _parse(text, name)
    # BaseSettings takes names that begin with _ for instructions to itself.
    unknown = [*(name for name in written if name not in Settings.model_fields), *_unknown_variables()]
    try:
        settings = Settings(**{name: value for name, value in written.items() if name in Settings.model_fields})
    except ValidationError as error:
        faults = [line for fault in error.errors() for line in _lines(fault["loc"], fault["type"], fault["msg"])]
    except SettingsError as error:
        faults = [f"{_place_of(error)}: a list or table in a variable is JSON"]
    except RecursionError:
        faults = [f"a {PREFIX}* variable: nested too deep"]
    else:
        faults = []
    if unknown or faults:
        raise SettingsFault(*(f"{name}: unknown setting" for name in unknown), *faults)
    return settings


def reloaded(running: Settings, read: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The settings to go on with after others were read, and the names of those that only a restart can change.

    Raises SettingsFault where what is new cannot go with what stays.
    """
    settings = running.model_copy(update={name: getattr(read, name) for name in RELOADED})
    left = tuple(_differences(settings, read))
    if faults := [*settings.contradictions()]:  # both were whole: it is for want of what cannot change
        raise SettingsFault(*(f"{fault}; only a restart changes {', '.join(left)}" for fault in faults))
    return settings, left


def _differences(running: BaseModel, read: BaseModel, above: str = "") -> Iterator[str]:
    """The names of the settings in which two differ."""
    for name in type(running).model_fields:
        one, other = getattr(running, name), getattr(read, name)
        if isinstance(one, BaseModel) and isinstance(other, BaseModel):
            yield from _differences(one, other, f"{above}{name}.")
        elif one != other:
            yield above + name


def exports_spans() -> bool:
    """Whether OpenTelemetry's own variables ask for spans over OTLP. They are its to read; no setting of ours is."""
    asked = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{its}ENDPOINT") for its in ("", "TRACES_"))
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return asked and not disabled and os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() != "none"


def _parse(text: bytes, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise SettingsFault(f"{name}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsFault(f"{name}: {error}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or brackets as deep
        raise SettingsFault(f"{name}: not TOML that can be read") from None


class _Variables(EnvSettingsSource):
    """The environment, its texts marked as such."""

    def __call__(self) -> dict[str, Any]:
        return {name: _as_variables(value) for name, value in super().__call__().items()}


def _as_variables(value: Any) -> Any:
    """Marks every text of nested tables and lists."""
    if isinstance(value, dict):
        return {name: _as_variables(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_variables(inner) for inner in value]
    return Variable(value) if isinstance(value, str) else value


def _unknown_variables() -> list[str]:
    """Variables that pydantic-settings passes over: an unknown first part, or parts below a plain value."""

    def is_known(name: str) -> bool:
        first, *below = name.upper().removeprefix(PREFIX).lower().split("__")
        return first in Settings.model_fields and not (below and first not in TABLES)

    return [name for name in os.environ if name.upper().startswith(PREFIX) and not is_known(name)]


def _place_of(error: SettingsError) -> str:
    """The setting whose variable pydantic-settings could not parse; its own words name the first level alone."""
    cause = error.__cause__
    for name, value in os.environ.items():
        if isinstance(cause, JSONDecodeError) and value == cause.doc and name.upper().startswith(PREFIX):
            return name.upper().removeprefix(PREFIX).lower().replace("__", ".")
    return f"a {PREFIX}* variable"


def _printable(part: str) -> str:
    return part if part.isprintable() else repr(part)


def _lines(place: tuple[int | str, ...], kind: str, text: str) -> list[str]:
    said = WORDS.get(kind) or text.removeprefix("Value error, ").replace("Input should be ", "must be ")
    where = ".".join(_printable(str(part)) for part in place if part != "[key]")
    return [f"{where}: {line}" if where else line for line in said.split("\n")]
