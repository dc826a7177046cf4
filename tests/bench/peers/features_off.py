"""nox-proxy with its own sockets, parsers, doors and pool, and nothing of its features: only the rewriting.

Off: admission but for the form of the JSON, the schedule, the rollout, the breaker and the retry, metrics, access log,
request ids, forwarding and deprecation headers, error translation. On, for they are the wire's own and no switch
parts them from it: the limits on a request's size and time, the upstream's deadline; and the Date.

python -m tests.bench.peers.features_off   # settings by NOX_PROXY_*, as of `nox-proxy serve`
"""

import time
from unittest.mock import patch

import msgspec

from proxy import serve
from proxy.contract.changes.connect_nox_user import connect_nox_user
from proxy.contract.envelope import success
from proxy.contract.messages import Request, Response
from proxy.contract.version_change import Policies
from proxy.head import Head
from proxy.pipeline import Pipeline, ReadBody
from proxy.wire.headers import date

_METHOD, _TARGET = b"POST", connect_nox_user.v2_path.encode()
_TO_V2 = b"x-api-key: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
_FROM_US = b"date: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
_POLICIES: Policies = {"device_ids": "echo"}
_encode = msgspec.json.Encoder().encode


class Rewriting(Pipeline):
    """The shortest way from a request to its answer that this house has, by both of its doors."""

    async def answer(self, request: Request, read_body: ReadBody) -> Response:
        return await self._rewrite(request.fields[b"x-api-key"][0], await read_body(self._max_body_bytes))

    async def answer_known(self, head: Head, body: bytes) -> Response:
        return await self._rewrite(head.credential.key, body)

    async def _rewrite(self, key: bytes, body: bytes) -> Response:
        asked = connect_nox_user.read_request(body)
        message = _encode(connect_nox_user.to_v2(asked))
        sender = self._upstreams.v2._sender
        answer = await sender.send(_METHOD, _TARGET, _TO_V2 % (key, len(message)), message)
        told, _ = connect_nox_user.read_answer(answer.body)
        now = time.time()
        said = success(connect_nox_user.to_v1(asked, told, _POLICIES), now)
        return Response(201, _FROM_US % (date(now), len(said)), said)


if __name__ == "__main__":
    with patch("proxy.parts.Pipeline", Rewriting):
        serve.serve(None)
