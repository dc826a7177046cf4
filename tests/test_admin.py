"""The admin port: what it answers to probes and scrapes. Its page has test_page.py."""

import pytest

from tests.processes import Proxy, call


@pytest.mark.parametrize(
    ("path", "status", "begins"),
    [
        ("/livez", 200, b"live\n"),
        ("/readyz", 200, b"ready\n"),
        ("/metrics", 200, b"# HELP nox_proxy_"),
        ("/", 200, b"<!doctype html>"),
        ("/else", 404, b"Not Found"),
        ("/livez/", 404, b"Not Found"),
    ],
)
def test_what_it_answers(proxy: Proxy, path: str, status: int, begins: bytes) -> None:
    reply = call(proxy.admin, method="GET", path=path)
    assert (reply.status, reply.body[: len(begins)]) == (status, begins)
    assert status == 404 or reply.headers["cache-control"] == "no-store"
