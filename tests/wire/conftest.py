"""What the tests of the wire share."""

import pytest

from tests.wire.servers import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Issues the certificates of this run."""
    return Authority()
