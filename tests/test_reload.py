"""Reload: what is taken over while the proxy runs, what is left, and what a broken file does.

On running proxies, with one worker and with two. It is long for its tables: each kind of setting, each way a file
changes, each way it can be broken.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.policy.credentials import digest
from tests.processes import ROOT, Process, Proxy, Reply, Simulator, call, eventually
from tests.test_admission import GOOD, JSON
from tests.test_workers import admin, children, kill, links, settled, workers

OK, AT = "nox_proxy_config_last_reload_successful", "nox_proxy_config_last_reload_success_timestamp_seconds"
RELOADED, REFUSED = "settings reloaded", "settings not reloaded"
CHANGE = "changes.connect_nox_user"
ENDPOINT = 'endpoint="connect_nox_user"'
ACME = f"""
    [manufacturers.acme]
    keys_sha256 = ["{digest(b"demo-key")}"]
"""
DROPS = f"""
    [{CHANGE}]
    device_ids = "drop"
"""
ECHOES = DROPS.replace("drop", "echo")


class Operated(Proxy):
    """A proxy with a settings file, and its operator."""

    def __init__(self, file: Path, v2: Simulator, **settings: str) -> None:
        self.file = file
        if not file.exists():
            file.write_text(ECHOES)
        super().__init__(v2.url, "--config", str(file), cwd=ROOT, **settings)

    def after(self, do: Callable[[], object], *said: str) -> list[str]:
        """Does something, and waits until each of these was said; all that was said since."""
        mark = len(self.err)
        do()
        assert eventually(lambda: all(any(each in line for line in self.err[mark:]) for each in said)), self.err[mark:]
        return self.err[mark:]

    def hang_up(self, text: str | None = None) -> None:
        """Writes the file, if there is something to be written, and sends SIGHUP."""
        if text is not None:
            self.file.write_text(text)
        os.kill(self.pid, signal.SIGHUP)

    def reload(self, text: str | None = None) -> list[str]:
        return self.after(lambda: self.hang_up(text), RELOADED)

    def refuse(self, text: str) -> list[str]:
        return self.after(lambda: self.hang_up(text), REFUSED)

    def devices(self) -> list[str]:
        """Those in the answers to several calls on connections of their own, which all are the same."""
        answers = [connect(self).json()["data"]["device_ids"] for _ in range(8)]
        assert all(each == answers[0] for each in answers), answers
        return list(answers[0])


class House(NamedTuple):
    """A proxy between its simulated services."""

    proxy: Operated
    v1: Simulator
    v2: Simulator


def connect(proxy: Proxy, key: str = "demo-key", **headers: str) -> Reply:
    return call(proxy.address, GOOD, {**JSON, "x-api-key": key, **headers})


@pytest.fixture(scope="module", params=["1", "2"], ids=["one worker", "two workers"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, v1: Simulator, v2: Simulator
) -> Iterator[House]:
    file = tmp_path_factory.mktemp("settings") / "nox-proxy.toml"
    file.touch(0o604)
    file.write_text(ECHOES)
    proxy = Operated(file, v2, WORKERS=request.param, UPSTREAMS__V1__URL=f"http://{v1.address}")
    yield House(proxy, v1, v2)
    assert proxy.stop() == 0


@pytest.fixture
def house(running: House) -> House:
    """The same house for all, with the same settings and nothing noted."""
    running.proxy.reload(ECHOES)
    running.v1.forget()
    running.v2.forget()
    return running


@pytest.fixture
def proxy(house: House) -> Operated:
    return house.proxy


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory, v2: Simulator) -> Iterator[Operated]:
    running = Operated(tmp_path_factory.mktemp("settings") / "nox-proxy.toml", v2, WORKERS="2")
    yield running
    assert running.stop() == 0


@pytest.fixture
def two(_two: Operated) -> Operated:
    """One with two workers that may be killed."""
    assert settled(_two)
    _two.reload(ECHOES)
    return _two


def window(percent: int = 100, exempt: str = "") -> str:
    """A brownout that runs."""
    now = datetime.now(UTC)
    start, end = (f"{now + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in (-1, 1))
    return f"""
        [[{CHANGE}.deprecation.brownouts]]
        start = {start}
        end = {end}
        percent = {percent}
        exempt = [{exempt}]
    """


def answered_by(house: House, **headers: str) -> str:
    """The version that answered."""
    house.v1.forget()
    house.v2.forget()
    assert connect(house.proxy, **headers).status == 201
    return "v1" * len(house.v1.calls()) + "v2" * len(house.v2.calls())


def wears(header: str) -> Callable[[House], object]:
    return lambda house: connect(house.proxy).headers.get(header)


KINDS: dict[str, tuple[str, Callable[[House], object], object]] = {
    "error codes": (
        f'[{CHANGE}.error_codes]\n"invalid api key" = "who_is_it"',
        lambda house: connect(house.proxy, "not-a-known-key").json()["error_code"],
        "who_is_it",
    ),
    "device_ids": (DROPS, lambda house: connect(house.proxy).json()["data"]["device_ids"], []),
    "deprecated since": (
        f"[{CHANGE}.deprecation]\ndeprecated_at = 2023-06-30T23:59:59Z",
        wears("deprecation"),
        "@1688169599",
    ),
    "sunset": (
        f"[{CHANGE}.deprecation]\nsunset_at = 2099-06-30T23:59:59Z",
        wears("sunset"),
        "Tue, 30 Jun 2099 23:59:59 GMT",
    ),
    "gone": (
        f'[{CHANGE}.deprecation]\nsunset_at = 2024-06-30T23:59:59Z\nafter_sunset = "gone"',
        lambda house: connect(house.proxy).json().get("error_code"),
        "endpoint_sunset",
    ),
    "brownout": (window(), lambda house: connect(house.proxy).json().get("error_code"), "endpoint_brownout"),
    "exempt by its keys": (
        ACME + window(exempt='"acme"'),
        lambda house: (connect(house.proxy).status, connect(house.proxy, "not-a-known-key").status),
        (201, 410),
    ),
    "share": (f"[{CHANGE}.rollout]\nv2_percent = 0", answered_by, "v1"),
    "share by the clock": (
        f"[{CHANGE}.rollout]\nv2_percent = 100\nsteps = [{{ at = 2024-01-01T00:00:00Z, v2_percent = 0 }}]",
        answered_by,
        "v1",
    ),
    "a manufacturer's share": (ACME + "v2_percent = 0", answered_by, "v1"),
    "the forced choice": (
        f"[{CHANGE}.rollout]\nallow_header = true",
        lambda house: answered_by(house, **{"nox-upstream": "v1"}),
        "v1",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_for_the_very_next_call(house: House, kind: str) -> None:
    """Of every worker: the calls are on connections of their own. And it is undone as it came."""
    text, look, expected = KINDS[kind]
    assert look(house) != expected
    house.proxy.reload(text)
    assert [look(house) for _ in range(12)] == [expected] * 12
    house.proxy.reload(ECHOES)
    assert expected not in [look(house) for _ in range(12)]


def test_a_rollback_and_back(house: House) -> None:
    """The share to 0 and to 100, again and again: what was said to be reloaded is what answers."""
    for percent, ours, others in [(0, house.v1, house.v2), (100, house.v2, house.v1)] * 3:
        house.proxy.reload(f"[{CHANGE}.rollout]\nv2_percent = {percent}")
        ours.forget()
        others.forget()
        assert {connect(house.proxy).status for _ in range(40)} == {201}
        assert (len(ours.calls()), len(others.calls())) == (40, 0)


def test_the_admin_port_shows_them(proxy: Operated) -> None:
    calls = f'nox_proxy_requests_total{{{ENDPOINT},manufacturer="boreal",status="201",upstream="v2"}}'
    assert calls not in proxy.metrics()
    before = proxy.metrics()
    proxy.reload(
        f"""
        [{CHANGE}.rollout]
        v2_percent = 12.5
        [{CHANGE}.deprecation]
        sunset_at = 2099-06-30T23:59:59Z
        [manufacturers.boreal]
        keys_sha256 = ["{digest(b"a-key-of-boreal")}"]
        """
    )
    now = proxy.metrics()
    assert now[f"nox_proxy_rollout_v2_ratio{{{ENDPOINT}}}"] == 0.125
    assert now[f"nox_proxy_sunset_timestamp_seconds{{{ENDPOINT}}}"] == 4_086_547_199
    assert (now[calls], now[OK]) == (0, 1)
    assert now[AT] > before[AT]
    assert b"boreal" in call(proxy.admin, method="GET", path="/").body


def test_it_is_said_what_came_of_it(proxy: Operated) -> None:
    assert any(line.endswith(RELOADED) for line in proxy.reload(DROPS))
    said = proxy.after(lambda: proxy.hang_up(DROPS), "nothing has changed", "answers hold none")
    assert not [line for line in said if "ERROR" in line]


def overwrite(file: Path, text: str) -> None:
    file.write_text(text)


def rename(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(file)


def swap(file: Path, text: str) -> None:
    """As Kubernetes updates a ConfigMap: what the file's own link leads to is another directory at once."""
    fresh, link = file.parent / f"..{len(list(file.parent.iterdir()))}", file.parent / "..data_tmp"
    fresh.mkdir()
    (fresh / file.name).write_text(text)
    link.symlink_to(fresh.name)
    link.rename(file.parent / "..data")


