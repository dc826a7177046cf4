"""The rules for boards: those of Grafana's dashboard-linter, and ours.

The linter's: github.com/grafana/dashboard-linter, docs/rules and lint/rule_*.go. A rule yields what breaks it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import promql_parser
from grafana_foundation_sdk.models import units
from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, MatchOp, MatrixSelector, VectorSelector

from tests.observability.exported import EXPORTED

Json = dict[str, Any]
Rule = Callable[[Json], Iterator[str]]

UIDS = {"nox-proxy-progress", "nox-proxy-health", "nox-proxy-canary"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("__")}
RATE_INTERVAL = "413s"  # stands for $__rate_interval; no query would name it
RATES = {"rate", "irate", "increase"}
FIXED_WINDOWS = {
    "Manufacturers still calling v1": "its columns are counts of 7 days, whatever the view",
    "Back on v1": "it compares a week with the one before it",
    "Verdict": "it is on the last hour, as the canary's alert is",
}
TABLE_STEPS = ("merge", "organize")
HISTOGRAMS = {its.name: set(its.labels) for its in EXPORTED if its.kind == "histogram"}
RECORDED = {
    **{f"nox_proxy:legacy_calls:{each}": {"endpoint", "manufacturer"} for each in ("sum", "rate5m", "increase1d")},
    **{f"nox_proxy:direct_calls:{each}": {"manufacturer"} for each in ("sum", "increase1d")},
    **{f"nox_proxy:canary_calls:{each}": {"endpoint", "upstream"} for each in ("sum", "increase1h")},
    **{f"nox_proxy:canary_failures:{each}": {"endpoint", "upstream"} for each in ("sum", "increase1h")},
    "nox_proxy:shadow_mismatches:increase1h": {"endpoint"},
}
METRICS = {
    **{its.name: set(its.labels) for its in EXPORTED if its.kind != "histogram"},
    **{f"{name}_{part}": labels for name, labels in HISTOGRAMS.items() for part in ("sum", "count")},
    **{f"{name}_bucket": labels | {"le"} for name, labels in HISTOGRAMS.items()},
    **RECORDED,
}
"""What a board may ask for, with its labels."""


class Query(NamedTuple):
    """A query of a panel or an annotation; `tree` is None where it does not parse."""

    title: str
    target: Json
    tree: Expr | None

    def selectors(self) -> list[tuple[VectorSelector, list[Expr]]]:
        """Each with what it stands in, from the outside in."""
        found: list[tuple[VectorSelector, list[Expr]]] = []
        path: list[Expr] = []

        def enter(node: Expr) -> None:
            if isinstance(node, VectorSelector):
                found.append((node, list(path)))
            path.append(node)

        def leave(node: Expr) -> None:
            path.pop()

        if self.tree is not None:
            promql_parser.walk(self.tree, enter, leave)
        return found

    def labels(self) -> set[str]:
        """Those that it groups or matches by."""
        named: set[str] = set()

        def enter(node: Expr) -> None:
            if isinstance(node, AggregateExpr) and node.modifier:
                named.update(node.modifier.labels)
            if isinstance(node, BinaryExpr) and node.modifier and node.modifier.matching:
                named.update(node.modifier.matching.labels)

        if self.tree is not None:
            promql_parser.walk(self.tree, enter)
        return named


def panels(board: Json) -> list[Json]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def variables(board: Json) -> dict[str, Json]:
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def queries(board: Json) -> list[Query]:
    targets = [(panel["title"], target) for panel in panels(board) for target in panel["targets"]]
    notes = [(note["name"], note["target"]) for note in board["annotations"]["list"]]
    return [Query(title, target, parsed(target["expr"])) for title, target in targets + notes]


def parsed(expr: str) -> Expr | None:
    try:
        tree: Expr = promql_parser.parse(expr.replace("$__rate_interval", RATE_INTERVAL))
    except ValueError:
        return None
    return tree


def function(path: list[Expr]) -> str:
    """The function around a selector's range, if there are both."""
    match path:
        case [*_, Call() as call, MatrixSelector()]:
            return call.func.name
    return ""


def template_datasource(board: Json) -> Iterator[str]:
    sources = [variable for variable in board["templating"]["list"] if variable["type"] == "datasource"]
    if [(v["name"], v["label"], v["query"]) for v in sources] != [("datasource", "Data source", "prometheus")]:
        yield "there is not the one variable for the data source"


def template_job_and_instance(board: Json) -> Iterator[str]:
    for name in ("job", "instance"):
        wanted = {"type": "query", "label": name.title(), "multi": True, "includeAll": True, "allValue": ".+"}
        if not wanted.items() <= variables(board).get(name, {}).items():
            yield name


def template_query(board: Json) -> Iterator[str]:
    for name, variable in variables(board).items():
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            if not asked or parsed(asked[1]) is None or asked[2] != name:
                yield name


def template_reload(board: Json) -> Iterator[str]:
    on_time_range_change = 2
    yield from (n for n, v in variables(board).items() if v["type"] == "query" and v["refresh"] != on_time_range_change)


def datasource(board: Json) -> Iterator[str]:
    users = [*panels(board), *(v for v in variables(board).values() if v["type"] == "query")]
    users += [*board["annotations"]["list"], *(query.target for query in queries(board))]
    yield from (str(user) for user in users if user.get("datasource") != SOURCE)


def panel_title_and_description(board: Json) -> Iterator[str]:
    yield from (str(panel["id"]) for panel in panels(board) if not (panel.get("title") and panel.get("description")))


