"""The calls of a run, as templates and as they are sent, and the replies to them."""

import re
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec

from proxy import __version__
from proxy.contract.changes.connect_nox_user import connect_nox_user
from proxy.contract.errors import UpstreamError
from proxy.contract.messages import Field, Fields, gather
from proxy.simulator.recording import BadLine, Recorded, read_calls
from proxy.wire.client import Client

V1 = connect_nox_user.v1_path.encode()

MOST_UNANSWERED = 5
"""Calls in a row: with as many a deployment is gone."""

FRAMING = (b"content-length", b"transfer-encoding")
_OURS = ((b"accept", b"*/*"), (b"user-agent", b"nox-proxy-verify/" + __version__.encode()))


class Call(NamedTuple):
    """A call. As a template it has `$KEY`, `$REFUSED` (a key that nobody has) and `$USER` in lines and body."""

    lines: tuple[Field, ...]
    body: bytes
    method: bytes = b"POST"
    path: bytes = V1

    def __repr__(self) -> str:
        return f"Call({self.method.decode()})"  # the lines hold the key


class Reply(msgspec.Struct, frozen=True):
    """The answer to a call. `at` is in Unix seconds; `seconds` is how long it took."""

    call: Call
    request_id: bytes
    status: int
    fields: Fields
    body: bytes
    at: float
    seconds: float

    def __repr__(self) -> str:
        return f"Reply({self.status})"  # the call holds the key

    def value(self, name: str) -> str:
        """A header field's value, its lines as one; empty where there is none."""
        return b", ".join(self.fields.get(name.encode(), ())).decode("latin-1")

    @property
    def is_ours(self) -> bool:
        """Whether the proxy made this answer itself, an error."""
        return self.value("proxy-status").startswith("nox-proxy; error=")

    @property
    def is_translated(self) -> bool:
        """Whether the answer is told to be v2's; without device IDs in the call it may be so untold."""
        return b"nox-unmapped" in self.fields


class Gone(Exception):
    """A deployment that no longer answers."""


class Caller:
    """Makes a run's calls to one deployment, one after the other, and keeps the replies.

    `run` is the beginning of every user ID that it makes up. `now` gives Unix seconds.
    """

    def __init__(self, url: str, client: Client, key: str, run: str, now: Callable[[], float]) -> None:
        self.url = url
        self.replies: list[Reply] = []
        self.client = client
        self._words = {b"$KEY": key.encode(), b"$REFUSED": f"{run}-refused-key".encode(), b"$USER": run.encode()}
        self._run = run
        self._now = now
        self._calls = self._unanswered = 0

    def fill(self, call: Call) -> Call:
        """A template's call."""
        lines = tuple((name, filled(value, self._words)) for name, value in call.lines)
        return call._replace(lines=lines, body=filled(call.body, self._words), path=filled(call.path, self._words))

    def replay(self, recorded: Recorded) -> Call:
        """A recorded call; where v1 refused the key, it is sent with one that nobody has."""
        key = self._words[b"$REFUSED" if recorded.status == 401 else b"$KEY"]
        lines = {
            "x-api-key": [(b"x-api-key", key)],
            "authorization": [(b"authorization", b"ApiKey " + key)],
            "none": [],
        }[recorded.credential]
        for name, value in ((b"content-type", recorded.content_type), (b"content-encoding", recorded.content_encoding)):
            if value is not None:
                lines.append((name, value.encode("latin-1")))
        return Call(tuple(lines), recorded.content, path=recorded.path.encode())

    async def make(self, call: Call) -> Reply:
        """Raises UpstreamError where no answer came, Gone where none came to many calls."""
        self._calls += 1
        request_id = f"{self._run}-{self._calls}".encode()
        framing = () if _brings(call, FRAMING) else ((b"content-length", b"%d" % len(call.body)),)
        named = () if _brings(call, (b"x-request-id",)) else ((b"x-request-id", request_id),)
        lines = (*call.lines, *_OURS, *named, *framing)
        started = perf_counter()
        try:
            answer = await self.client.send(call.method, call.path, lines, call.body)
        except UpstreamError as error:
            self._unanswered += 1
            if self._unanswered >= MOST_UNANSWERED:
                raise Gone(f"{self.url} answers no longer: {error.reason}") from error
            raise
        self._unanswered = 0
        seconds = perf_counter() - started
        reply = Reply(call, request_id, answer.status, gather(answer.fields), answer.body, self._now(), seconds)
        self.replies.append(reply)
        return reply

    def users(self) -> set[str]:
        """The users that the run made up and that were connected."""
        named = {user_of(reply.call.body) for reply in self.replies if reply.status < 300}
        return {user for user in named if user is not None and user.startswith(self._run)}

    def clean(self, text: str) -> str:
        """A text fit to be shown: without the key, on one line, not long."""
        text = text.replace(self._words[b"$KEY"].decode(), "[key]")
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        return text if len(text) <= 200 else f"{text[:199]}…"


def read_requests(text: bytes) -> dict[int, Recorded]:
    """The calls of a file (see `simulator/recording.py`) by their line's number. Raises BadLine."""
    calls = read_calls(text)
    for number, call in calls.items():
        if call.path.encode() not in connect_nox_user.v1_paths:
            raise BadLine(f"line {number}: path: of no deprecated endpoint")
    return calls


def filled(template: bytes, words: Mapping[bytes, bytes]) -> bytes:
    """A template with its words put in; a word within a word's value, which may be a key, stays."""
    return re.sub(b"|".join(map(re.escape, words)), lambda found: words[found[0]], template)


def _brings(call: Call, names: Sequence[bytes]) -> bool:
    """Whether a call brings lines of its own by such names."""
    return any(name in names for name, _ in call.lines)


def user_of(body: bytes) -> str | None:
    """The user that a call connects; None where that cannot be told."""
    try:
        asked = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    user = asked.get("manufacturer_user_id") if isinstance(asked, dict) else None
    return user if isinstance(user, str) else None
