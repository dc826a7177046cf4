"""What a run found: its verdict, and itself as JSON and as JUnit's XML."""

from typing import Literal
from xml.etree import ElementTree

import msgspec

from proxy.verify.comparing import Comparison

Result = Literal["passed", "failed", "not applicable"]
Verdict = Literal["passed", "failed", "inconclusive", "could not run"]

EXIT_STATUS: dict[Verdict, int] = {"passed": 0, "failed": 1, "inconclusive": 2, "could not run": 2}


class Checked(msgspec.Struct, frozen=True):
    """A check that was made. `row` is the contract's, or `requests` for a replayed call."""

    row: str
    name: str
    result: Result
    wanted: str
    came: str
    seconds: float


class Report(msgspec.Struct, frozen=True):
    """The whole run. `why` says why it could not be made to its end."""

    url: str
    run: str
    users: tuple[str, ...]
    """Those that the run made up and connected, of `url` and of the other."""
    checks: tuple[Checked, ...]
    comparison: Comparison | None = None
    why: str = ""

    def count(self, result: str) -> int:
        """How many checks came out so."""
        return sum(check.result == result for check in self.checks)

    @property
    def verdict(self) -> Verdict:
        """A check that failed counts, whatever else could not be done."""
        compared = self.comparison
        if self.count("failed") or (compared is not None and compared.count("differs")):
            return "failed"
        if self.why:
            return "could not run"
        return "inconclusive" if compared is not None and not compared.is_enough else "passed"


def to_json(report: Report) -> str:
    """One document."""
    told = {"verdict": report.verdict, "exit_status": EXIT_STATUS[report.verdict], **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def to_junit(report: Report) -> bytes:
    """As CI systems read it: a test case a check and a compared call, and an error where there is no verdict."""
    suite = ElementTree.Element("testsuite", name=f"nox-proxy verify {report.url}")
    for check in report.checks:
        case = _case(suite, f"contract.{check.row}", check.name, check.seconds)
        if check.result == "failed":
            ElementTree.SubElement(case, "failure", message=f"wanted {check.wanted}; came {check.came}")
        elif check.result == "not applicable":
            ElementTree.SubElement(case, "skipped", message=check.came)
    for call in report.comparison.calls if report.comparison else ():
        case = _case(suite, "comparison", call.call)
        if call.result == "differs":
            said = ", ".join(f"{name} ({kind})" for name, kind in call.differences.items())
            ElementTree.SubElement(case, "failure", message=said)
        elif call.result == "not compared":
            ElementTree.SubElement(case, "skipped", message=call.why)
    if report.verdict in ("inconclusive", "could not run"):
        said = report.why or "fewer comparisons than the minimum"
        ElementTree.SubElement(_case(suite, "run", "verdict"), "error", message=f"{report.verdict}: {said}")
    for total, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(len(suite.findall(f"testcase/{element}"))))
    suite.set("tests", str(len(suite)))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document


def _case(suite: ElementTree.Element, classname: str, name: str, seconds: float = 0.0) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=classname, name=name, time=f"{seconds:.3f}")
