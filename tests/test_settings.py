"""settings.md: names, defaults, the order of sources, and what a fault reads like."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.contract.changes import CHANGES
from proxy.policy.breaker import BreakerRule
from proxy.setting_sections import UpstreamSettings
from proxy.settings import Settings, SettingsFault, load, load_text, read_file
from proxy.wire.address import Address

CHANGE = CHANGES[0]
A = "ab" * 32


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "nox-proxy.toml"


def faults(file: Path | None) -> tuple[str, ...]:
    with pytest.raises(SettingsFault) as caught:
        load(file)
    return caught.value.lines


def test_the_defaults() -> None:
    settings = load(None)
    v2 = settings.upstreams.v2
    assert settings.listen == ("127.0.0.1", 8080)
    assert settings.admin_listen == ("127.0.0.1", 9464)
    assert settings.workers == 1
    assert settings.max_body_bytes == settings.max_response_bytes == 1_048_576
    assert settings.max_header_bytes == 32_768
    assert (settings.header_timeout, settings.body_timeout, settings.keepalive_timeout) == (10, 20, 75)
    assert settings.max_connections == 10_000
    assert settings.drain_seconds == 20
    assert settings.trusted_proxies == ("127.0.0.1", "::1")
    assert settings.access_log
    assert v2.url == "https://auth.nox.energy/v2"
    assert (v2.connect_timeout, v2.timeout, v2.max_connections) == (3, 10, 512)
    assert (v2.keepalive_expiry, v2.transport, v2.ca_file) == (15, "keepalive", None)
    assert v2.breaker.rule() == BreakerRule(failures=20, ratio=0.5, min_requests=50, window=10, open_for=5)
    assert settings.upstreams.v1 is None
    assert settings.policies(CHANGE) == {"device_ids": "echo"}
    assert settings.error_codes(CHANGE) == {}
    assert settings.manufacturers == {}


def test_a_file_then_the_variables(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written.write_text(
        f"""
        listen = "[::1]:80"
        max_body_bytes = 10
        trusted_proxies = ["10.0.0.0/8"]
        [upstreams.v2]
        url = "http://127.0.0.1:9002/v2/"
        timeout = 1
        [changes.connect_nox_user]
        device_ids = "drop"
        [changes.connect_nox_user.error_codes]
        "gone fishing" = "gone"
        [manufacturers.acme]
        keys_sha256 = ["{"AB" * 32}"]
        """
    )
    monkeypatch.setenv("NOX_PROXY_UPSTREAMS__V2__TIMEOUT", "2.5")
    monkeypatch.setenv("NOX_PROXY_ADMIN_LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("NOX_PROXY_ACCESS_LOG", "false")
    monkeypatch.setenv("NOX_PROXY_CHANGES__CONNECT_NOX_USER__DEVICE_IDS", "reject")
    settings = load(written)
    assert settings.listen == Address("::1", 80)
    assert settings.admin_listen == Address("0.0.0.0", 1)
    assert settings.max_body_bytes == 10
    assert settings.upstreams.v2.url == "http://127.0.0.1:9002/v2"
    assert settings.upstreams.v2.timeout == 2.5
    assert not settings.access_log
    assert settings.policies(CHANGE) == {"device_ids": "reject"}
    assert settings.error_codes(CHANGE) == {"gone fishing": "gone"}
    assert settings.manufacturers["acme"].keys_sha256 == ("ab" * 32,)


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("listn = 1", "listn: unknown setting"),
        ("[upstreams.v3]\nurl = 'http://a'", "upstreams.v3: unknown setting"),
        ("[upstreams.v2]\nurll = 'http://a'", "upstreams.v2.urll: unknown setting"),
        ("[changes.connect_nox_usr]", "changes.connect_nox_usr: unknown setting"),
        ("listen = 'localhost'", 'listen: an address is "host:port", with an IPv6 host in brackets'),
        ("listen = ':80'", 'listen: an address is "host:port", with an IPv6 host in brackets'),
        ("listen = 'a:99999'", 'listen: an address is "host:port", with an IPv6 host in brackets'),
        ("[upstreams.v2]\nurl = 'ftp://a'", "upstreams.v2.url: an upstream's URL is http or https, with a host"),
        ("[upstreams.v2]\nurl = 'http://a:0'", "upstreams.v2.url: an upstream's URL is http or https, with a host"),
        ("[upstreams.v2]\nurl = 'http://a:x'", "upstreams.v2.url: not a URL"),
        (
            "[upstreams.v2]\nurl = 'https://me:hunter2@a'",
            "upstreams.v2.url: an upstream's URL has no user, password, query or fragment",
        ),
        ("[upstreams.v2]\nurl = 'http://a/b c'", "upstreams.v2.url: a URL is visible ASCII; write other characters"),
        ("[upstreams.v2]\ntimeout = 0", "upstreams.v2.timeout: must be greater than 0"),
        ("[upstreams.v2]\ntimeout = nan", "upstreams.v2.timeout: must be "),
        ("[upstreams.v2]\ntimeout = 'soon'", "upstreams.v2.timeout: must be a number of seconds"),
        ("[upstreams.v2]\ntransport = 'magic'", "upstreams.v2.transport: must be 'keepalive' or 'httpx'"),
        ("max_body_bytes = -1", "max_body_bytes: must be greater than 0"),
        ("trusted_proxies = ['10.0.0.1/8']", "trusted_proxies: 10.0.0.1/8 has host bits set"),
        ("trusted_proxies = ['proxy.local']", "trusted_proxies: 'proxy.local' does not appear to be"),
        (
            "[changes.connect_nox_user]\ndevice_ids = 'keep'",
            "changes.connect_nox_user.device_ids: must be 'echo', 'drop' or 'reject'",
        ),
        ("[manufacturers.acme]\nkeys_sha256 = ['demo-key']", "manufacturers.acme.keys_sha256.0: a key's SHA-256 is 64"),
        ("[manufacturers.unregistered]", "manufacturers.unregistered: an empty name, or one that the metrics use"),
        ('[manufacturers.""]', "manufacturers.: an empty name"),
        (
            f"[manufacturers]\na.keys_sha256 = ['{A}']\nb.keys_sha256 = ['{A.upper()}']",
            "manufacturers.b.keys_sha256: a key",
        ),
        ("listen = 'a:1'\nadmin_listen = 'a:1'", "admin_listen: the same address as listen"),
        ("listen = '[::1:80'", 'listen: an address is "host:port"'),
        ("max_body_bytes = true", "max_body_bytes: must be a whole number"),
        ("drain_seconds = false", "drain_seconds: must be a number of seconds"),
        ("max_body_bytes = '5'", "max_body_bytes: must be a whole number"),
        ("max_body_bytes = 1e6", "max_body_bytes: must be a whole number"),
        ("access_log = 1", "access_log: must be true or false"),
        ("access_log = 'no'", "access_log: must be true or false"),
        ("upstreams = 1", "upstreams: must be a table"),
        ("[upstreams]\nv2 = 'x'", "upstreams.v2: must be a table"),
        ("manufacturers = []", "manufacturers: must be a table"),
        ("trusted_proxies = '::1'", "trusted_proxies: must be a list"),
        ("[upstreams.v2]\nca_file = 1", "upstreams.v2.ca_file: must be a path"),
        ("[upstreams.v2]\nurl = 'http://256.1.1.1/'", "upstreams.v2.url: not a URL of a host"),
        ("[upstreams.v2]\nurl = 'http://[v1.a]/'", "upstreams.v2.url: not a URL"),
        ("[upstreams.v2]\nurl = 'http://*/'", "upstreams.v2.url: not a URL of a host"),
        ("[upstreams.v2]\nurl = 'http://h/v2/?'", "upstreams.v2.url: an upstream's URL has no user"),
        ("_env_prefix = 'X_'", "_env_prefix: unknown setting"),
        ("_cli_parse_args = true", "_cli_parse_args: unknown setting"),
        ("[upstreams.v2]\nurl = 'http://a..b:1'", "upstreams.v2.url: "),
        ("[upstreams.v2]\nca_file = '/nope.pem'", "upstreams.v2.ca_file: no certificates to read: No such file"),
        ("[upstreams.v2]\nca_file = 'pyproject.toml'", "upstreams.v2.ca_file: no certificates to read: "),
        ("[upstreams.v1]\ntimeout = 1", "upstreams.v1.url: is missing"),
        ("[upstreams.v1]\nurl = 'http://a/?'", "upstreams.v1.url: an upstream's URL has no user"),
        ("[upstreams.v1]\nurl = 'http://a'\ntimeout = 0", "upstreams.v1.timeout: must be greater than 0"),
        ("[upstreams.v1]\nurl = 'http://a'\nbreaker = 1", "upstreams.v1.breaker: must be a table"),
        ("[upstreams]\nv1 = 'http://a'", "upstreams.v1: must be a table"),
        ("[upstreams.v2.breaker]\nratio = 0", "upstreams.v2.breaker.ratio: must be greater than 0"),
        ("[upstreams.v2.breaker]\nratio = 1.1", "upstreams.v2.breaker.ratio: must be less than or equal to 1"),
        ("[upstreams.v2.breaker]\nratio = '50%'", "upstreams.v2.breaker.ratio: must be a number over 0, to 1"),
        ("[upstreams.v2.breaker]\nfailures = 0", "upstreams.v2.breaker.failures: must be greater than 0"),
        ("[upstreams.v2.breaker]\nopen_for = 0", "upstreams.v2.breaker.open_for: must be greater than 0"),
        (
            "[upstreams.v2.breaker]\nopen_for = 3601",
            "upstreams.v2.breaker.open_for: must be less than or equal to 3600",
        ),
        ("[upstreams.v2.breaker]\nwindow = 1e-9", "upstreams.v2.breaker.window: must be greater than or equal to 0.1"),
        ("header_timeout = 0", "header_timeout: must be greater than 0"),
        ("body_timeout = inf", "body_timeout: must be a finite number"),
        ("max_connections = 0", "max_connections: must be greater than 0"),
        (
            "[upstreams.v1]\nurl = 'HTTPS://auth.nox.energy/v2/'",
            "upstreams.v1.url: the same as upstreams.v2.url; v1's is the host without v2's prefix",
        ),
        ("workers = 0", "workers: must be greater than 0"),
        ("workers = -1", "workers: must be greater than 0"),
        ("workers = 1.5", "workers: must be a whole number"),
        ("workers = true", "workers: must be a whole number"),
        ("workers = '2'", "workers: must be a whole number"),
        ("x = ", "Invalid value"),
    ],
)
def test_a_fault_names_its_place(written: Path, toml: str, line: str) -> None:
    written.write_text(toml)
    (said,) = faults(written)
    assert said.startswith(line) or (toml == "x = " and line in said)
    assert "hunter2" not in said
    assert "demo-key" not in said


def test_every_fault_has_its_line(written: Path) -> None:
    written.write_text("listn = 1\nmax_body_bytes = 0\n[upstreams.v2]\ntimeout = 0")
    assert len(faults(written)) == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.toml") == (f"{tmp_path / 'none.toml'}: No such file or directory",)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert faults(binary) == (f"{binary}: not UTF-8",)


@pytest.mark.parametrize("toml", ["workers = " + "1" * 5_000, "trusted_proxies = " + "[" * 3_000])
def test_a_file_that_is_too_much_for_its_parser(written: Path, toml: str) -> None:
    written.write_text(toml)
    assert faults(written) == (f"{written}: not TOML that can be read",)


def test_a_fault_is_one_line_without_control_characters(written: Path) -> None:
    written.write_text('[manufacturers."a\\nb\\u001b[31m"]')
    assert faults(written) == ("manufacturers.'a\\nb\\x1b[31m': a name is printable characters",)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("NOX_PROXY_MANUFACTURERS", "[" * 100_000, "a NOX_PROXY_* variable: nested too deep"),
        ("NOX_PROXY_LISTN", "x", "NOX_PROXY_LISTN: unknown setting"),
        ("NOX_PROXY_UPSTREAMS__V2__URLL", "x", "upstreams.v2.urll: unknown setting"),
        ("NOX_PROXY_MAX_BODY_BYTES__X", "1", "NOX_PROXY_MAX_BODY_BYTES__X: unknown setting"),
        ("NOX_PROXY_TRUSTED_PROXIES", "10.0.0.1", "trusted_proxies: a list or table in a variable is JSON"),
        ("NOX_PROXY_UPSTREAMS", "{", "upstreams: a list or table in a variable is JSON"),
        ("nox_proxy_upstreams__V1", "[}", "upstreams.v1: must be a table"),
        ("NOX_PROXY_UPSTREAMS__V1__TIMEOUT", "1", "upstreams.v1.url: is missing"),
        (
            "NOX_PROXY_CHANGES__CONNECT_NOX_USER__ERROR_CODES",
            "no=yes",
            "changes.connect_nox_user.error_codes: a list or table in a variable is JSON",
        ),
    ],
)
def test_a_variable_at_fault(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(name, value)
    assert faults(None) == (line,)


def test_the_one_variable_at_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOX_PROXY_UPSTREAMS__V2__TIMEOUT", "2")
    monkeypatch.setenv("NOX_PROXY_MANUFACTURERS__ACME__KEYS_SHA256", "[")
    monkeypatch.setenv("NOX_PROXY_MANUFACTURERS__VOLTA__KEYS_SHA256", "[]")
    assert faults(None) == ("manufacturers.acme.keys_sha256: a list or table in a variable is JSON",)


def test_a_text_that_was_read_once_is_as_good_as_its_file(written: Path) -> None:
    """A supervisor hands what it read to its workers, whatever has become of the file."""
    written.write_text("workers = 2\r\n[upstreams.v1]\r\nurl = 'https://auth.nox.energy'")
    text = read_file(written)
    settings = load(written)
    written.unlink()
    assert load_text(text, str(written)) == settings
    assert (settings.workers, settings.upstreams.v1) == (2, UpstreamSettings(url="https://auth.nox.energy"))
    assert load_text(None, "") == Settings()
    assert faults(written) == (f"{written}: No such file or directory",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"\xff", "its-name: not UTF-8"),
        (b"workers = 1\nworkers = ", "its-name: Invalid value (at end of document)"),
        (b"workers = 0", "workers: must be greater than 0"),
    ],
)
def test_a_fault_of_a_text(text: bytes, line: str) -> None:
    with pytest.raises(SettingsFault) as caught:
        load_text(text, "its-name")
    assert caught.value.lines == (line,)


@pytest.mark.parametrize("place", [Settings(), Settings().upstreams.v2, Settings().changes])
def test_settings_are_frozen(place: BaseModel) -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(place, next(iter(type(place).model_fields)), None)
