"""Parts of a snapshot: rows in order of their keys are written as they come, and give the parts that sorting gives."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.ingestion.engine import parts
from rempart.ingestion.engine.database import opened
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.engine.parts import WrittenPart
from rempart.ingestion.snapshots import SnapshotColumn, arrow_schema

COLUMNS = {name: SnapshotColumn(kind, False) for name, kind in {"a": "string", "b": "integer", "day": "date"}.items()}
ROWS = [(f"{number // 3:04d}", number, date(2026, 1, 1) + timedelta(number % 90)) for number in range(1000)]


def written(rows: list[tuple[str, int, date]], key: list[str], folder: Path) -> list[WrittenPart]:
    table = pa.table([pa.array(values) for values in zip(*rows, strict=True)], schema=arrow_schema(COLUMNS))
    folder.mkdir()
    with opened(Resources(64 << 20, 1, folder / "spill"), [folder]) as connection:
        connection.register("made", table)
        return parts.write(connection, "made", COLUMNS, key, parts.period("day", "date"), folder / "parts", most=1_500)


@pytest.mark.parametrize("key", [["b"], ["a", "b"]])
def test_sorted_and_unsorted_rows_give_the_same_parts(
    key: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_GROUP", 70)
    in_order = written(ROWS, key, tmp_path / "in-order")
    mixed = written(ROWS[::3] + ROWS[1::3] + ROWS[2::3], key, tmp_path / "mixed")
    nearly = written([*ROWS[:-2], ROWS[-1], ROWS[-2]], key, tmp_path / "nearly")
    found = [[(part.partition, part.rows, part.sha256) for part in some] for some in (in_order, mixed, nearly)]
    assert found[0] == found[1] == found[2]
    assert sorted({part.partition for part in in_order}) == ["2026-01", "2026-02", "2026-03"]
    assert len(in_order) > 3 and sum(part.rows for part in in_order) == len(ROWS)
    assert sorted(part.file for part in mixed) == sorted((tmp_path / "mixed" / "parts").iterdir())


def test_rows_that_wait_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_GROUP", 70)
    monkeypatch.setattr(parts, "_WAITING", 1_000)
    monkeypatch.setattr(parts, "_MOST_OPEN", 3)
    found = written(ROWS, ["b"], tmp_path / "here")
    rows = [row for part in found for row in pq.read_table(part.file).to_pylist()]
    assert sorted((row["a"], row["b"], row["day"]) for row in rows) == ROWS
    assert max(pq.read_metadata(part.file).row_group(0).num_rows for part in found) < 70


def test_rows_of_many_partitions_are_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_MOST_OPEN", 2)
    found = written(ROWS, ["b"], tmp_path / "here")
    assert [part.partition for part in found] == ["2026-01", "2026-02", "2026-03"]
    assert sum(part.rows for part in found) == len(ROWS)
