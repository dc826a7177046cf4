"""The two formats, read back by prometheus-client's own parsers."""

from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from proxy.telemetry import series as names
from proxy.telemetry.exposition import Exposition
from proxy.telemetry.series import BUCKETS, Labels

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FORMATS = pytest.mark.parametrize(("accept", "read"), [("", read_text), (OPENMETRICS, read_openmetrics)])

Read = Callable[[str], Iterable[Metric]]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain; version=1.0.0rc1", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, f"{OPENMETRICS}; charset=utf-8"),
        ("application/openmetrics-text; version=x", f"{OPENMETRICS}; charset=utf-8"),
        (f"{OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.2", f"{OPENMETRICS}; charset=utf-8"),
    ],
)
def test_openmetrics_where_it_is_asked_for(accept: str, content_type: str) -> None:
    body, said = Exposition().write({names.REQUESTS: {("e", "m", "v2", "201"): [1.0]}}, accept)
    assert said == content_type
    assert body.endswith(b"# EOF\n") is ("openmetrics" in said)
    assert b"_created" not in body


@FORMATS
def test_every_value_comes_back(accept: str, read: Read) -> None:
    """At the first scrape and at later ones, with new series among the known and names that need escaping."""
    exposition = Exposition()
    labels: list[Labels] = [
        ("e", "acme", "v2", "201"),
        ("e", 'a"\\\n\u2028 b # {} ', "none", "410"),
        ("e", "\x0bé", "v2", "502"),
    ]
    for count in (1, 2, 3):
        values = {label: [1e22 / count] for label in labels[:count]}
        body = exposition.write({names.REQUESTS: values, names.FAILURES: {}, names.READY: {(): [1.0]}}, accept)[0]
        samples = [sample for family in read(body.decode()) for sample in family.samples]
        assert {tuple(sample.labels[name] for name in names.REQUESTS.labels): [sample.value] for sample in samples} == (
            values
        )
        assert {sample.name for sample in samples} == {"nox_proxy_requests_total"}


@FORMATS
def test_a_histogram_is_what_prometheus_client_makes_of_the_same_values(accept: str, read: Read) -> None:
    registry = CollectorRegistry()
    theirs = Histogram(names.UPSTREAM_DURATIONS.name, "-", ["upstream"], buckets=BUCKETS, registry=registry)
    cells = [0.0] * names.UPSTREAM_DURATIONS.width
    for value in (0.0005, 0.001, 0.3, 10, 11):
        theirs.labels("v2").observe(value)
        cells[next((n for n, bound in enumerate(BUCKETS) if value <= bound), len(BUCKETS))] += 1
        cells[-1] += value
    body = Exposition().write({names.UPSTREAM_DURATIONS: {("v2",): cells}}, accept)[0]
    ours = [sample for family in read(body.decode()) for sample in family.samples]
    expected = [sample for family in registry.collect() for sample in family.samples if "_created" not in sample.name]

    def by_name(sample: object) -> str:
        return str(sample)

    assert sorted(ours, key=by_name) == sorted(expected, key=by_name)
