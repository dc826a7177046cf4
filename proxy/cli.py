"""The command line: serve, demo, simulate, check, verify, hash-key.

Each command imports what it needs itself: to import all takes longer than most of them run.
"""

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer
from rich.console import Console

from proxy import __version__
from proxy.cli_demo import demo
from proxy.cli_verify import verify
from proxy.policy.credentials import digest
from proxy.wire.address import authority

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Answers NOX Energy's deprecated v1 calls from v2, so that old integrations go on working.",
)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

Config = Annotated[
    Optional[Path],
    typer.Option("--config", "-c", metavar="FILE", help="Settings in TOML. NOX_PROXY_* variables override it."),
]


def main() -> None:
    """The entry point of `nox-proxy`."""
    _open_missing_streams()
    try:
        app(prog_name="nox-proxy")
    except Exception as bug:  # Python would tell of it in its own words
        from proxy.telemetry.bugs import described

        logging.getLogger(__name__).critical("crashed: %s", described(bug))
        sys.exit(1)


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
    from proxy.settings import SettingsFault

    try:
        run(config)
    except SettingsFault as fault:
        _fail(*fault.lines)
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}")


@app.command()
def check(config: Config = None) -> None:
    """Check the settings without starting anything.

    Prints a line a fault and exits with status 2, or says what the settings mean and exits with 0.
    """
    from proxy.serve import warnings
    from proxy.settings import SettingsFault, load

    try:
        settings = load(config)
    except SettingsFault as fault:
        _fail(*fault.lines)
    urls = " and ".join(settings.upstreams.urls.values())
    print(f"settings are valid: {authority(*settings.listen)} sends to {urls}")
    for warning in warnings(config, settings):
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


app.command()(demo)
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
    from proxy.simulator.faults import parse_fault
    from proxy.simulator.run import simulate as run
    from proxy.simulator.services import DEMO_KEY, V1Service, V2Service
    from proxy.wire.address import parse_address

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


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        _errors.print(line, markup=False)
    raise typer.Exit(2)
