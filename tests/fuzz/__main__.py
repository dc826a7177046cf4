"""Hunts for longer than a test may, with other inputs each time: `python -m tests.fuzz answers 60`, or another kind.

What fails is made small and joins the corpus; so does what comes out as nothing there did. Exit status 1: something
failed.
"""

import sys
from hashlib import sha256
from pathlib import Path
from secrets import randbits
from time import monotonic

from hypothesis import Phase, given, seed, settings

from tests.fuzz.answers import ANSWERS
from tests.fuzz.bodies import BODIES
from tests.fuzz.callers import REQUESTS
from tests.fuzz.doors import DOORS
from tests.fuzz.inputs import CORPUS, MAX_BYTES, MAX_FILES, Check, Target

TARGETS = {target.kind: target for target in (ANSWERS, BODIES, DOORS, REQUESTS)}
ROUND = settings(deadline=None, database=None, max_examples=200, phases=(Phase.generate, Phase.shrink))


def hunt(target: Target, seconds: float, corpus: Path = CORPUS) -> int:
    """Returns the exit status."""
    end = monotonic() + seconds
    with target.open() as check:
        known = {check(data, False) for data in target.kept(corpus).values()}
        while monotonic() < end:
            found, failed = _round(target, check, corpus)
            for outcome in found.keys() - known:
                keep(target.kind, found[outcome], outcome, corpus)
            known |= found.keys()
            if failed is not None:
                keep(target.kind, failed, "failed", corpus)
                return 1
    return 0


def _round(target: Target, check: Check, corpus: Path) -> tuple[dict[str, bytes], bytes | None]:
    """The smallest input of each outcome, and the smallest that failed."""
    found: dict[str, bytes] = {}
    last = b""

    def look(data: bytes) -> None:
        nonlocal last
        last = data
        outcome = check(data, False)
        found[outcome] = min(found.get(outcome, data), data, key=len)

    try:
        ROUND(seed(randbits(64))(given(target.inputs(corpus))(look)))()
    except Exception as error:
        print(f"{target.kind}: {error!r}")
        return found, last  # the last that Hypothesis tries is the smallest
    return found, None


def keep(kind: str, data: bytes, outcome: str, corpus: Path) -> None:
    """Adds a file, while the corpus stays small."""
    folder = corpus / kind
    print(f"{kind}: {outcome}: {data!r}")
    if len(data) > MAX_BYTES or len([*folder.iterdir()]) >= MAX_FILES:
        print("  not kept: the corpus would grow too large")
        return
    (folder / sha256(data).hexdigest()[:12]).write_bytes(data)


if __name__ == "__main__":
    sys.exit(hunt(TARGETS[sys.argv[1]], float(sys.argv[2])))
