"""What a check wants of the replies to its calls, and how they are judged."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import msgspec

from proxy.contract.changes.connect_nox_user import V1Connection
from proxy.contract.envelope import Failure
from proxy.contract.messages import Body
from proxy.verify.calls import V1, Reply, user_of

CLOCKS_APART = timedelta(days=1).total_seconds()
"""How far a `timestamp` may be from this machine's clock: it is in Unix seconds, not in milliseconds."""


class Failed(Exception):
    """The contract is broken. The text says what came instead."""


class NotApplicable(Exception):
    """The deployment has nothing to be judged here, or a service behind it judged first. The text says why."""


class Promise(NamedTuple):
    """What is wanted, in words, and the judge: he says in words what came, or raises Failed or NotApplicable."""

    wanted: str
    judge: Callable[[Sequence[Reply]], str]


class _Data(V1Connection, frozen=True, gc=False, forbid_unknown_fields=True): ...


class _Connected(Body, frozen=True, forbid_unknown_fields=True):
    success: bool
    timestamp: int
    data: _Data


class _Failure(Failure, frozen=True, forbid_unknown_fields=True): ...


def refused(status: int, code: str, text: str | None = None) -> Promise:
    """An error that the proxy itself makes."""

    def judge(replies: Sequence[Reply]) -> str:
        for reply in replies:
            told = error_of(reply)
            came = f"{reply.status} {told.error_code}"
            _must((reply.status, told.error_code) == (status, code), came)
            _must(text is None or told.message == text, f"{came}, '{told.message}'")
            _must(reply.is_ours, f"{came} without Proxy-Status")
            _must_be_echoed(reply)
            if status == 401:
                _must_name_the_scheme(reply)
            if status == 405:
                _must(reply.value("allow") == "POST", f"{came}, Allow: {reply.value('allow') or 'none'}")
        return f"{status} {code}"

    return Promise(f"{status} {code}" + (f", {text!r}" if text else ""), judge)


def connected(*, odd: bool = False) -> Promise:
    """v1's 201. `odd`: for a user ID that the service behind the proxy may refuse."""

    def judge(replies: Sequence[Reply]) -> str:
        for reply in replies:
            if odd and 400 <= reply.status < 500 and not reply.is_ours:
                raise NotApplicable(f"the service refuses this user ID: {reply.status} {error_of(reply).error_code}")
            data = data_of(reply)
            _must(data.device_ids == (), "device_ids, though none were sent")
        return "201"

    return Promise("201, v1's envelope", judge)


def same_user() -> Promise:
    """Calls of one user."""

    def judge(replies: Sequence[Reply]) -> str:
        found = {data_of(reply).nox_user_id for reply in replies}
        _must(len(found) == 1, f"{len(found)} of them")
        return "one"

    return Promise("one nox_user_id", judge)


def device_ids() -> Promise:
    """Calls with device IDs: one policy for all that v2 answers; those that v1 answers keep them."""

    def judge(replies: Sequence[Reply]) -> str:
        found = {_policy(reply) for reply in replies} - {""}
        _must(len(found - {"v1"}) <= 1, f"now one, now the other: {', '.join(sorted(found - {'v1'}))}")
        return ", ".join(sorted(found))

    return Promise("one policy, said in NOX-Unmapped; v1 keeps them", judge)


def _policy(reply: Reply) -> str:
    """As far as it can be told; empty where no device ID was sent, and all of them answer alike."""
    sent = tuple(msgspec.json.decode(reply.call.body)["device_ids"])
    _must(not (reply.is_translated and not sent), "NOX-Unmapped, though no device ID was sent")
    if reply.status == 400:
        refused(400, "device_ids_unsupported").judge([reply])
        return "reject"
    got = data_of(reply).device_ids
    if not reply.is_translated:
        _must(set(got) == set(sent), "other device_ids than were sent, without NOX-Unmapped")
        return "v1" if sent else ""
    _must_be_echoed(reply)
    _must(reply.value("nox-unmapped") == "device_ids", f"NOX-Unmapped: {reply.value('nox-unmapped')}")
    _must(got in (sent, ()), "other device_ids than were sent")
    return "echo" if got else "drop"


def new_request_id() -> Promise:
    """Calls without a key, whose x-request-id is not fit to be used."""

    def judge(replies: Sequence[Reply]) -> str:
        for reply in replies:
            code = error_of(reply).error_code
            _must(reply.status == 401, f"{reply.status} {code}")
            _must(_UUID.fullmatch(reply.value("x-request-id")) is not None, reply.value("x-request-id") or "none")
        return "a UUID"

    return Promise("401, with a UUID instead", judge)


def refused_by_service() -> Promise:
    """A key that nobody has. Where `x-request-id` does not come back, v1 may have answered, in words of its own."""

    def judge(replies: Sequence[Reply]) -> str:
        for reply in replies:
            if reply.status == 410:
                raise NotApplicable("the schedule refuses keys that no list names, 410")
            code = error_of(reply).error_code
            _must(reply.status == 401, f"{reply.status} {code}")
            if reply.value("x-request-id"):
                _must_name_the_scheme(reply)
        return f"401 {code}"

    return Promise("401", judge)


