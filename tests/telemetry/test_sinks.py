"""Where an Exchange goes."""

import logging

import pytest

from proxy.telemetry.block import Block
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.sinks import Telemetry


def test_a_bug_is_logged_where_it_arose_and_not_in_its_words(caplog: pytest.LogCaptureFixture) -> None:
    def stumble(user: str) -> None:
        raise KeyError(user)

    with caplog.at_level(logging.ERROR), pytest.raises(KeyError) as caught:
        stumble("-".join(["secret", "user"]))
    Telemetry(Metrics(Block()), None).crash(Exchange(b"id-1"), caught.value)
    assert "request id-1 crashed: KeyError" in caplog.text
    assert "in stumble" in caplog.text
    assert "secret-user" not in caplog.text
