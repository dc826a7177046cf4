"""What a scrape costs with 200 manufacturers and two workers, before and after ten of these were killed.

python -m tests.bench.scrape
"""

import json
import os
from pathlib import Path
from statistics import median
from time import perf_counter

from proxy.policy.credentials import digest
from tests.processes import Proxy, Simulator, call
from tests.test_workers import admin, kill, settled, workers

MANUFACTURERS = {f"manufacturer-{number}": f"key-{number}" for number in range(200)}
KILLED = 10
SCRAPES = 50
ACCEPT = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3"}


def load(proxy: Proxy) -> None:
    """Six series of each manufacturer: answers of three kinds, both headers, a field that v2 lacks."""
    good, bad = b'{"manufacturer_user_id": "u", "device_ids": ["d"]}', b"{}"
    for key in MANUFACTURERS.values():
        call(proxy.address, good, {"x-api-key": key})
        call(proxy.address, good, {"authorization": f"ApiKey {key}"})
        call(proxy.address, bad, {"x-api-key": key})
        call(proxy.address, good, {"x-api-key": key, "content-type": "text/plain"})


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(proxy: Proxy, when: str) -> None:
    pid, took = admin(proxy), []
    began = cpu_seconds(pid)
    for _ in range(SCRAPES):
        start = perf_counter()
        body = call(proxy.admin, method="GET", path="/metrics", headers=ACCEPT).body
        took.append((perf_counter() - start) * 1_000)
    spent = (cpu_seconds(pid) - began) / SCRAPES * 1_000
    samples = sum(not line.startswith(b"#") for line in body.splitlines())
    figures = f"CPU {spent:.1f} ms, wall median {median(took):.1f} ms, max {max(took):.1f} ms"
    print(f"{when}: {samples} samples, {len(body) // 1024} KiB: {figures}")


def main() -> None:
    v2 = Simulator("v2", *(f"--key={key}" for key in MANUFACTURERS.values()))
    keys = {name: {"keys_sha256": [digest(key.encode())]} for name, key in MANUFACTURERS.items()}
    proxy = Proxy(v2.url, MANUFACTURERS=json.dumps(keys), WORKERS="2")
    try:
        assert settled(proxy)
        load(proxy)
        measure(proxy, "with its first workers")
        for _ in range(KILLED):
            kill(proxy, workers(proxy)[0])
        load(proxy)
        measure(proxy, f"after {KILLED} were killed")
    finally:
        proxy.stop()
        v2.stop()


if __name__ == "__main__":
    main()
