"""What DuckDB writes to disk is seen while it works, and much of it becomes a hint."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rempart import engine_spill
from rempart.ingestion.engine.database import opened
from rempart.ingestion.engine.limits import Resources


def test_rows_that_do_not_fit_in_memory_are_seen_on_disk(tmp_path: Path) -> None:
    resources = Resources(64 << 20, 1, tmp_path / "spill")
    with engine_spill.watched(resources.spill) as spilled, opened(resources, [tmp_path]) as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS i, md5(range::VARCHAR) AS h FROM range(2_000_000)")
        deadline = time.monotonic() + 60
        while not spilled.bytes and time.monotonic() < deadline:
            time.sleep(0.05)
    assert spilled.bytes > 0
    assert engine_spill.size(resources.spill) == 0, "DuckDB deletes what it spilled"


def test_a_folder_that_never_comes_is_no_spill(tmp_path: Path) -> None:
    with engine_spill.watched(tmp_path / "none") as spilled:
        pass
    assert spilled.bytes == 0


@pytest.mark.parametrize(("spilled", "told"), [(0, False), (4 << 30, False), ((4 << 30) + 1, True)])
def test_only_much_more_than_the_memory_is_told(spilled: int, told: bool) -> None:
    assert bool(engine_spill.hint(spilled, 1 << 30, "ingestion.memory")) is told


def test_the_hint_names_the_setting_and_the_page() -> None:
    told = engine_spill.hint(12_600_000_000, 1 << 30, "training.join_memory")
    assert told == (
        "DuckDB wrote 12.6 GB to disk, 12 times its memory: raise `training.join_memory` in rempart.yaml, or set "
        "`engine: spark` (docs/how-to/outgrow-the-machine.md)."
    )
