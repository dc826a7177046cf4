"""Python's own floor: asyncio protocols on uvloop and httptools that forward a POST to v2, and its answer back.

It reads nothing of the JSON, checks nothing, counts nothing and logs nothing.

python -m tests.bench.peers.floor PORT V2_ADDRESS
"""

import asyncio
import sys
from functools import partial

import httptools
import uvloop

_free: "list[ToV2]" = []


class FromCaller(asyncio.Protocol):
    """A caller's connection; one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined]  # uvloop's is no asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._write = lambda _: None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._key = self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-api-key":
            self._key = value

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        message = (
            b"POST /v2/manufacturer/device-connections HTTP/1.1\r\nhost: v2\r\nx-api-key: %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (self._key, len(self._body), self._body)
        )
        if _free:
            _free.pop().send(message, self)
        else:  # a task for each connection to v2, none for a call
            opening = asyncio.get_running_loop().create_connection(ToV2, self._host, self._port)
            task = asyncio.ensure_future(opening)
            task.add_done_callback(lambda made: made.result()[1].send(message, self))

    def answer(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._write(head % (status, len(body)) + body)


class ToV2(asyncio.Protocol):
    """A kept connection to v2."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined]  # uvloop's is no asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)

    def send(self, message: bytes, caller: FromCaller) -> None:
        self._caller, self._body = caller, b""
        self._write(message)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        _free.append(self)
        self._caller.answer(self._parser.get_status_code(), self._body)


async def main(port: int, v2: str) -> None:
    host, _, v2_port = v2.partition(":")
    made = partial(FromCaller, host, int(v2_port))
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
