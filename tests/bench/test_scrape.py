"""That the benchmark runs; its figures are nobody's to fail."""

import re

import pytest

from tests.bench import scrape


def test_it_prints_its_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scrape, "MANUFACTURERS", {"acme": "a-key-of-acme"})
    monkeypatch.setattr(scrape, "KILLED", 1)
    monkeypatch.setattr(scrape, "SCRAPES", 5)
    scrape.main()
    before, after = capsys.readouterr().out.splitlines()
    figures = r"\d+ samples, \d+ KiB: CPU [\d.]+ ms, wall median [\d.]+ ms, max [\d.]+ ms"
    assert re.fullmatch(f"with its first workers: {figures}", before)
    assert re.fullmatch(f"after 1 were killed: {figures}", after)