def panel_unit(board: Json) -> Iterator[str]:
    for panel in panels(board):
        config = panel["fieldConfig"]
        others = [each["value"] for over in config["overrides"] for each in over["properties"] if each["id"] == "unit"]
        yield from (
            f"{panel['title']}: {unit}" for unit in [config["defaults"].get("unit"), *others] if unit not in UNITS
        )


def panel_targets(board: Json) -> Iterator[str]:
    for panel in panels(board):
        refs = [target["refId"] for target in panel["targets"]]
        if not refs or len(set(refs)) < len(refs):
            yield f"{panel['title']}: {refs}"


def target_promql(board: Json) -> Iterator[str]:
    yield from (query.target["expr"] for query in queries(board) if query.tree is None)


def target_rate_interval(board: Json) -> Iterator[str]:
    interval = promql_parser.parse_duration(RATE_INTERVAL)
    for query in queries(board):
        for selector, path in query.selectors():
            ranges = [node.range for node in path if isinstance(node, MatrixSelector)]
            if function(path) in RATES and ranges != [interval] and query.title not in FIXED_WINDOWS:
                yield f"{query.title}: {selector}"


def target_job_and_instance(board: Json) -> Iterator[str]:
    for query in queries(board):
        for selector, _ in query.selectors():
            matchers = {(each.name, each.op == MatchOp.Re, each.value) for each in selector.matchers.matchers}
            if not {("job", True, "$job"), ("instance", True, "$instance")} <= matchers:
                yield f"{query.title}: {selector}"


def target_counter_rate(board: Json) -> Iterator[str]:
    for title, name, path in counters(board):
        if function(path) not in RATES:
            yield f"{title}: {name}"


def target_counter_aggregated(board: Json) -> Iterator[str]:
    for title, name, path in counters(board):
        if not any(isinstance(node, AggregateExpr) for node in path):
            yield f"{title}: {name}"


def target_histogram(board: Json) -> Iterator[str]:
    for title, name, path in counters(board):
        around = {node.func.name for node in path if isinstance(node, Call)}
        if name.endswith("_bucket") and "histogram_quantile" not in around:
            yield f"{title}: {name}"


def counters(board: Json) -> Iterator[tuple[str, str, list[Expr]]]:
    for query in queries(board):
        for selector, path in query.selectors():
            if re.search("_(total|bucket|sum|count)$", str(selector.name)):
                yield query.title, str(selector.name), path


def uneditable(board: Json) -> Iterator[str]:
    if board["editable"]:
        yield "editable"


def metrics_and_labels(board: Json) -> Iterator[str]:
    """The linter does not know ours: a mistyped name is a panel without data."""
    for query in queries(board):
        known = {"job", "instance"}
        for selector, _ in query.selectors():
            labels = METRICS.get(str(selector.name))
            if labels is None:
                yield f"{query.title}: {selector.name}"
                continue
            known |= labels
            names = {each.name for each in selector.matchers.matchers}
            yield from (f"{query.title}: {selector.name}'s {name}" for name in names - labels - {"job", "instance"})
        shown = set(re.findall(r"{{(\w+)}}", query.target.get("legendFormat", "")))
        yield from (f"{query.title}: {name}" for name in (query.labels() - known) | (shown - query.labels()))


def grid(board: Json) -> Iterator[str]:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        if not cells or cells & taken or x + w > 24:
            yield panel["title"]
        taken |= cells


def identity(board: Json) -> Iterator[str]:
    """Grafana's own number for a board, `id`, is not ours to give."""
    titles = [panel["title"] for panel in panels(board)]
    ids = [panel["id"] for panel in board["panels"]]
    if board["uid"] not in UIDS or "id" in board or not board["title"].startswith("nox-proxy / "):
        yield "the board"
    if len(set(titles)) < len(titles) or len(set(ids)) < len(ids):
        yield "two panels alike"
    if not board["schemaVersion"] >= 36 or not {"from", "to"} <= board["time"].keys():
        yield "the schema"


def columns(board: Json) -> Iterator[str]:
    """Grafana passes over a name it does not find: of a query's values, of a label, of a column."""
    for panel in panels(board):
        if panel["type"] != "table":
            continue
        merge, organize = panel["transformations"]
        refs = [target["refId"] for target in panel["targets"]]
        values = {f"Value #{ref}" for ref in refs} if len(refs) > 1 else {"Value"}
        labels = {label for query in queries(board) if query.target in panel["targets"] for label in query.labels()}
        headings = organize["options"]["renameByName"]
        named = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
        named |= {each["displayName"] for each in panel["options"]["sortBy"]}
        if not values <= headings.keys() <= values | labels or not named <= set(headings.values()):
            yield panel["title"]
        if headings.keys() != organize["options"]["indexByName"].keys() or (merge["id"], organize["id"]) != TABLE_STEPS:
            yield panel["title"]
        if not all(target["instant"] and target["format"] == "table" for target in panel["targets"]):
            yield panel["title"]


LINTERS: tuple[Rule, ...] = (
    template_datasource,
    template_job_and_instance,
    template_query,
    template_reload,
    datasource,
    panel_title_and_description,
    panel_unit,
    panel_targets,
    target_promql,
    target_rate_interval,
    target_job_and_instance,
    target_counter_rate,
    target_counter_aggregated,
    target_histogram,
    uneditable,
)
OURS: tuple[Rule, ...] = (metrics_and_labels, grid, identity, columns)
