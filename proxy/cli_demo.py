"""The command `demo`, and how it shows what was played."""

import contextlib
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from proxy.demo.canary import Canary, Moved
    from proxy.demo.play import Caller, Demo, Played

_out = Console(highlight=False, soft_wrap=True, emoji=False)


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
