"""The soak, for as long as CI can wait."""

from tests.faults.soak import soak


def test_a_minute_of_faults_coming_and_going_at_half_load() -> None:
    report = soak(60.0)
    print(report)
    assert report.broken() == []
