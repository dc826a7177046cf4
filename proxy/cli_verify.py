"""The command `verify`, and how it shows what a run found."""

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from proxy.simulator.recording import Recorded
    from proxy.verify.comparing import Comparison, Latency
    from proxy.verify.report import Report
    from proxy.verify.run import Plan, Run

VARIABLE = "NOX_VERIFY_KEY"
WIDTH = 160
"""Of the table where there is no terminal to have one."""

_FIT_KEY = re.compile(r"[!-~]{1,512}")
_FIT_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COLOURS = {"passed": "green", "failed": "red", "not applicable": "dim", "differs": "red", "not compared": "yellow"}

_out = Console(highlight=False, emoji=False)
_errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _by_variable_alone(context: typer.Context, parameter: typer.CallbackParam, key: str) -> str:
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter(f"a command line shows to others; put the key into {VARIABLE}")
    return key


def verify(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The deployment to check, by http or https.")],
    against: Annotated[
        str | None, typer.Option(metavar="URL", help="Another to compare with: the stable one, or v1 itself.")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Calls to replay, or to compare by, as they are: users are made by them."),
    ] = None,
    minimum: Annotated[int, typer.Option(min=1, help="With fewer comparisons the verdict is inconclusive.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of the table.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, too.")] = None,
    user_prefix: Annotated[str, typer.Option(help="Begins every user ID that the run makes up.")] = "nox-verify-",
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A private authority instead of the public ones.")
    ] = None,
    key: Annotated[
        str, typer.Option(envvar=VARIABLE, show_envvar=False, hidden=True, callback=_by_variable_alone)
    ] = "",
) -> None:
    """Check from outside whether a deployment keeps v1's contract, with the API key in NOX_VERIFY_KEY.

    Makes each check that needs no fault. A few of its calls connect users, whose IDs begin with --user-prefix and the
    run's own name. With --against the same calls go to both and the answers are compared, by default those of a plain
    legacy integration; without it a call of --requests must get v1's envelope and a status of the class that is in the
    file. The file is described in proxy/simulator/recording.py; `simulate v1 --record` writes one.

    Exit status 0: all passed. 1: a check failed, or an answer differs. 2: it could not run (no answer, a refused key, a
    bad file), or there was too little to compare to say anything.
    """
    from proxy.verify.report import EXIT_STATUS, to_json, to_junit
    from proxy.verify.run import Plan

    if not _FIT_KEY.fullmatch(key):
        _fail(f"{VARIABLE}: must hold an API key, 1 to 512 visible ASCII characters")
    if not _FIT_PREFIX.fullmatch(user_prefix):
        _fail("--user-prefix: 1 to 64 letters, digits, dots, dashes or underscores")
    recorded = _read_requests(requests) if requests else {}
    name = user_prefix + token_hex(4)
    plan = Plan(url.rstrip("/"), key, name, against and against.rstrip("/"), recorded, minimum, ca_file)
    run = _prepare(plan)
    if junit:
        _write(junit, "ab", b"")  # before any call is made; what stands there is kept until there is a report
    report = _make(run, plan.url)
    if junit:
        _write(junit, "wb", to_junit(report))
    if report.why and not as_json:
        _errors.print(f"could not run: {report.why}", markup=False)
    _say(lambda: f"{to_json(report)}\n" if as_json else _shown(report, len(recorded)))
    raise typer.Exit(EXIT_STATUS[report.verdict])


def _read_requests(file: Path) -> "dict[int, Recorded]":
    from proxy.simulator.recording import BadLine
    from proxy.verify.calls import read_requests

    try:
        recorded = read_requests(file.read_bytes())
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    except BadLine as error:
        _fail(f"{file}: {error}")
    if not recorded:
        _fail(f"{file}: no call in it")
    return recorded


def _prepare(plan: "Plan") -> "Run":
    from proxy.verify.run import Run

    try:
        return Run(plan, time.time)
    except (ValueError, OSError) as error:
        _fail(f"cannot run: {error}")


def _make(run: "Run", url: str) -> "Report":
    """Shows how far it is where somebody looks."""
    with Progress(console=_errors, transient=True, disable=not _errors.is_terminal) as progress:
        task = progress.add_task(f"verify {escape(url)}", total=None)
        try:
            return asyncio.run(run.make(lambda done, total: progress.update(task, completed=done, total=total)))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _write(file: Path, mode: Literal["ab", "wb"], content: bytes) -> None:
    try:
        with file.open(mode) as opened:
            opened.write(content)
    except OSError as error:
        _fail(f"{file}: {error.strerror}")


def _say(render: Callable[[], str]) -> None:
    """To standard output, or exit status 2: 1 would say that a check failed."""
    try:
        sys.stdout.write(render())  # rich writes too, though no more than an empty text
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or it would be tried again at the exit
        _fail(f"the report cannot be written: {error.strerror}")


def _shown(report: "Report", replayed: int) -> str:
    if not _out.is_terminal:
        _out.width = WIDTH
    with _out.capture() as captured:
        _show(report, replayed)
    return captured.get()


def _show(report: "Report", replayed: int) -> None:
    if report.checks:
        _out.print(_table(report))
    if report.comparison is not None:
        _show_comparison(report.comparison)
    _out.print(f"Users made: {len(report.users)}, each named {report.run}-…", markup=False, soft_wrap=True)
    if replayed:
        _out.print(f"and by {replayed} calls of the file, as they are there", markup=False, soft_wrap=True)
    counts = [f"{report.count(result)} {result}" for result in ("passed", "failed", "not applicable")]
    colour = {"passed": "green", "failed": "red"}.get(report.verdict, "yellow")
    _out.print(f"[bold {colour}]{report.verdict}[/]: {', '.join(counts)}", soft_wrap=True)


def _table(report: "Report") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("check", "row", "result", "wanted", "came"):
        table.add_column(column, overflow="fold")
    for check in report.checks:
        colour = _COLOURS[check.result]
        table.add_row(
            escape(check.name), check.row, f"[{colour}]{check.result}[/]", *map(escape, (check.wanted, check.came))
        )
    return table


def _show_comparison(comparison: "Comparison") -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("compared call", "result", "what"):
        table.add_column(column, overflow="fold")
    for call in comparison.calls:
        if call.result != "same":
            what = call.why or ", ".join(f"{name} ({kind})" for name, kind in call.differences.items())
            table.add_row(call.call, f"[{_COLOURS[call.result]}]{call.result}[/]", escape(what))
    if table.row_count:
        _out.print(table)
    counts = [f"{comparison.count(result)} {result}" for result in ("same", "differs", "not compared")]
    _out.print(f"Against {comparison.against}: {', '.join(counts)}", markup=False, soft_wrap=True)
    if not comparison.is_enough:
        _out.print(f"fewer than {comparison.minimum} compared: nothing to go by", markup=False, soft_wrap=True)
    for side, latency in (("--url", comparison.url_latency), ("--against", comparison.against_latency)):
        if latency is not None:
            _out.print(f"{side:>9}  {_milliseconds(latency)}", markup=False, soft_wrap=True)


def _milliseconds(latency: "Latency") -> str:
    return f"p50 {latency.p50:.1f} ms, p95 {latency.p95:.1f} ms, p99 {latency.p99:.1f} ms"


def _fail(*lines: str) -> NoReturn:
    for line in lines:
        _errors.print(line, markup=False)
    raise typer.Exit(2)
