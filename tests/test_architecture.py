"""The laws that import-linter cannot hold: one home for each library, purity, and a change that is one file."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, Canned, Proxy, call

PROXY = ROOT / "proxy"
FILES = sorted(PROXY.rglob("*.py"))

HOMES = {
    "httpx": ["wire/"],
    "httptools": ["wire/"],
    "uvicorn": ["wire/server.py", "wire/protocol.py", "wire/lifetime.py", "wire/direct.py"],
    "multiprocessing": ["workers.py"],
    "uvloop": ["serve.py", "simulator/run.py"],
    "starlette": ["app.py", "simulator/"],
    "prometheus_client": ["telemetry/exposition.py"],
    "opentelemetry": ["telemetry/spans.py"],
    "jinja2": ["page.py"],
    "pydantic": ["settings.py", "setting_sections.py", "setting_types.py"],
    "pydantic_settings": ["settings.py", "setting_types.py"],
    "typer": ["cli.py", "cli_demo.py", "cli_verify.py"],
    "rich": ["cli.py", "cli_demo.py", "cli_verify.py"],
}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROXY)))
def test_each_library_has_one_home(file: Path) -> None:
    place = str(file.relative_to(PROXY))
    strays = {name for name in imports(file) if name in HOMES and not place.startswith(tuple(HOMES[name]))}
    assert not strays


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROXY)))
def test_the_environment_is_read_in_the_settings_alone(file: Path) -> None:
    """The demo starts processes, and hands its own environment on to them."""
    if file.relative_to(PROXY).as_posix() not in ("settings.py", "demo/processes.py"):
        assert not re.search(r"\b(environ|getenv)\b", file.read_text())


@pytest.mark.parametrize("file", [file for file in FILES if {"contract", "policy"} & set(file.parts)])
def test_the_pure_wings_open_nothing(file: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROXY)))
def test_a_file_opens_with_what_it_holds(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    assert "BaseHTTPMiddleware" not in file.read_text()


def test_the_sinks_only_read_the_exchange() -> None:
    """Law 4."""
    trees = [ast.parse(file.read_text()) for file in (PROXY / "telemetry").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    stores = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    assert stores
    assert not [node for node in stores if isinstance(node.value, ast.Name) and node.value.id == "exchange"]


SECOND = '''
"""v1's `POST /manufacturers/suppliers`, which v2 calls `POST /manufacturer/link-sessions`."""

from proxy.contract.messages import Body
from proxy.contract.version_change import Policies, VersionChange


class V1Request(Body, frozen=True):
    manufacturer_user_id: str


class V2Request(Body, frozen=True):
    user_id: str


class Session(Body, frozen=True):
    session_url: str


def to_v2(asked: V1Request) -> V2Request:
    return V2Request(asked.manufacturer_user_id)


def to_v1(asked: V1Request, told: Session, policies: Policies) -> Session:
    return Session(told.session_url)


link_supplier = VersionChange(
    name="link_supplier",
    v1_path="/manufacturers/suppliers",
    v2_path="/manufacturer/link-sessions",
    v1_request=V1Request,
    v2_answer=Session,
    faults={"manufacturer_user_id": "manufacturer_user_id is required and must be a string"},
    renamed={"user_id": "manufacturer_user_id"},
    unmapped=(),
    to_v2=to_v2,
    to_v1=to_v1,
    user=lambda asked: asked.manufacturer_user_id,
)
'''


def test_a_second_endpoint_is_one_file_and_one_line(tmp_path: Path) -> None:
    """Law 3, on a copy of the project: settings, metrics and answers know it at once."""
    shutil.copytree(PROXY, tmp_path / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    changes = tmp_path / "proxy/contract/changes"
    (changes / "link_supplier.py").write_text(SECOND)
    listed = (changes / "__init__.py").read_text()
    line = "CHANGES = (connect_nox_user, link_supplier)"
    with_import = "from proxy.contract.changes.link_supplier import link_supplier\n" + listed
    (changes / "__init__.py").write_text(
        with_import.replace("CHANGES: tuple[AnyChange, ...] = (connect_nox_user,)", line)
    )
    assert line in (changes / "__init__.py").read_text()

    canned = Canned()
    body = b'{"session_url": "s:/"}'
    canned.answer = b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    proxy = Proxy(canned.url, cwd=tmp_path, CHANGES__LINK_SUPPLIER__ERROR_CODES='{"no": "yes"}')
    try:
        asked = b'{"manufacturer_user_id": "u"}'
        reply = call(proxy.address, asked, {"x-api-key": "k"}, path="/manufacturers/suppliers/")
        assert (reply.status, reply.json()["data"]) == (201, {"session_url": "s:/"})
        sent = canned.requests[-1]
        assert sent.startswith(b"POST /v2/manufacturer/link-sessions HTTP/1.1\r\n")
        assert json.loads(sent.partition(b"\r\n\r\n")[2]) == {"user_id": "u"}
        assert any('endpoint="link_supplier"' in series for series in proxy.metrics())
        refused = call(proxy.address, b"{}", {"x-api-key": "k"}, path="/manufacturers/suppliers")
        assert refused.json()["message"] == "manufacturer_user_id is required and must be a string"
    finally:
        assert proxy.stop() == 0
        canned.close()
