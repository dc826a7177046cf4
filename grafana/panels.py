"""What the boards share: the variables and the selector they narrow, the kinds of panel, and the board itself."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from types import MappingProxyType
from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "nox-proxy"

AnyPanel = timeseries.Panel | stat.Panel | table.Panel
Panel = TypeVar("Panel", timeseries.Panel, stat.Panel, table.Panel)
Rows = Mapping[str, Sequence[AnyPanel]]
Variables = Sequence[Builder[VariableModel]]


def series(metric: str, *matchers: str) -> str:
    """A selector of the jobs and instances that the reader chose."""
    return metric + "{" + ", ".join(('job=~"$job"', 'instance=~"$instance"', *matchers)) + "}"


def rate(metric: str, *matchers: str) -> str:
    """A counter's rate at the resolution of the view."""
    return f"rate({series(metric, *matchers)}[$__rate_interval])"


def share(by: str, part: str, whole: str) -> str:
    """The part in the whole; 0 where there is no such part, nothing where there is no whole."""
    total = f"sum by ({by}) ({whole})"
    return f"(sum by ({by}) ({part}) or 0 * {total}) / ({total} > 0)"


def quantiles(metric: str, by: str, *matchers: str) -> dict[str, str]:
    """Median and tail of a histogram, by their legends."""
    buckets = f"sum by ({by}, le) ({rate(f'{metric}_bucket', *matchers)})"
    return {f"{{{{{by}}}}} p{q}": f"histogram_quantile(0.{q}, {buckets})" for q in (50, 95, 99)}


def graph(
    title: str,
    description: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    stacked: bool = False,
    from_zero: bool = True,
) -> timeseries.Panel:
    """Lines over time, from a query for each legend."""
    targets = [_target(ref, expr).range().legend_format(legend) for ref, legend, expr in _lettered(queries)]
    legend = common.VizLegendOptions().show_legend(True)
    legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel = _dressed(timeseries.Panel(), title, description, unit, targets).legend(legend).tooltip(tooltip)
    if from_zero:
        panel.min(0)
    if not stacked:
        return panel.fill_opacity(0)
    return panel.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def figure(title: str, description: str, unit: str, queries: Mapping[str, str], *, without: str) -> stat.Panel:
    """One number now, or a few; `without` is what stands there when there is none."""
    targets = [_target(ref, expr).instant().legend_format(legend) for ref, legend, expr in _lettered(queries)]
    panel = _dressed(stat.Panel(), title, description, unit, targets)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return panel.graph_mode(BigValueGraphMode.NONE).no_value(without).thresholds(steps("text"))


def listing(
    title: str, description: str, unit: str, queries: Mapping[str, str], columns: Mapping[str, str], *, by: str
) -> table.Panel:
    """A row for each set of labels, now, the greatest on top `by` a heading.

    `columns` gives each field its place and heading. A field is a label or the name of a query.
    """
    targets = [_target(ref, expr).instant().format(PromQueryFormat.TABLE) for ref, expr in queries.items()]
    # Grafana calls a query's values "Value", and "Value #ref" where there are several queries.
    values = {ref: f"Value #{ref}" if len(queries) > 1 else "Value" for ref in queries}
    headings = {values.get(field, field): heading for field, heading in columns.items()}
    places = {field: place for place, field in enumerate(headings)}
    organize = {"excludeByName": {"Time": True}, "indexByName": places, "renameByName": headings}
    panel = _dressed(table.Panel(), title, description, unit, targets).decimals(0)
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=organize))
    return panel.sort_by([common.TableSortByFieldState().display_name(by).desc(True)])


def column_unit(unit: str, decimals: int | None = None) -> list[DynamicConfigValue]:
    """A column's own unit."""
    places = [] if decimals is None else [DynamicConfigValue("decimals", decimals)]
    return [DynamicConfigValue("unit", unit), *places]


def steps(base: str, above: Mapping[float, str] = MappingProxyType({})) -> dashboard.ThresholdsConfig:
    """Colours by value; without any, Grafana turns what is above 80 red."""
    return dashboard.ThresholdsConfig().steps([Threshold(None, base), *(Threshold(at, to) for at, to in above.items())])


def words(coloured: Mapping[str, str]) -> list[ValueMapping]:
    """What stands for 0, 1 and so on, each word with its colour."""
    results = enumerate(coloured.items())
    return [ValueMap({str(place): ValueMappingResult(word, colour) for place, (word, colour) in results})]


def choice(name: str, query: str) -> dashboard.QueryVariable:
    """A variable with one value, at first the first."""
    variable = dashboard.QueryVariable(name).label(name.title()).datasource(DATASOURCE).query(query).definition(query)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def row(*panels: timeseries.Panel) -> list[timeseries.Panel]:
    """Side by side, alike in width."""
    return [panel.span(24 // len(panels)).height(8) for panel in panels]


def board(
    uid: str, title: str, description: str, *, since: str, refresh: str, rows: Rows, choices: Variables = ()
) -> dashboard.Dashboard:
    """A board with its panels laid out in rows, as they come; `choices` are its variables beside those of every one."""
    built = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).readonly()
    built.time(since, "now").refresh(refresh).tooltip(DashboardCursorSync.CROSSHAIR)
    built.variables([*_variables(), *choices]).annotation(_brownouts()).link(_links())
    number = 0
    for heading, panels in rows.items():
        number += 1
        built.with_row(dashboard.Row(heading).id(number))
        for panel in panels:
            number += 1
            built.with_panel(panel.id(number))
    return built


def _lettered(queries: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(ascii_uppercase[place], *query) for place, query in enumerate(queries.items())]


def _target(ref: str, expr: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).expr(expr).datasource(DATASOURCE).editor_mode(QueryEditorMode.CODE)


def _dressed(panel: Panel, title: str, description: str, unit: str, targets: list[prometheus.Dataquery]) -> Panel:
    return panel.title(title).description(description).unit(unit).datasource(DATASOURCE).targets(list(targets))


def _variables() -> Variables:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    job = _chosen("job", "label_values(nox_proxy_build_info, job)")
    return [source, job, _chosen("instance", 'label_values(nox_proxy_build_info{job=~"$job"}, instance)')]


def _chosen(name: str, query: str) -> dashboard.QueryVariable:
    variable = choice(name, query).multi(True).include_all(True).all_value(".+")
    return variable.current(VariableOption(selected=True, text=["All"], value=["$__all"]))


def _brownouts() -> dashboard.AnnotationQuery:
    """A step of a long view can be longer than a brownout: hence the greatest value since the last one."""
    active = f"max by (endpoint) (max_over_time({series('nox_proxy_brownout_active')}[$__rate_interval])) == 1"
    query = _target("brownouts", active).range().interval("1m")
    brownouts = dashboard.AnnotationQuery().name("Brownouts").datasource(DATASOURCE).enable(True)
    return brownouts.icon_color("orange").target(query).title_format("Brownout").text_format("{{endpoint}}")


def _links() -> dashboard.DashboardLink:
    boards = dashboard.DashboardLink("nox-proxy").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return boards.as_dropdown(False).include_vars(True).keep_time(False)
