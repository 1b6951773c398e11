"""Rows are grouped by month, day or hour in UTC, and new types keep their values through a part and a comparison."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion import acceptance, snapshots
from rempart.ingestion.expectations import broken
from rempart.ingestion.snapshots import SnapshotColumn, arrow_schema
from rempart.settings.columns import Column, Period
from rempart.settings.pipeline import Expectation
from tests.unit.ingestion.oracle import first_of_each_key

COLUMNS = {
    "id": Column(type="integer", known="then"),
    "at": Column(type="timestamp", known="then"),
    "price": Column(type="decimal", precision=12, scale=2, known="then", nullable=True),
    "marks": Column(type="array", items="number", known="then", nullable=True),
    "tags": Column(type="array", items="string", known="then", nullable=True),
}
SCHEMA = arrow_schema({name: SnapshotColumn(spec.full_type, spec.nullable) for name, spec in COLUMNS.items()})
MOMENT = datetime(2025, 3, 30, 0, 30, tzinfo=UTC)
FIRST = {"id": 1, "at": MOMENT, "price": Decimal("1.50"), "marks": [1.0, 2.5], "tags": ["a", ""]}


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SCHEMA)


@given(st.lists(st.datetimes(datetime(1, 1, 1), timezones=st.just(UTC)), max_size=30))  # noqa: DTZ001 - a naive bound
@pytest.mark.parametrize(("every", "size"), [("month", 7), ("day", 10), ("hour", 13)])
def test_each_row_is_in_the_partition_of_its_period(every: Period, size: int, moments: list[datetime]) -> None:
    rows = pa.table({"at": pa.array(moments, pa.timestamp("us", "UTC"))})
    found = snapshots.partitions(rows, "at", every)
    assert {name: sorted(part["at"].to_pylist()) for name, part in found.items()} == {
        name: sorted(moment for moment in moments if moment.isoformat()[:size] == name)
        for name in sorted({moment.isoformat()[:size] for moment in moments})
    }
    assert list(found) == sorted(found)


def test_dates_are_partitioned_by_day() -> None:
    rows = pa.table({"day": pa.array([date(2024, 2, 29), date(2024, 3, 1)], pa.date32())})
    assert list(snapshots.partitions(rows, "day", "day")) == ["2024-02-29", "2024-03-01"]


def test_a_part_keeps_decimals_instants_and_arrays() -> None:
    rows = table(FIRST, {**FIRST, "id": 2, "price": None, "marks": [], "tags": None})
    assert pq.read_table(io.BytesIO(snapshots.encode([rows], rows.schema)), schema=SCHEMA).equals(rows)


def test_equal_rows_give_equal_bytes_in_whatever_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_GROUP", 7)
    rows = table(*({**FIRST, "id": number} for number in range(42)))
    bodies = {
        snapshots.encode([rows.slice(start, size) for start in range(0, 42, size)], SCHEMA) for size in (1, 3, 7, 42)
    }
    (body,) = bodies
    assert pq.read_table(io.BytesIO(body), schema=SCHEMA).equals(rows)
    assert pq.ParquetFile(io.BytesIO(body)).metadata.num_row_groups == 6


def test_a_repeated_row_with_equal_arrays_is_a_duplicate_and_with_others_a_conflict() -> None:
    new = table(FIRST, {**FIRST, "tags": ["a"]}, {**FIRST, "id": 2, "marks": None}, {**FIRST, "id": 2, "marks": []})
    accepted, refused = first_of_each_key.judge_keys(table(FIRST), new, ["id"])
    assert accepted == [2]
    assert refused == {0: acceptance.DUPLICATE, 1: acceptance.CONFLICT, 3: acceptance.CONFLICT}


def test_limits_of_a_pipeline_file_hold_for_instants_and_decimals() -> None:
    rows = table(FIRST, {**FIRST, "id": 2, "at": MOMENT.replace(year=2024), "price": Decimal("0.09")})
    between = "expect_column_values_to_be_between"
    limits = [
        Expectation.model_validate({"expect": between, "column": "at", "min_value": date(2025, 1, 1), "reason": "old"}),
        Expectation.model_validate({"expect": between, "column": "at", "min_value": MOMENT, "reason": "older"}),
        Expectation.model_validate({"expect": between, "column": "price", "min_value": 0.1, "reason": "cheap"}),
    ]
    assert broken(limits, rows) == {1: ["old", "older", "cheap"]}
    assert (
        broken(limits, rows.slice(0, 1).set_column(2, "price", pa.array([Decimal("0.10")], SCHEMA.field(2).type))) == {}
    )
