"""nox-proxy with its own sockets, parsers and pool, and nothing of its features: only the rewriting.

Off: admission but for the form of the JSON, the schedule, the rollout, the breaker and the retry, metrics, access log,
request ids, forwarding and deprecation headers, error translation. On, for they are the wire's own and no switch
parts them from it: the limits on a request's size and time, the upstream's deadline, the Date.

python -m tests.bench.peers.features_off   # settings by NOX_PROXY_*, as of `nox-proxy serve`
"""

from typing import Any
from unittest.mock import patch

from proxy import serve
from proxy.contract.changes import CHANGES
from proxy.contract.changes.connect_nox_user import connect_nox_user
from proxy.contract.envelope import success
from proxy.contract.messages import Request, Response
from proxy.parts import make_pipeline
from proxy.pipeline import Pipeline, ReadBody, _encode


class Rewriting(Pipeline):
    """The shortest way from a request to its answer that this house has."""

    async def answer(self, request: Request, read_body: ReadBody) -> Response:
        asked = connect_nox_user.read_request(await read_body(self._max_body_bytes))
        message = _encode(connect_nox_user.to_v2(asked))
        lines = (
            (b"x-api-key", request.fields[b"x-api-key"][0]),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(message)),
        )
        sender = self._upstreams.v2._sender
        answer = await sender.send(b"POST", connect_nox_user.v2_path.encode(), lines, message)
        if answer.status != 201:
            return Response(answer.status, ((b"content-length", b"%d" % len(answer.body)),), answer.body)
        told, _ = connect_nox_user.read_answer(answer.body)
        body = success(connect_nox_user.to_v1(asked, told, {"device_ids": "echo"}), self._now())
        return Response(201, ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))), body)


def make_rewriting(*parts: Any) -> Pipeline:
    pipeline = make_pipeline(*parts)
    pipeline.__class__ = Rewriting
    return pipeline


if __name__ == "__main__":
    assert connect_nox_user in CHANGES
    with patch.object(serve, "make_pipeline", make_rewriting):
        serve.serve(None)
