"""Writes the boards as the JSON that Grafana reads: `python grafana/boards.py`."""

from pathlib import Path

from canary import canary
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from health import health
from progress import progress

DASHBOARDS = Path(__file__).parent / "dashboards"

if __name__ == "__main__":
    for built in (progress().build(), health().build(), canary().build()):
        text = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(built)
        (DASHBOARDS / f"{built.uid}.json").write_text(text + "\n", encoding="utf-8")
