"""The command line as a stranger meets it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from tests.processes import ROOT, Canned, Process, Proxy, Simulator, call


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)


COMMANDS = ["serve", "demo", "simulate", "check", "verify", "hash-key"]


def test_help_lists_the_commands() -> None:
    shown = run("--help").stdout
    assert [command for command in COMMANDS if command not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    shown = run(command, "--help")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) > 8


def test_version() -> None:
    assert run("--version").stdout == f"nox-proxy {__version__}\n"


def test_a_command_loads_what_it_needs_alone() -> None:
    """All of it takes longer than most commands run."""
    loaded = "import sys, proxy.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "typer" in done.stdout.split()
    assert not {"httpx", "jinja2", "prometheus_client", "pydantic", "starlette", "uvicorn"} & {*done.stdout.split()}


def test_check_says_what_the_settings_mean(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('listen = "[::1]:8080"\n[upstreams.v2]\nurl = "http://127.0.0.1:9002/v2"\n')
    checked = run("check", "--config", str(file))
    assert checked.returncode == 0
    assert checked.stdout == "settings are valid: [::1]:8080 sends to http://127.0.0.1:9002/v2\n"
    assert "v2 does not keep device_ids" in checked.stderr


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o604, True), (0o640, False), (0o600, False)])
def test_check_warns_of_a_file_that_others_can_read(tmp_path: Path, mode: int, warned: bool) -> None:
    """By whatever link it is named, as in a ConfigMap."""
    file = tmp_path / "..data"
    file.write_text('changes.connect_nox_user.device_ids = "reject"')
    file.chmod(mode)
    link = tmp_path / "settings.toml"
    link.symlink_to(file)
    checked = run("check", "--config", str(link))
    assert checked.returncode == 0
    assert checked.stderr == (f"warning: {link}: others can read it; chmod o-r\n" if warned else "")


def test_a_pipe_is_warned_of_by_nobody() -> None:
    script = f"{sys.executable} -m proxy check --config <(echo 'changes.connect_nox_user.device_ids = \"reject\"')"
    checked = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_check_names_both_upstreams_and_a_shadow_of_nobody(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    shadow = "[changes.connect_nox_user.rollout.shadow]\npercent = 5\naccept_side_effects = true\n"
    file.write_text(
        f'upstreams.v1.url = "http://127.0.0.1:9001"\nupstreams.v2.url = "http://127.0.0.1:9002/v2"\n{shadow}'
    )
    checked = run("check", "--config", str(file))
    assert checked.stdout.endswith(" sends to http://127.0.0.1:9002/v2 and http://127.0.0.1:9001\n")
    assert "rollout.shadow: it compares what v1 answers, and nobody is sent there" in checked.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_faults_are_a_line_each_and_status_2(tmp_path: Path, command: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('listn = 1\n[upstreams.v2]\nurl = "https://me:hunter2@a"\n')
    refused = run(command, "--config", str(file))
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert sorted(refused.stderr.splitlines()) == [
        "listn: unknown setting",
        "upstreams.v2.url: an upstream's URL has no user, password, query or fragment",
    ]


def test_serve_says_where_it_listens_and_sends_and_warns_of_echo(proxy: Proxy, v2: Simulator) -> None:
    line = next(line for line in proxy.err if "listening" in line)
    assert f"listening on http://{proxy.address}, admin on http://{proxy.admin}, sending to {v2.url}" in line
    assert proxy.find("WARNING.*(v2 does not keep device_ids)")


def test_an_address_in_use_is_a_clear_fault(proxy: Proxy) -> None:
    second = Process("serve", env={"NOX_PROXY_LISTEN": proxy.address, "NOX_PROXY_ADMIN_LISTEN": "127.0.0.1:0"})
    assert second.popen.wait(20) == 2
    second.stop()
    (said,) = second.err
    assert said.startswith("cannot start: Address already in use")


def test_a_missing_authority_is_a_clear_fault(tmp_path: Path) -> None:
    missing = {"NOX_PROXY_UPSTREAMS__V2__CA_FILE": str(tmp_path / "none.pem"), "NOX_PROXY_LISTEN": "127.0.0.1:0"}
    refused = Process("serve", env={**missing, "NOX_PROXY_ADMIN_LISTEN": "127.0.0.1:0"})
    assert refused.popen.wait(20) == 2
    refused.stop()
    assert refused.err == ["upstreams.v2.ca_file: no certificates to read: No such file or directory"]


def test_hash_key_reads_standard_input() -> None:
    assert run("hash-key", given="demo-key\n").stdout == hashlib.sha256(b"demo-key").hexdigest() + "\n"
    assert run("hash-key", given="\n").returncode == 2
    closed = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m proxy hash-key <&-"], capture_output=True, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (2, "no key on standard input\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["v2", "--listen", "here"], 'an address is "host:port"'),
        (["v2", "--fault", "fire"], "not a fault; one of: status=503,"),
        (["v2", "--fault", "status"], "not a fault"),
        (["v2", "--fault", "hang=1"], "not a fault"),
        (["v2", "--fault", "status=999"], "not a fault"),
        (["v2", "--fault", "status=99.5"], "not a fault"),
        (["v3"], "'v3' is not one of"),
        (["v2", "--record", "/dev/null"], "--record is for v1's calls"),
        (["v1", "--record", "/nowhere/calls.ndjson"], "cannot start: No such file or directory"),
    ],
)
def test_simulate_refuses_what_it_does_not_know(arguments: list[str], text: str) -> None:
    refused = run("simulate", *arguments)
    assert refused.returncode == 2
    assert text in refused.stderr


def test_simulate_on_a_taken_address(v2: Simulator) -> None:
    assert "cannot start: Address already in use" in run("simulate", "v2", "--listen", v2.address).stderr


def test_no_request_is_needed_to_end(tmp_path: Path) -> None:
    canned = Canned()
    proxy = Proxy(canned.url, ACCESS_LOG="false")
    assert call(proxy.address, b"{}", {}).status == 401
    assert proxy.stop() == 0
    canned.close()
    assert proxy.out == []
