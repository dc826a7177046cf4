"""Rules as the settings would make them, for tests that need no settings."""

from collections.abc import Iterable, Mapping

from proxy.contract.changes import CHANGES
from proxy.contract.envelope import ErrorTranslator
from proxy.policy.deprecation import Deprecation
from proxy.policy.manufacturers import Manufacturers
from proxy.policy.rollout import Rollout
from proxy.rules import Endpoint, Rules

UNSCHEDULED = Deprecation(documentation="https://docs.example", successor="https://v2.example")


def rules_of(
    schedule: Deprecation = UNSCHEDULED,
    rollout: Rollout = Rollout(),  # noqa: B008  # frozen
    digests: Mapping[str, Iterable[str]] = {},  # only read
) -> Rules:
    """Of the first change alone; `digests` are of the manufacturers' keys."""
    change = CHANGES[0]
    endpoint = Endpoint(change, {"device_ids": "echo"}, ErrorTranslator(change.renamed, {}), schedule, rollout)
    return Rules((endpoint,), Manufacturers(digests))
