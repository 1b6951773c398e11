"""After a restore to an earlier snapshot, readers of the Delta table see that snapshot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rempart.flows.ingestion import delta_log
from rempart.flows.restore.restore_objects import publish_tables
from rempart.ingestion import snapshots
from rempart.ingestion.delta import log
from tests.erasable import ROWS, in_two_memories

NAME = "hotel_bookings"


def test_a_restored_snapshot_is_the_next_version_of_its_table_and_a_damaged_log_is_a_failed_check() -> None:
    lake = in_two_memories()
    lake.take_in("one", ROWS[:6])
    home = lake.site("primary")
    point = {info.key: home.read(lake.bucket, info.key) for info in home.list(lake.bucket)}
    held: list[Any] = [SimpleNamespace(bucket="lake", key=key) for key in point]
    first = snapshots.current(home, lake.bucket, NAME)
    lake.take_in("two", ROWS[6:9])
    for key, body in point.items():  # a restore in place leaves what is newer
        home.write(lake.bucket, key, body)
    (check,) = publish_tables(home, lake.bucket, held)
    assert check.ok and check.what == "the Delta table of hotel_bookings"
    state, _ = delta_log.read(home, lake.bucket, NAME)
    assert first and (state.version, state.snapshot) == (2, first.id)
    assert len(state.files) == len(first.parts)
    home.write(lake.bucket, log.version_key(NAME, 1), b"<Error/>")
    (check,) = publish_tables(home, lake.bucket, held)
    assert check.ok is False and "read the Delta log" in check.detail
    assert not list(publish_tables(home, lake.bucket, [obj for obj in held if not obj.key.startswith("snapshots/")]))
