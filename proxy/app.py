"""The two Starlette apps, public and admin, and the door between ASGI and the pipeline."""

import asyncio
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.contract.errors import CallerError, CallerGone, PayloadTooLarge
from proxy.contract.messages import Request, gather, read_lines
from proxy.overview import Overviews
from proxy.page import HEADERS, render
from proxy.pipeline import Pipeline
from proxy.telemetry.exposition import Exposition
from proxy.telemetry.scrape import Scrape
from proxy.wire.lifetime import FAULT
from proxy.wire.protocol import TARGET

NO_STORE = {"cache-control": "no-store"}


class PublicApp(Starlette):
    """Every path leads to the pipeline: no routing, no redirects, no texts of Starlette's, no middleware stack."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self._door = Door(pipeline)

    def build_middleware_stack(self) -> ASGIApp:
        return self._door


def admin_app(scrape: Scrape, overviews: Overviews) -> Starlette:
    """`/`, `/metrics`, `/livez` and `/readyz`, for the platform and not for callers."""
    exposition = Exposition()

    async def page(_: StarletteRequest) -> StarletteResponse:
        # Not on the loop, which may answer callers too: the first look compiles the template.
        return StarletteResponse(await asyncio.to_thread(render, overviews.take()), headers=HEADERS)

    async def metrics(request: StarletteRequest) -> StarletteResponse:
        body, content_type = exposition.write(scrape.values(), request.headers.get("accept", ""))
        return StarletteResponse(body, headers={"content-type": content_type, **NO_STORE})

    async def livez(_: StarletteRequest) -> StarletteResponse:
        return PlainTextResponse("live\n", headers=NO_STORE)

    async def readyz(_: StarletteRequest) -> StarletteResponse:
        if scrape.is_ready():
            return PlainTextResponse("ready\n", headers=NO_STORE)
        return PlainTextResponse("draining\n", status_code=503, headers=NO_STORE)

    answers = {"/": page, "/metrics": metrics, "/livez": livez, "/readyz": readyz}
    app = Starlette(routes=[Route(path, answer) for path, answer in answers.items()])
    app.router.redirect_slashes = False
    return app


class Door:
    """The ASGI way into the pipeline, without Starlette's Request and JSONResponse: they cost more than it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = read_head(scope)
        body = BodyReader(request, receive, scope["state"])
        response = await self._pipeline.answer(request, body.read)
        if body.caller_gone:
            return
        closes = response.close or not body.whole
        lines = response.lines + b"connection: close\r\n" if closes else response.lines
        await send({"type": "http.response.start", "status": response.status, "headers": read_lines(lines)})
        await send({"type": "http.response.body", "body": response.body})


def read_head(scope: Scope) -> Request:
    """The head of an ASGI request (ASGI's HTTP spec 2.3: names come in lower case)."""
    client = scope["client"]
    return Request(
        method=scope["method"],
        target=scope["state"][TARGET],
        fields=gather(scope["headers"]),
        client=client[0] if client else None,
        scheme=scope["scheme"],
    )


class BodyReader:
    """A request's body. `whole` says that nothing of it is left on the wire."""

    def __init__(self, request: Request, receive: Receive, state: Mapping[str, CallerError]) -> None:
        self._receive = receive
        self._state = state
        self._length = _announced_length(request)
        self.whole = self._length == 0
        self.caller_gone = False

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises PayloadTooLarge (by its announced length, or while reading), CallerGone, or what the protocol found.
        """
        if self._length is not None and self._length > limit:
            raise PayloadTooLarge
        pieces: list[bytes] = []
        size = 0
        while not self.whole:
            piece = await self._next()
            size += len(piece)
            if size > limit:
                raise PayloadTooLarge
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            self.caller_gone = True
            raise CallerGone
        if fault := self._state.get(FAULT):
            raise fault
        self.whole = not event.get("more_body", False)
        piece: bytes = event.get("body", b"")
        return piece


def _announced_length(request: Request) -> int | None:
    """The body's length in bytes as its framing tells it (RFC 9112, section 6.3); None for a chunked one."""
    if b"transfer-encoding" in request.fields:
        return None
    digits = request.fields.get(b"content-length", (b"",))[0].lstrip(b"0")
    return int(digits or b"0")  # the parser has seen to it that it is a number of 64 bits
