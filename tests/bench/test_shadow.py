"""That the benchmark runs; its figures are nobody's to fail."""

import re

import pytest

from tests.bench import shadow


def test_it_prints_its_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shadow, "SECONDS", 0.2)
    monkeypatch.setattr(shadow, "ROUNDS", 2)
    monkeypatch.setattr(shadow, "SHARES", {"off": 0, "100 %": 100})
    shadow.main()
    first, off, on = capsys.readouterr().out.splitlines()
    assert first == "200 calls a second, 2 turns of 0.2 s each; medians of the turns, in ms"
    figures = r"p50 [\d.]+, p99 [\d.]+ \(from [\d.]+ to [\d.]+\), p99 to off [\d.]+"
    assert re.fullmatch(rf"shadow      off: {figures}  {{}}", off)
    assert re.fullmatch(rf"shadow    100 %: {figures}  {{'match': \d+}}", on)
