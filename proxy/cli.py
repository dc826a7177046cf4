"""The command line: serve, demo, simulate, check, verify, hash-key."""

import contextlib
import os
import signal
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy import __version__
from proxy.cli_verify import verify
from proxy.policy.credentials import digest
from proxy.settings import Settings, SettingsFault, load
from proxy.wire.headers import authority

if TYPE_CHECKING:
    from proxy.demo.canary import Canary, Moved
    from proxy.demo.play import Caller, Demo, Played

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Answers NOX Energy's deprecated v1 calls from v2, so that old integrations go on working.",
)
_out = Console(highlight=False, soft_wrap=True, emoji=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

Config = Annotated[
    Optional[Path],
    typer.Option("--config", "-c", metavar="FILE", help="Settings in TOML. NOX_PROXY_* variables override it."),
]


def main() -> None:
    """The entry point of `nox-proxy`."""
    _open_missing_streams()
    app(prog_name="nox-proxy")


def _open_missing_streams() -> None:
    """A process started without standard streams would give their numbers to its first sockets."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _version(asked: bool) -> None:
    if asked:
        print(f"nox-proxy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def serve(config: Config = None) -> None:
    """Run the proxy until SIGTERM or Ctrl-C.

    Exit status 0 after a drain, 2 where the settings are at fault or an address is taken.
    """
    from proxy.serve import serve as run

    try:
        run(config)
    except SettingsFault as fault:
        _fail(*fault.lines)
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, for curl; Ctrl-C ends it.")] = False,
) -> None:
    """Show the proxy at work: an old integration's calls, a simulated v2 behind it.

    Shows what was sent, what v2 got and what came back. Then a canary beside a simulated v1, from 0 to 100 % and back,
    and what its shadow found. Exit status 0 only if all was as promised.
    """
    from proxy.demo.canary import Canary
    from proxy.demo.play import Demo

    for number in (signal.SIGTERM, signal.SIGHUP):  # so that all processes end with this one
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), Demo() as running:
        kept = _show_all(running)
        with Canary() as canary:
            kept = _show_canary(canary) and kept
            if keep:
                _out.print(_still_up(running, canary), markup=False)
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
        raise typer.Exit(0 if kept else 1)
    raise typer.Exit(130)


@app.command()
def check(config: Config = None) -> None:
    """Check the settings without starting anything.

    Prints a line a fault and exits with status 2, or says what the settings mean and exits with 0.
    """
    from proxy.serve import warnings

    settings = _settings(config)
    urls = " and ".join(settings.upstreams.urls.values())
    print(f"settings are valid: {authority(*settings.listen)} sends to {urls}")
    for warning in warnings(settings):
        _errors.print(f"warning: {warning}", markup=False)


@app.command("hash-key")
def hash_key() -> None:
    """Read an API key from standard input and print its SHA-256.

    That is what `manufacturers.NAME.keys_sha256` lists, so that no settings file holds a key.
    """
    if sys.stdin and sys.stdin.isatty():
        _errors.print("API key, then Enter (it shows as you type):", markup=False)
    key = sys.stdin.buffer.readline().strip() if sys.stdin else b""
    if not key:
        _fail("no key on standard input")
    print(digest(key))


app.command()(verify)


class Version(StrEnum):
    """A service to stand in for."""

    v1 = "v1"
    v2 = "v2"


@app.command()
def simulate(
    version: Annotated[Version, typer.Argument(help="Which service to stand in for.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0 takes a free one.")] = "127.0.0.1:9002",
    key: Annotated[Optional[list[str]], typer.Option(help="An API key it accepts; may be repeated.")] = None,
    fault: Annotated[
        Optional[str],
        typer.Option(
            help="A fault for every call: status=503, delay=0.5, hang, close, cut, garbage, html, odd, mismatch, drift "
            "or gzip."
        ),
    ] = None,
    record: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE",
            help="Append v1's calls to a file for `verify --requests`, with user and device IDs, without keys.",
        ),
    ] = None,
) -> None:
    """Stand in for NOX's v1 or v2 service.

    A call may order a fault for itself with the header `simulate-fault`; `PUT /_simulator/fault` orders one for
    all calls to come, and `GET /_simulator/calls` shows what came. Without --key it accepts "demo-key".

    What --record writes is described in proxy/simulator/recording.py. A new file is for its owner alone.
    """
    from proxy.setting_types import parse_address
    from proxy.simulator.faults import parse_fault
    from proxy.simulator.run import simulate as run
    from proxy.simulator.services import DEMO_KEY, V1Service, V2Service

    try:
        address = parse_address(listen)
        ordered = None if fault is None else parse_fault(fault)
    except ValueError as error:
        _fail(str(error))
    if record is not None and version is not Version.v1:
        _fail("--record is for v1's calls")
    service = {Version.v1: V1Service, Version.v2: V2Service}[version](key or (DEMO_KEY,), ordered)
    try:
        run(service, *address, record)
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}")


def _show_all(running: "Demo") -> bool:
    _out.print("an old integration → nox-proxy → a simulated v2", style="bold", end="\n\n")
    kept = [_show(number, played) for number, played in enumerate(running.play(), 1)]
    _out.print(f"Who still calls v1, from http://{running.admin}/metrics", style="bold")
    _out.print(_table(running.progress()))
    _out.print("\nAccess log, the last line", style="bold")
    _out.print(running.log()[-1], markup=False, style="dim")
    _out.print(f"\n{sum(kept)} of {len(kept)} answers as promised", style="bold green" if all(kept) else "bold red")
    return all(kept)


def _show_canary(canary: "Canary") -> bool:
    from proxy.demo.canary import SHADOWED, USERS

    title = f"\nA canary: the same {len(USERS)} users call at each share of v2, beside a simulated v1"
    _out.print(title, style="bold")
    _out.print("v2_percent  v1 got  v2 got     seen  moved back  errors")
    kept = [_show_moved(moved) for moved in canary.move()]
    _out.print(f"\nIts shadow: v1 answers {len(SHADOWED)} users, and v2 gets their calls too", style="bold")
    for found in canary.shadow():
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in found.verdicts.items())
        fields = ", ".join(found.fields)
        _out.print(f"{found.title:<17}  {verdicts}{fields and f' in {fields}'}")
        kept.append(found.as_promised)
    _out.print(canary.log_line(), markup=False, style="dim")
    _out.print(f"\n{sum(kept)} of {len(kept)} steps as promised", style="bold green" if all(kept) else "bold red")
    return all(kept)


def _still_up(running: "Demo", canary: "Canary") -> str:
    from proxy.demo.steps import KEY

    return f"""
Still up. The admin page: http://{running.admin}/
Try:
  curl -i http://{running.address}/manufacturers/nox -H 'x-api-key: {KEY}' \\
    -H 'content-type: application/json' -d '{{"manufacturer_user_id": "me"}}'
The canary's admin page: http://{canary.admin}/
Its share stands in {canary.file}: change it and save.
Ctrl-C ends both."""


def _show_moved(moved: "Moved") -> bool:
    answered = f"{moved.percent:>10}{moved.by_v1:>8}{moved.by_v2:>8}{moved.seen:>7.1f} %"
    _out.print(f"{answered}{moved.moved_back:>12}{moved.errors:>8}", style="" if moved.as_promised else "bold red")
    return moved.as_promised


def _table(callers: "list[Caller]") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("manufacturer", "calls", "not 201", "last call", "by ApiKey header", "with device_ids"):
        table.add_column(column, justify="left" if column == "manufacturer" else "right")
    for caller in callers:
        last = f"{datetime.fromtimestamp(caller.last_seen, UTC):%H:%M:%S} UTC" if caller.last_seen else "never"
        table.add_row(
            caller.manufacturer,
            str(caller.calls),
            str(caller.errors),
            last,
            str(caller.by_authorization),
            str(caller.with_device_ids),
        )
    return table


def _show(number: int, played: "Played") -> bool:
    verdict = "[green]as promised[/]" if played.as_promised else "[red]NOT as promised[/]"
    _out.print(f"[bold]{number}. {escape(played.step.title)}[/]  {verdict}")
    for label, text in (
        ("sent", played.sent),
        ("v2 got", "\n".join(played.v2_got) or "nothing"),
        ("came back", played.came_back),
    ):
        for line in text.splitlines():
            _out.print(f"  {label:>9}  {line}", markup=False)
            label = ""
    _out.print()
    return played.as_promised


def _settings(config: Path | None) -> Settings:
    try:
        return load(config)
    except SettingsFault as fault:
        _fail(*fault.lines)


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        _errors.print(line, markup=False)
    raise typer.Exit(2)
