"""Runs a simulated service until SIGTERM or SIGINT."""

import logging
from socket import socket

import uvloop

from proxy.simulator.services import RawProtocol, Service
from proxy.wire.server import Server, address_of, bind, run_servers


def simulate(service: Service, host: str, port: int) -> None:
    """Raises OSError where the address cannot be had."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    uvloop.run(_simulate(service, bind(host, port)))


async def _simulate(service: Service, listener: socket) -> None:
    server = Server(service.app(), listener, protocol=RawProtocol, max_header_bytes=1 << 20, drain_seconds=1)

    def on_started() -> None:
        logging.info("%s listening on http://%s%s", type(service).__name__, address_of(listener), service.path)

    await run_servers(server, on_started=on_started)
