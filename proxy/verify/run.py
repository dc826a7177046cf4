"""A run: greets the deployment, makes the checks one by one, and compares or replays calls."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import msgspec

from proxy.contract.errors import UpstreamError
from proxy.simulator.recording import Recorded
from proxy.verify.calls import Call, Caller, Gone, Reply, filled
from proxy.verify.checks import CALL, CHECKS, Check, RawCheck
from proxy.verify.comparing import CALLS, Compared, Comparison, compare_replies, latency
from proxy.verify.judges import Failed, NotApplicable, data_of, error_of
from proxy.verify.report import Checked, Report, Result
from proxy.wire.client import Client

RUN_SECONDS = 300.0
SECONDS_A_REPLAY = 0.5
"""More for each replayed call: what bounds a run grows with its file."""

UNABLE = {401: "refuses the key", 403: "refuses the key", 410: "is switched off by its schedule"}
BEHIND = (429, 502, 503, 504)

Progress = Callable[[int, int], None]
"""Told how many steps of how many are done."""


@dataclass(frozen=True)
class Plan:
    """What to do. `run` names this run and begins its user IDs; `requests` are by their line's number."""

    url: str
    key: str = field(repr=False)
    run: str
    against: str | None = None
    requests: Mapping[int, Recorded] = field(default_factory=dict)
    minimum: int = 20
    ca_file: Path | None = None


class Unable(Exception):
    """The run cannot be made; the text says why."""


class Run:
    """One run of a plan. `now` gives Unix seconds. Raises ValueError for a bad URL, OSError for a bad `ca_file`."""

    def __init__(self, plan: Plan, now: Callable[[], float]) -> None:
        self._plan = plan
        self._now = now
        self._url = self._caller(plan.url)
        self._against = self._caller(plan.against) if plan.against else None
        self._calls = self._planned()
        self._checks: list[Checked] = []
        self._compared: list[Compared] = []
        self._pairs: list[tuple[Reply, Reply]] = []

    async def make(self, on_progress: Progress = lambda *_: None) -> Report:
        """To its end, or as far as it can be made."""
        bound = RUN_SECONDS + SECONDS_A_REPLAY * len(self._plan.requests)
        why = ""
        try:
            async with asyncio.timeout(bound):
                await self._live(on_progress)
        except (Unable, Gone) as error:
            why = self._url.clean(str(error))
        except TimeoutError:
            why = f"not done within {bound:.0f} seconds"
        finally:
            for caller in self._callers():
                await caller.client.aclose()
        return self._report(why)

    async def _live(self, on_progress: Progress) -> None:
        for caller in self._callers():
            await _greet(caller)
        done, steps = 0, len(CHECKS) + len(self._calls)
        for check in CHECKS:
            self._checks.append(await make_check(self._url, check))
            on_progress(done := done + 1, steps)
        for name, call, recorded in self._calls:
            if self._against is not None:
                await self._compare(name, call, self._against)
            else:
                await self._replay(name, call, recorded)
            on_progress(done := done + 1, steps)

    def _planned(self) -> list[tuple[str, Call, int | None]]:
        """Those to be compared or replayed, with the status that was recorded."""
        if self._plan.requests:
            return [(f"line {line}", self._url.replay(its), its.status) for line, its in self._plan.requests.items()]
        return [(name, self._url.fill(call), None) for name, call in CALLS] if self._against else []

    async def _compare(self, name: str, call: Call, against: Caller) -> None:
        """Each deployment goes first in its turn, so that neither finds the users always made."""
        turns = (self._url, against) if len(self._compared) % 2 else (against, self._url)
        replies = {caller: await _reply(caller, call) for caller in turns}
        ours, theirs = replies[self._url], replies[against]
        found = compare_replies(name, ours, theirs)
        named = {self._url.clean(each): kind for each, kind in found.differences.items()}
        self._compared.append(msgspec.structs.replace(found, differences=named))
        if ours is not None and theirs is not None:
            self._pairs.append((ours, theirs))

    async def _replay(self, name: str, call: Call, recorded: int | None) -> None:
        """Without a deployment to compare with: v1's envelope, and a status of the class that was recorded."""
        wanted = "v1's envelope" + (f", {recorded // 100}xx" if recorded else "")

        async def judge() -> str:
            reply = await self._url.make(call)
            if reply.status == 201:
                data_of(reply)
            else:
                error_of(reply)
            if recorded and reply.status // 100 != recorded // 100:
                raise Failed(str(reply.status))
            return str(reply.status)

        self._checks.append(await _checked("requests", name, wanted, judge, self._url))

    def _callers(self) -> list[Caller]:
        return [self._url, self._against] if self._against else [self._url]

    def _caller(self, url: str) -> Caller:
        plan = self._plan
        client = Client(url, str(plan.ca_file) if plan.ca_file else None)
        return Caller(url, client, plan.key, plan.run, self._now)

    def _report(self, why: str) -> Report:
        users = {self._url.clean(user) for caller in self._callers() for user in caller.users()}
        comparison = None
        if self._against is not None:
            mine, theirs = ([pair[side] for pair in self._pairs] for side in (0, 1))
            compared = tuple(self._compared)
            comparison = Comparison(self._against.url, self._plan.minimum, compared, latency(mine), latency(theirs))
        return Report(self._plan.url, self._plan.run, tuple(sorted(users)), tuple(self._checks), comparison, why)


async def _greet(caller: Caller) -> None:
    """A good call; says whether there is something to check at all. Raises Unable."""
    try:
        reply = await caller.make(caller.fill(CALL))
    except UpstreamError as error:
        raise Unable(f"{caller.url} gives no answer: {error.reason}") from None
    told = str(reply.status)
    with contextlib.suppress(Failed):
        told += f" {error_of(reply).error_code}"
    if reply.status in UNABLE:
        raise Unable(f"{caller.url} {UNABLE[reply.status]}: {told}")
    if reply.status in BEHIND:
        raise Unable(f"the service behind {caller.url} does not answer: {told}")


async def _reply(caller: Caller, call: Call) -> Reply | None:
    try:
        return await caller.make(call)
    except UpstreamError:
        return None


async def make_check(caller: Caller, check: Check | RawCheck) -> Checked:
    """Makes a check's calls and has them judged. Raises Gone."""

    async def judge() -> str:
        if isinstance(check, RawCheck):
            return await _judge_raw(caller, check)
        replies = [await caller.make(caller.fill(call)) for call in check.calls]
        return check.promise.judge(replies or caller.replies)

    return await _checked(check.row, check.name, check.wanted, judge, caller)


async def _judge_raw(caller: Caller, check: RawCheck) -> str:
    """Whoever stands in front of the proxy may have answered."""
    message = filled(check.message, {b"$HOST": caller.client.host, b"$BASE": caller.client.base})
    answer = await caller.client.send_raw(message)
    came = f"{answer.status or 'no answer'}{', closed' if answer.closed else ', the connection stays open'}"
    if check.may_be_taken and answer.status == 401:
        raise NotApplicable("so much is taken")
    if answer.status not in check.statuses or not answer.closed:
        raise Failed(came)
    return came


async def _checked(row: str, name: str, wanted: str, judge: Callable[[], Awaitable[str]], caller: Caller) -> Checked:
    started = perf_counter()
    result: Result = "passed"
    try:
        came = await judge()
    except Failed as failed:
        result, came = "failed", str(failed)
    except NotApplicable as reason:
        result, came = "not applicable", str(reason)
    except UpstreamError as error:
        result, came = "failed", f"no answer: {error.reason}"
    return Checked(row, name, result, wanted, caller.clean(came), perf_counter() - started)
