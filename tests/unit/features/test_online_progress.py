"""How far a copy to the online store is, as the log tells it."""

from __future__ import annotations

import pytest

from rempart.cli import progress
from rempart.features.online_store.progress import Reporter, told

WHAT = "copied to the online store, view 'booking' of 'hotel':"


@pytest.mark.parametrize(
    ("done", "seconds", "says"),
    [
        (0, 0.0, "0 of 100,000 rows"),
        (25_000, 5.0, "25,000 of 100,000 rows, 5,000 rows/s, 15 s left"),
        (100_001, 20.0, "100,000 of 100,000 rows, 5,000 rows/s, 0 s left"),
    ],
)
def test_a_line_has_count_rate_and_time_left(done: int, seconds: float, says: str) -> None:
    assert told(WHAT, done, 100_000, seconds) == f"{WHAT} {says}"


def test_the_commands_progress_shows_the_count() -> None:
    state = progress.told(progress.State(0.0), told(WHAT, 25_000, 100_000, 5.0), 6.0)
    assert state.count
    assert (state.count.done, state.count.total) == (25_000, 100_000)


def test_a_line_every_five_seconds_of_the_clock(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    report = Reporter(WHAT, 1000, lambda: now)
    for second in range(1, 13):
        now = 100.0 + second
        report(second * 10)
    assert [record.getMessage().split(": ")[1].split(" of ")[0] for record in caplog.records] == ["50", "100"]
    assert report.seconds == 12.0
