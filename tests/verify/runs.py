"""Runs of `verify` in this process, where another one would take a second to start."""

import asyncio
import time
from pathlib import Path

from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.verify.checks import CHECKS
from proxy.verify.report import Report
from proxy.verify.run import Plan, Run

KEY = "demo-key"
CHECK = {check.name: check for check in CHECKS}


def verify(*arguments: str, key: str | None = KEY) -> Result:
    return CliRunner().invoke(app, ["verify", *arguments], env={"NOX_VERIFY_KEY": key})


def report_of(url: str, against: str | None = None, minimum: int = 20, ca_file: Path | None = None) -> Report:
    return asyncio.run(Run(Plan(url, KEY, "nox-verify-t", against, {}, minimum, ca_file), time.time).make())


def results(report: Report) -> dict[str, str]:
    return {check.name: check.result for check in report.checks}


def came(report: Report, name: str) -> str:
    return next(check.came for check in report.checks if check.name == name)
