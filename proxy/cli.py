"""The command line: serve, demo, simulate, check, hash-key."""

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
from proxy.policy.credentials import digest
from proxy.settings import Settings, SettingsFault, load
from proxy.wire.headers import authority

if TYPE_CHECKING:
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

    settings = _settings(config)
    try:
        run(settings)
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}")


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, for curl; Ctrl-C ends it.")] = False,
) -> None:
    """Show the proxy at work: an old integration's calls, a simulated v2 behind it.

    Shows what was sent, what v2 got and what came back. Exit status 0 only if every answer was as promised.
    """
    from proxy.demo.play import Demo
    from proxy.demo.steps import KEY

    for number in (signal.SIGTERM, signal.SIGHUP):  # so that both processes end with this one
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), Demo() as running:
        kept = _show_all(running)
        if keep:
            _out.print(
                f"\nStill up. The admin page: http://{running.admin}/\n"
                f"Try:\n  curl -i http://{running.address}/manufacturers/nox -H 'x-api-key: {KEY}' \\\n"
                """    -H 'content-type: application/json' -d '{"manufacturer_user_id": "me"}'\nCtrl-C ends it.""",
                markup=False,
            )
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
    print(f"settings are valid: {authority(*settings.listen)} sends to {settings.upstreams.v2.url}")
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
            help="A fault for every call: status=503, delay=0.5, hang, close, cut, garbage, html, odd, drift or gzip."
        ),
    ] = None,
) -> None:
    """Stand in for NOX's v1 or v2 service, with subscribers in memory.

    A call may order a fault for itself with the header `simulate-fault`; `PUT /_simulator/fault` orders one for
    all calls to come, and `GET /_simulator/calls` shows what came. Without --key it accepts "demo-key".
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
    service = {Version.v1: V1Service, Version.v2: V2Service}[version](key or (DEMO_KEY,), ordered)
    try:
        run(service, *address)
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
