"""A canary's run: a proxy that shares its calls between v1 and v2, and calls with every end they can have there."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from proxy.policy.credentials import digest
from tests.processes import Proxy, Simulator, call, eventually

SHARE = 50.0
"""Of v2, in percent; the two manufacturers have their own."""
SHARES = {"acme": 0.0, "borealis": 100.0}
PATH, DIRECT, OTHER = "/manufacturers/nox", "/v2/manufacturer/device-connections", "/manufacturers/suppliers"


class Step(NamedTuple):
    """Calls alike: how many, whose, what each gets, and an upstream's fault meanwhile."""

    manufacturer: str
    times: int
    status: int = 201
    v1: str = ""
    v2: str = ""
    path: str = PATH
    length: int = 10

    @property
    def upstream(self) -> str:
        return "v2" if SHARES[self.manufacturer] else "v1"


STEPS = (
    Step("acme", 110),
    Step("acme", 4, v2="mismatch"),
    Step("acme", 2, v2="status=503"),
    Step("acme", 1, 503, v1="status=503"),
    Step("acme", 1, length=70_000),  # too large for the shadow
    Step("borealis", 110),
    Step("borealis", 10, 503, v2="status=503"),
    Step("borealis", 3, path=DIRECT),
    Step("acme", 2, path=OTHER),
)
"""In a round of them the shadow finds each of its verdicts, and enough calls are made for the board's in two."""
FALLBACKS = Step("borealis", 4)
"""These come when v2 is gone."""


class Canary:
    """The proxy, and what it was asked: calls and failures by upstream, on the deprecated endpoint."""

    def __init__(self, place: Path, v1: Simulator, v2: Simulator) -> None:
        self._v1, self._v2 = v1, v2
        self._file = place / "canary.toml"
        self._file.write_text(settings(v1))
        self.proxy = Proxy(v2.url, "--config", str(self._file))
        self.calls: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._shadowed = 0

    @classmethod
    @contextmanager
    def running(cls, place: Path, v1: Simulator, v2: Simulator) -> Iterator[Self]:
        canary = cls(place, v1, v2)
        try:
            yield canary
        finally:
            canary.proxy.stop()

    def round(self) -> None:
        for step in STEPS:
            with ExitStack() as faults:
                for upstream, fault in ((self._v1, step.v1), (self._v2, step.v2)):
                    if fault:
                        faults.enter_context(upstream.fault(fault))
                self._make(step)
                assert eventually(lambda: self._compared() == self._shadowed)

    def lose_v2(self) -> None:
        """v2 ends, and calls meant for it fall back."""
        self._v2.stop()
        self._make(FALLBACKS)
        self.calls["v1"] += FALLBACKS.times
        self.failures["v2"] += FALLBACKS.times

    def misread(self) -> None:
        """It is asked to take settings that are none."""
        self._file.write_text("none")
        self.proxy.popen.send_signal(signal.SIGHUP)
        self.proxy.find("(settings not reloaded)")

    def _make(self, step: Step) -> None:
        names = ("user_id",) if step.path == DIRECT else ("manufacturer_user_id",)
        body = json.dumps(dict.fromkeys(names, "u" * step.length)).encode()
        for _ in range(step.times):
            reply = call(self.proxy.address, body, {"x-api-key": f"{step.manufacturer}-key"}, path=step.path)
            assert reply.status == step.status, (step, reply)
        if step.path == PATH:
            self.calls[step.upstream] += step.times
            self.failures[step.upstream] += step.times if step.status >= 500 else 0
            self._shadowed += step.times if step.upstream == "v1" else 0

    def _compared(self) -> float:
        found = self.proxy.metrics().items()
        return sum(value for name, value in found if name.startswith("nox_proxy_shadow_comparisons_total"))


def settings(v1: Simulator) -> str:
    """As a settings file."""
    manufacturers = (
        f'[manufacturers.{name}]\nkeys_sha256 = ["{digest(f"{name}-key".encode())}"]\nv2_percent = {share}\n'
        for name, share in SHARES.items()
    )
    return f"""
[upstreams.v1]
url = "http://{v1.address}"
[changes.connect_nox_user.rollout]
v2_percent = {SHARE}
fallback = "not_sent"
shadow = {{ percent = 100.0, accept_side_effects = true }}
{"".join(manufacturers)}"""
