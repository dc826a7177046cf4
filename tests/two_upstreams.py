"""Both simulated services, proxies in front of them, and who of the two was asked."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from proxy.policy.credentials import digest
from tests.processes import ROOT, Proxy, Simulator

Section = Mapping[str, object]

NAMES = ("acme", "boreal", "corvid", "dodo")
"""Listed manufacturers, each with a key of its own. Neither service accepts it, which both can tell by a 401."""


def key_of(name: str) -> dict[str, str]:
    return {"x-api-key": f"{name}-key"}


def manufacturers(**own: Section) -> str:
    """The setting that lists NAMES; `own` is what is set of one besides."""
    listed = {name: {"keys_sha256": [digest(f"{name}-key".encode())], **own.get(name, {})} for name in NAMES}
    return json.dumps(listed)


class Upstreams(NamedTuple):
    """Both services."""

    v1: Simulator
    v2: Simulator

    def forget(self) -> None:
        self.v1.forget()
        self.v2.forget()

    def asked(self) -> list[str]:
        """Who got the calls since the last look, v1 first."""
        found = ["v1"] * len(self.v1.calls()) + ["v2"] * len(self.v2.calls())
        self.forget()
        return found

    def users(self) -> tuple[Counter[str], Counter[str]]:
        """The users that came to v1 and to v2, and how often."""
        at_v1 = Counter(json.loads(came["body"])["manufacturer_user_id"] for came in self.v1.calls())
        return at_v1, Counter(json.loads(came["body"])["user_id"] for came in self.v2.calls())

    @contextmanager
    def proxy(self, rollout: Section, change: Section | None = None, **more: str) -> Iterator[Proxy]:
        """In front of both, unless `more` says otherwise."""
        changes = json.dumps({"connect_nox_user": {**(change or {}), "rollout": rollout}})
        settings = {"UPSTREAMS__V1__URL": f"http://{self.v1.address}", "CHANGES": changes, **more}
        running = Proxy(settings.pop("UPSTREAMS__V2__URL", self.v2.url), cwd=ROOT, **settings)
        try:
            yield running
        finally:
            assert running.stop() == 0


def of_a_call(manufacturer: str, status: int, upstream: str = "v1", scheme: str = "x-api-key") -> tuple[str, ...]:
    """The counters of an answered call that carried device_ids."""
    endpoint, its = 'endpoint="connect_nox_user"', f'manufacturer="{manufacturer}"'
    return (
        f'nox_proxy_requests_total{{{endpoint},{its},status="{status}",upstream="{upstream}"}}',
        f'nox_proxy_credential_scheme_total{{{its},scheme="{scheme}"}}',
        f'nox_proxy_unmapped_fields_total{{{endpoint},field="device_ids",{its}}}',
    )


def failed_at(upstream: str, reason: str) -> str:
    """The counter of an upstream's failures for that reason."""
    return f'nox_proxy_upstream_failures_total{{reason="{reason}",upstream="{upstream}"}}'


def fell_back(reason: str) -> str:
    """The counter of the calls that v1 answered for that reason."""
    return f'nox_proxy_fallbacks_total{{endpoint="connect_nox_user",reason="{reason}"}}'


def _counters(proxy: Proxy) -> Counter[str]:
    """Without the retries, of which there are as many as the calls before allow."""
    totals = {name: int(n) for name, n in proxy.metrics().items() if name.partition("{")[0].endswith("_total")}
    return Counter({name: n for name, n in totals.items() if "_retries_" not in name})


@contextmanager
def counting(proxy: Proxy, *one_more: str) -> Iterator[None]:
    """These counters rise by one, and no other does."""
    before = _counters(proxy)
    yield
    risen = _counters(proxy) - before
    assert risen == Counter(one_more), risen