@pytest.fixture
def mounted(proxy: Operated) -> Iterator[Operated]:
    """Its file as Kubernetes mounts it: nox-proxy.toml → ..data/nox-proxy.toml, ..data → a directory."""
    swap(proxy.file, ECHOES)
    proxy.file.unlink()
    proxy.file.symlink_to(f"..data/{proxy.file.name}")
    proxy.reload()
    yield proxy
    proxy.file.unlink()


def test_a_file_that_others_can_read_is_warned_of(proxy: Operated) -> None:
    """At the start, and with each reload for as long as it is so. The other warning comes behind it."""
    warning = f"WARNING {proxy.file}: others can read it; chmod o-r"

    def said(mode: int) -> list[str]:
        proxy.file.chmod(mode)
        return proxy.after(proxy.hang_up, "v2 does not keep device_ids")

    assert proxy.err[1].endswith(warning)
    assert not any(line.endswith(warning) for line in said(0o640))
    assert sum(line.endswith(warning) for line in said(0o604)) == 1


@pytest.mark.parametrize("write", [overwrite, rename])
def test_a_changed_file_needs_no_signal(proxy: Operated, write: Callable[[Path, str], None]) -> None:
    proxy.after(lambda: write(proxy.file, DROPS), RELOADED)
    assert proxy.devices() == []