def too_large() -> Promise:
    """A body that is found too large while it is read; how much a deployment takes is its own to set."""
    promise = refused(413, "payload_too_large")

    def judge(replies: Sequence[Reply]) -> str:
        if replies[0].status == 400 and error_of(replies[0]).error_code == "invalid_json":
            raise NotApplicable("larger bodies are taken")
        return promise.judge(replies)

    return Promise(promise.wanted, judge)


def not_found() -> Promise:
    """Another path. Behind a pass-through it is v1's to answer."""
    promise = refused(404, "not_found")

    def judge(replies: Sequence[Reply]) -> str:
        (reply,) = replies
        _must(not 300 <= reply.status < 400, f"a redirect, {reply.status}")
        if not reply.is_ours:
            raise NotApplicable(f"another service answers this path, {reply.status}: pass-through")
        return promise.judge(replies)

    return Promise(promise.wanted, judge)


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LINK = re.compile(r'<[^<>]+>; rel="(deprecation|successor-version|sunset)"')
_HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"


def via() -> Promise:
    """`Via` on every answer (RFC 9110, section 7.6.3)."""

    def judge(replies: Sequence[Reply]) -> str:
        announced = _announced(replies)
        named = sum("nox-proxy" in reply.value("via").lower() for reply in announced)
        _must(named == len(announced), f"on {named} of {len(announced)} answers")
        return f"on {named} answers"

    return Promise("nox-proxy, on all", judge)


def links_of(reply: Reply) -> frozenset[str]:
    """Those that announce the deprecation, as they are written."""
    return frozenset(found[0] for found in _LINK.finditer(reply.value("link")))


def links() -> Promise:
    """`Link` on every answer."""

    def judge(replies: Sequence[Reply]) -> str:
        announced = _announced(replies)
        common = frozenset.intersection(*map(links_of, announced))
        found = {_LINK.fullmatch(link)[1] for link in common}  # type: ignore[index]  # they come from the same pattern
        missing = {"deprecation", "successor-version"} - found
        _must(not missing, f"not on all {len(announced)} answers: {', '.join(sorted(missing))}")
        return f"on {len(announced)} answers"

    return Promise("deprecation and successor-version, on all", judge)


def deprecation() -> Promise:
    """`Deprecation` on every answer or on none."""

    def judge(replies: Sequence[Reply]) -> str:
        value = _on_all(replies, "deprecation")
        _must(re.fullmatch(r"@-?\d{1,12}", value) is not None, value)
        return value

    return Promise("@ and Unix seconds, the same on all", judge)


def sunset() -> Promise:
    """`Sunset` on every answer or on none, and not before the deprecation."""

    def judge(replies: Sequence[Reply]) -> str:
        value = _on_all(replies, "sunset")
        try:
            end = datetime.strptime(value, _HTTP_DATE).replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise Failed(value) from None
        since = re.fullmatch(r"@(-?\d{1,12})", _announced(replies)[0].value("deprecation"))
        _must(since is None or int(since[1]) <= end, f"{value}, before the deprecation")
        return value

    return Promise("an HTTP-date, not before Deprecation, the same on all", judge)


def _announced(replies: Sequence[Reply]) -> list[Reply]:
    return [reply for reply in replies if reply.call.path.rstrip(b"/") == V1]


def _on_all(replies: Sequence[Reply], name: str) -> str:
    values = {reply.value(name) for reply in _announced(replies)}
    if values == {""}:
        raise NotApplicable("not set")
    _must(len(values) == 1, f"{len(values)} values")
    return values.pop()


Told = TypeVar("Told", _Connected, _Failure)


def _told(reply: Reply, form: type[Told]) -> Told:
    media_type = reply.value("content-type").partition(";")[0].strip().lower()
    _must(media_type == "application/json", f"{reply.status}, {media_type or 'no media type'}")
    try:
        told = msgspec.json.decode(reply.body, type=form)
    except (ValueError, RecursionError) as error:
        raise Failed(f"{reply.status}, not v1's envelope: {error}") from None
    _must(abs(told.timestamp - reply.at) < CLOCKS_APART, f"{reply.status}, timestamp {told.timestamp}")
    _must(told.success is (form is _Connected), f"{reply.status}, success is {told.success}")
    return told


def error_of(reply: Reply) -> Failure:
    """Raises Failed where the reply is not v1's error envelope."""
    _must(reply.status >= 400, str(reply.status))
    told = _told(reply, _Failure)
    _must(told.error == told.message != "", f"{reply.status}, error and message differ")
    return told


def data_of(reply: Reply) -> V1Connection:
    """Raises Failed where the reply is not v1's 201 for the user that the call named."""
    if reply.status != 201:
        raise Failed(f"{reply.status} {error_of(reply).error_code}")
    data = _told(reply, _Connected).data
    _must(data.manufacturer_user_id == user_of(reply.call.body), "201, another manufacturer_user_id")
    _must(data.nox_user_id != "", "201, an empty nox_user_id")
    return data


def _must_be_echoed(reply: Reply) -> None:
    _must(reply.fields.get(b"x-request-id") == (reply.request_id,), f"{reply.status} without the call's x-request-id")


def _must_name_the_scheme(reply: Reply) -> None:
    scheme = reply.value("www-authenticate")
    _must(scheme == "ApiKey", f"{reply.status}, WWW-Authenticate: {scheme or 'none'}")


def _must(holds: bool, came: str) -> None:
    if not holds:
        raise Failed(came)
