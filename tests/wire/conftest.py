"""What the tests of the wire share."""

import pytest

from tests.wire.servers import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Issues the certificates of this run."""
    return Authority()


@pytest.fixture(scope="session")
def ca_file(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What verifies them, for a setting."""
    return authority.write(tmp_path_factory.mktemp("tls") / "ca.pem")