def test_nor_does_a_swapped_link(mounted: Operated) -> None:
    mounted.after(lambda: swap(mounted.file, DROPS), RELOADED)
    assert mounted.devices() == []


BROKEN: dict[str, tuple[str, str]] = {
    "no TOML": (f"{DROPS}\n[manufacturers", "nox-proxy.toml: "),
    "an unknown name": (f"{DROPS}\ndeviceids = 1", f"{CHANGE}.deviceids: unknown setting"),
    "another type": ('max_body_bytes = "hunter-2"', "max_body_bytes: must be a whole number"),
    "no such choice": (f'[{CHANGE}]\ndevice_ids = "hunter-2"', f"{CHANGE}.device_ids: must be"),
    "a key in the clear": ('[manufacturers.acme]\nkeys_sha256 = ["hunter-2"]', "manufacturers.acme.keys_sha256.0: "),
    "a contradiction": (
        DROPS + window(exempt='"hunter"'),
        f"{CHANGE}.deprecation.brownouts.0.exempt.0: not the name of a manufacturer",
    ),
    "nothing": (" \n", "nox-proxy.toml: nothing stands in it"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_changes_nothing(proxy: Operated, what: str) -> None:
    """It is said why, without a value, and shown until the file is mended, which need not change anything else."""
    text, fault = BROKEN[what]
    before = proxy.metrics()
    said = proxy.refuse(text)
    assert any(f"{REFUSED}: " in line and fault in line for line in said), said
    assert "hunter-2" not in "".join(said)
    assert not any(RELOADED in line for line in said)
    assert proxy.devices() == ["d-1", "d-2"]
    now = proxy.metrics()
    assert (before[OK], now[OK], now[AT]) == (1, 0, before[AT])
    proxy.reload(ECHOES)
    healed = proxy.metrics()
    assert healed[OK] == 1
    assert healed[AT] > before[AT]


def test_every_fault_is_said(proxy: Operated) -> None:
    text = '[manufacturers.acme]\nkeys_sha256 = ["hunter-2"]\n[colours]'
    places = ["colours", "manufacturers.acme.keys_sha256.0"]
    said = proxy.after(lambda: proxy.hang_up(text), *(f"{REFUSED}: {place}: " for place in places))
    faults = [line.partition(f"{REFUSED}: ")[2] for line in said if REFUSED in line]
    assert [fault.partition(":")[0] for fault in faults] == places


def test_a_file_that_is_gone_is_said_once_and_healed_by_its_return(proxy: Operated) -> None:
    """Not each second: it takes two looks at least until its return is noticed."""

    def count() -> int:
        return sum("No such file or directory" in line for line in proxy.err)

    before = count()
    proxy.after(proxy.file.unlink, f"{REFUSED}: {proxy.file}: No such file or directory")
    assert proxy.metrics()[OK] == 0
    assert proxy.devices() == ["d-1", "d-2"]
    proxy.after(lambda: proxy.file.write_text(DROPS), RELOADED)
    assert count() == before + 1
    assert (proxy.metrics()[OK], proxy.devices()) == (1, [])


class Filed(Process):
    """A proxy that has all its settings from its file."""

    def __init__(self, file: Path) -> None:
        super().__init__("serve", "--config", str(file))
        self.address, self.admin = self.find(r"listening on http://(\S+), admin on http://(\S+),")


@pytest.mark.parametrize("number", [1, 2], ids=["one worker", "two workers"])
def test_what_cannot_change_is_named_and_left(tmp_path: Path, v2: Simulator, number: int) -> None:
    file = tmp_path / "nox-proxy.toml"

    def write(port: int, workers: int, url: str, change: str) -> None:
        file.write_text(
            f"""
            listen = "127.0.0.1:{port}"
            admin_listen = "127.0.0.1:0"
            workers = {workers}
            [upstreams.v2]
            url = "{url}"
            {change}
            """
        )

    write(0, number, v2.url, "")
    proxy = Filed(file)
    try:
        write(9, 3, "http://127.0.0.1:9/v2", DROPS)
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.find(RELOADED)
        (named,) = proxy.find(r"only a restart changes (.+)")
        assert named == "listen, workers, upstreams.v2.url"
        reply = call(proxy.address, GOOD, JSON)
        assert (reply.status, reply.json()["data"]["device_ids"]) == (201, [])
        assert (
            b"\nnox_proxy_config_last_reload_successful 1.0\n" in call(proxy.admin, method="GET", path="/metrics").body
        )
    finally:
        assert proxy.stop() == 0


@pytest.mark.parametrize("number", ["1", "2"], ids=["one worker", "two workers"])
def test_what_is_new_may_contradict_what_stays(tmp_path: Path, v1: Simulator, v2: Simulator, number: str) -> None:
    """A share needs v1, and v1 a restart: until then nothing of such a file is taken over."""
    proxy = Operated(tmp_path / "nox-proxy.toml", v2, WORKERS=number)
    try:
        said = proxy.refuse(f'{DROPS}\n[{CHANGE}.rollout]\nv2_percent = 0\n[upstreams.v1]\nurl = "http://{v1.address}"')
        assert any(f"{CHANGE}.rollout.v2_percent: " in line and "upstreams.v1" in line for line in said)
        assert (proxy.metrics()[OK], proxy.devices()) == (0, ["d-1", "d-2"])
    finally:
        assert proxy.stop() == 0


@pytest.mark.parametrize("number", ["1", "2"], ids=["one worker", "two workers"])
def test_without_a_file_the_environment_is_read_again(v2: Simulator, number: str) -> None:
    proxy = Proxy(v2.url, WORKERS=number)
    try:
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.find(f"{RELOADED}: nothing has changed")
        assert (connect(proxy).status, proxy.metrics()[OK]) == (201, 1)
    finally:
        assert proxy.stop() == 0


def test_a_pipe_is_not_read_twice(tmp_path: Path, v2: Simulator) -> None:
    """As of `--config <(…)`: what is left in it is nothing, and would undo every setting."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(DROPS,))
    writer.start()
    proxy = Operated(pipe, v2)
    writer.join()
    try:
        proxy.after(proxy.hang_up, f"{REFUSED}: {pipe}: not a file that can be read again")
        assert proxy.devices() == []
    finally:
        assert proxy.stop() == 0


def test_the_last_state_of_the_file_wins(proxy: Operated) -> None:
    """However often and fast it is asked for; and it costs no file descriptor."""
    last = DROPS + f'[{CHANGE}.error_codes]\n"invalid api key" = "the_last"'
    pids = [proxy.pid, *children(proxy)]
    before = [open_files(pid) for pid in pids]
    for number in range(100):
        rename(proxy.file, DROPS if number % 2 else ECHOES)
        proxy.hang_up()
    rename(proxy.file, last)
    proxy.hang_up()
    assert eventually(lambda: connect(proxy, "not-a-known-key").json()["error_code"] == "the_last")
    # One worker may have answered before another had it, and what is said first is then of that.
    assert eventually(lambda: any(f"{RELOADED}: nothing has changed" in line for line in proxy.reload()))
    assert [connect(proxy, "not-a-known-key").json()["error_code"] for _ in range(12)] == ["the_last"] * 12
    for number in range(50):
        proxy.reload(DROPS if number % 2 else ECHOES)
    assert eventually(lambda: [open_files(pid) for pid in pids] <= before)


def open_files(pid: int) -> int:
    """Apart from sockets to callers and upstreams, which come and go."""
    return sum(not str(link).startswith("socket:") for link in links(pid))


def test_a_replacement_has_what_was_reloaded(two: Operated) -> None:
    two.reload(DROPS)
    for pid in (*workers(two), admin(two)):
        kill(two, pid)
    assert two.devices() == []
    two.reload(ECHOES)
    assert two.devices() == ["d-1", "d-2"]


def test_a_process_that_does_not_hear_is_named_and_waited_for(two: Operated) -> None:
    """The others are not kept waiting, and the one that did not hear goes on to the last state at once."""
    deaf = workers(two)[0]
    os.kill(deaf, signal.SIGSTOP)
    two.hang_up(DROPS)
    two.after(lambda: two.hang_up(DROPS + ACME), "not reloaded everywhere: worker ")
    assert two.metrics()[OK] == 0
    two.after(lambda: os.kill(deaf, signal.SIGCONT), RELOADED)
    assert (two.metrics()[OK], two.devices()) == (1, [])


def test_a_killed_process_keeps_nobody_waiting(two: Operated) -> None:
    """One that dies with the news unheard."""
    deaf = workers(two)[0]
    os.kill(deaf, signal.SIGSTOP)
    two.hang_up(DROPS)
    two.after(lambda: os.kill(deaf, signal.SIGKILL), "it is replaced", RELOADED)
    assert settled(two)
    assert (two.metrics()[OK], two.devices()) == (1, [])


@pytest.mark.parametrize("number", ["1", "2"], ids=["one worker", "two workers"])
def test_a_hangup_ends_nobody(tmp_path: Path, number: str) -> None:
    """Right after the start, sent to the whole group, and while it drains."""
    slow = Simulator("v2", "--fault", "delay=1")
    proxy = Operated(tmp_path / "nox-proxy.toml", slow, WORKERS=number)
    for _ in range(3):
        for pid in (proxy.pid, *children(proxy)):
            os.kill(pid, signal.SIGHUP)
    proxy.find(RELOADED)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(connect, proxy) for _ in range(4)]
        assert eventually(lambda: len(slow.calls()) == 4)
        proxy.popen.terminate()
        while not all(each.done() for each in made):
            proxy.hang_up(DROPS)
        assert [each.result().status for each in made] == [201] * 4
    assert proxy.popen.wait(10) == 0
    assert not [line for line in proxy.err if "replaced" in line or "Traceback" in line]
    assert proxy.stop() == slow.stop() == 0
