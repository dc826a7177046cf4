"""Runs a simulated service until SIGTERM or SIGINT."""

import logging
from pathlib import Path
from socket import socket

import uvloop

from proxy.simulator.app import RawProtocol, record_to, service_app
from proxy.simulator.recording import Recorder
from proxy.simulator.services import Service, V1Service
from proxy.wire.listener import address_of, bind
from proxy.wire.server import App, CallerLimits, Server, run_servers


def simulate(service: Service, host: str, port: int, record: Path | None = None) -> None:
    """`record` is for v1's calls. Raises OSError where the address or the file cannot be had."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    if record is not None and isinstance(service, V1Service):
        app = service_app(service, record_to(Recorder(record), service))
    else:
        app = service_app(service)
    uvloop.run(_simulate(service, app, bind(host, port)))


async def _simulate(service: Service, app: App, listener: socket) -> None:
    server = Server(app, listener, protocol=RawProtocol, limits=CallerLimits(max_header_bytes=1 << 20), drain_seconds=1)

    def on_started() -> None:
        logging.info("%s listening on http://%s%s", type(service).__name__, address_of(listener), service.path)

    await run_servers(server, on_started=on_started)
