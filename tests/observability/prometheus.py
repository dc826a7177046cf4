"""A real Prometheus with our own files: started over a past it did not live through, and asked as Grafana asks."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from tests.processes import DEADLINE, ROOT, call, eventually

FILES = ROOT / "grafana" / "prometheus"
EVERY = "1s"
"""Stands for the intervals of scrapes and rules, which are too long to wait for."""

Labels = Mapping[str, str]
Found = list[dict[str, Any]]


class Prometheus:
    """Runs until `stop`, on a free port, with its data beside its configuration."""

    def __init__(self, program: str, place: Path, targets: list[str]) -> None:
        self._log = place / "prometheus.log"
        self.address = ""
        configure(place, targets)
        with self._log.open("wb") as said:
            self.popen = subprocess.Popen(
                [
                    program,
                    f"--config.file={place / 'prometheus.yml'}",
                    f"--storage.tsdb.path={place / 'data'}",
                    "--storage.tsdb.retention.time=65d",  # as grafana/README.md says
                    "--web.listen-address=127.0.0.1:0",
                ],
                stderr=said,
                stdin=subprocess.DEVNULL,
            )

    @classmethod
    @contextmanager
    def running(cls, program: str, place: Path, targets: list[str]) -> Iterator[Self]:
        prometheus = cls(program, place, targets)
        try:
            prometheus.await_start()
            yield prometheus
        finally:
            prometheus.stop()

    def await_start(self) -> None:
        """Until it answers queries."""

        def listens() -> bool:
            found = re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())
            self.address = found[1] if found else ""
            return found is not None or self.popen.poll() is not None

        assert eventually(listens), self._log.read_text()
        assert self.address, self._log.read_text()
        assert eventually(lambda: call(self.address, method="GET", path="/-/ready").status == 200)

    def stop(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def complaints(self) -> list[str]:
        """The warnings and errors in its log."""
        return [line for line in self._log.read_text().splitlines() if " level=info " not in line]

    def get(self, path: str, **parameters: str) -> Any:
        """What an endpoint of the API gives. Fails with Prometheus's complaint."""
        reply = call(self.address, method="GET", path=f"/api/v1/{path}?{urlencode(parameters)}")
        told = reply.json()
        assert told["status"] == "success", told
        return told["data"]

    def instant(self, expr: str) -> Found:
        """The series that an expression has now, but for those that are no number."""
        found: Found = self.get("query", query=expr)["result"]
        return [each for each in found if not isnan(float(each["value"][1]))]

    def range(self, expr: str, start: float, end: float, step: int) -> Found:
        """The series that an expression has in a view, but for those that are never a number."""
        found: Found = self.get("query_range", query=expr, start=f"{start}", end=f"{end}", step=f"{step}")["result"]
        return [each for each in found if not all(isnan(float(value)) for _, value in each["values"])]

    def numbers(self, expr: str, *labels: str) -> dict[tuple[str, ...], float]:
        """An expression's values by some of its labels, which tell its series apart."""
        found = self.instant(expr)
        values = {tuple(each["metric"][label] for label in labels): float(each["value"][1]) for each in found}
        assert len(values) == len(found), found
        return values

    def rules(self) -> Found:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def configure(place: Path, targets: list[str]) -> None:
    """Our own files, with only the targets and the intervals replaced."""
    config = yaml.safe_load((FILES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    (job,) = config["scrape_configs"]
    (job["static_configs"],) = [[{"targets": targets}] for _ in job["static_configs"]]
    for name in config["rule_files"]:
        rules = yaml.safe_load((FILES / name).read_text())
        for group in rules["groups"]:
            group["interval"] = EVERY
        (place / name).write_text(json.dumps(rules))
    (place / "prometheus.yml").write_text(json.dumps(config))


def line(metric: str, labels: Labels, time: float, value: float) -> str:
    """A sample as OpenMetrics writes it."""
    named = ",".join(f'{name}="{its}"' for name, its in labels.items())
    return f"{metric}{{{named}}} {value} {time}\n"


def backfill(promtool: str, place: Path, lines: Iterable[str]) -> None:
    """Makes samples of the past a Prometheus's data before it starts; each series' samples in order.

    One block for all of it: promtool reads the whole file anew for each, and by itself it would make one every 2 hours.
    """
    file = place / "past.om"
    file.write_text("".join(lines) + "# EOF\n")
    command = (promtool, "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=1440h")
    made = subprocess.run((*command, file, place / "data"), capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stdout + made.stderr
