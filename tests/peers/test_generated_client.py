"""A client that openapi-python-client generates from v1.yaml works through the proxy."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.processes import ROOT, UNMEASURED, Proxy

DESCRIPTION = ROOT / "proxy/contract/openapi/v1.yaml"
NAME = "generated_v1_client"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The generated package; it is forgotten afterwards."""
    home = tmp_path_factory.mktemp("client")
    programs = Path(sys.executable).parent  # the generator calls ruff
    options = ("--path", DESCRIPTION, "--meta", "none", "--output-path", home / NAME, "--fail-on-warning")
    run = subprocess.run(
        [programs / "openapi-python-client", "generate", *options],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
        env={**os.environ, **UNMEASURED, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        yield importlib.import_module(NAME)
    for module in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("header", "prefix", "key", "status", "code"),
    [
        ("x-api-key", "", "demo-key", 201, None),
        ("Authorization", "ApiKey", "demo-key", 201, None),
        ("x-api-key", "", "wrong", 401, "invalid_api_key"),
        ("Authorization", "ApiKey", "wrong", 401, "invalid_api_key"),
        ("Authorization", "Bearer", "demo-key", 401, "missing_api_key"),
    ],
)
def test_connects_a_user(
    proxy: Proxy, generated: ModuleType, header: str, prefix: str, key: str, status: int, code: str | None
) -> None:
    """The answers come as the models that the description names."""
    models = importlib.import_module(f"{NAME}.models")
    endpoint = importlib.import_module(f"{NAME}.api.default.connect_nox_user")
    sent = models.V1Request("user-4711", device_ids=["heat-pump-1", "wallbox-2"])
    client = generated.AuthenticatedClient(
        f"http://{proxy.address}", auth_header_name=header, prefix=prefix, token=key, raise_on_unexpected_status=True
    )
    with client:
        answer = endpoint.sync_detailed(client=client, body=sent)
    told = answer.parsed
    assert answer.status_code == status
    assert type(told) is (models.Failure if code else models.Success)
    assert told.success is (code is None)
    assert type(told.timestamp) is int
    assert told.additional_properties == {}
    if code:
        texts = {"missing_api_key": "Missing API key", "invalid_api_key": "Invalid API key"}
        assert (told.error_code, told.error, told.message) == (code, texts[code], texts[code])
    else:
        assert type(told.data) is models.V1Connection
        assert (told.data.manufacturer_user_id, told.data.device_ids) == ("user-4711", ["heat-pump-1", "wallbox-2"])
        assert told.data.nox_user_id
