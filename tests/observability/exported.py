"""The series that `/metrics` shows."""

from proxy.telemetry import series

EXPORTED = [
    value for value in vars(series).values() if isinstance(value, series.Series) and value.name.startswith("nox_proxy_")
]
