"""The queries of docs/how-to/join-two-pipelines.md for columns that a file cannot declare: they give what it tells."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rempart.ingestion.derived.binding import bind
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.snapshots import SnapshotColumn, arrow_schema
from tests.unit.docsgen.blocks import blocks

TEXT = SnapshotColumn("string", True)
CONTRACTS = {"contract": TEXT, "started": SnapshotColumn("date", True), "deposit": TEXT}
PARCELS = {"parcel": TEXT, "planned_on": SnapshotColumn("date", True), "planned_at": TEXT}


def shown(table: str) -> str:
    """Return the query of the page over this table that this test runs."""
    (block,) = (
        block
        for block in blocks()
        if block.note.endswith("test_examples_of_columns.py") and block.text.rstrip().endswith(f"FROM {table}")
    )
    return block.text


def derived(tmp_path: Path, table: str, columns: dict[str, SnapshotColumn], rows: list[list[object]]) -> pa.Table:
    """Return the rows that the page's query makes of these."""
    made = [dict(zip(columns, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(made, arrow_schema(columns)), tmp_path / "rows.parquet")
    query = bind("include/sql/x.sql", shown(table), {table: columns})
    inputs = {table: (columns, [tmp_path / "rows.parquet"])}
    key = [next(iter(columns))]
    execute("include/sql/x.sql", query, inputs, key, tmp_path / "out.parquet", Resources(256 << 20, 1, tmp_path / "s"))
    return pq.read_table(tmp_path / "out.parquet")


def test_two_currencies_become_two_numbers(tmp_path: Path) -> None:
    day = date(2026, 1, 5)
    rows: list[list[object]] = [["a", day, "1.234,50 €"], ["b", day, "CHF 7,25"], ["c", day, None]]
    found = derived(tmp_path, "contracts", CONTRACTS, rows)
    assert found["deposit_eur"].to_pylist() == [1234.5, None, None]
    assert found["deposit_chf"].to_pylist() == [None, 7.25, None]


def test_a_date_and_a_time_of_day_become_an_instant(tmp_path: Path) -> None:
    rows: list[list[object]] = [["a", date(2026, 1, 5), "14:30"], ["b", date(2026, 7, 5), "14:30"]]
    found = derived(tmp_path, "parcels", PARCELS, rows)
    assert found["planned"].to_pylist() == [
        datetime(2026, 1, 5, 13, 30, tzinfo=UTC),
        datetime(2026, 7, 5, 12, 30, tzinfo=UTC),
    ]
