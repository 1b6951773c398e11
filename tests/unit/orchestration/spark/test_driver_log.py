"""Each line of a driver is told once, however often its log is read."""

from __future__ import annotations

from rempart.orchestration.spark.driver_log import DriverLog


def test_lines_are_told_once_and_in_order() -> None:
    rows = ["2026-11-30T12:00:00.5Z a", "2026-11-30T12:00:00.51Z b"]
    asked: list[int | None] = []

    def read(since: int | None) -> str:
        asked.append(since)
        return "\n".join(rows)

    moment = iter([0.0, 3.0, 6.0])
    log = DriverLog(read, lambda: next(moment))
    assert log.new_lines() == ["a", "b"]
    rows += ["2026-11-30T12:00:00.51Z c", "2026-11-30T12:00:01Z b"]  # of the same moment, and the same text later
    assert log.new_lines() == ["c", "b"]
    assert log.new_lines() == []
    assert asked == [None, 13, 13]  # later reads ask for the end alone
