"""Rows of a Parquet delivery are found by the types of its keys, whatever dialect the source declares."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.ingestion import erasing
from rempart.settings.pipeline import ModelPipeline
from tests.unit.features.stays import stays
from tests.unit.ingestion.test_typed_snapshots import SPEC


def of_parquet(pipeline: ModelPipeline, **source: Any) -> ModelPipeline:
    return pipeline.model_copy(
        update={"source": pipeline.source.model_copy(update={"format": "parquet", "decimal": ",", **source})}
    )


READINGS = of_parquet(ModelPipeline.model_validate(SPEC))
STAYS = of_parquet(stays().model_copy(update={"key": ["price", "arrival"]}), dates="DD.MM.YYYY")
LOCAL, FIRST = datetime(2026, 1, 1, 1, 30), datetime(2026, 1, 1, 0, 30, tzinfo=UTC)  # noqa: DTZ001 - of the zone
STAY = (1.5, date(2026, 1, 2))


@pytest.mark.parametrize(
    ("pipeline", "rows", "erased"),
    [
        (
            READINGS,
            pa.table({"meter": ["m0", "m1"], "at": pa.array([LOCAL, LOCAL], pa.timestamp("ns"))}),
            ("m1", FIRST),
        ),
        (STAYS, pa.table({"price": [2.5, 1.5], "arrival": pa.array([STAY[1], STAY[1]], pa.date32())}), STAY),
        (STAYS, pa.table({"price": [" 2,5", " 1,5"], "arrival": ["02.01.2026", "02.01.2026"]}), STAY),
    ],
    ids=["nanoseconds", "dates and floats", "text"],
)
def test_typed_keys_of_a_parquet_delivery_are_found(
    tmp_path: Path, pipeline: ModelPipeline, rows: pa.Table, erased: tuple[Any, ...]
) -> None:
    pq.write_table(rows, tmp_path / "delivery")
    cut = erasing.cut_delivery(tmp_path / "delivery", pipeline, lambda key: tuple(key) == erased, tmp_path / "rest")
    assert (cut.rows, cut.unread, cut.lines) == (1, 0, {2}) and cut.file
    assert pq.read_table(cut.file).equals(rows.slice(0, 1))


def test_rows_in_the_quarantine_of_a_parquet_delivery_are_found_as_typed_values_and_as_text(tmp_path: Path) -> None:
    raws = [
        '{"price": 1.5, "arrival": "2026-01-02"}',
        '{"price": "1,5", "arrival": "02.01.2026"}',
        '{"price": 2.5, "arrival": "2026-01-02"}',
        '{"price": null, "arrival": "2026-01-02"}',
    ]
    numbers = pa.array(range(1, 5), pa.int64())
    pq.write_table(pa.table({"source_line": numbers, "reason": ["why"] * 4, "raw": raws}), tmp_path / "stored")
    cut = erasing.cut_quarantine(tmp_path / "stored", None, STAYS, lambda key: tuple(key) == STAY, tmp_path / "left")
    assert (cut.rows, cut.unread) == (2, 1) and cut.file
    assert pq.read_table(cut.file)["raw"].to_pylist() == raws[2:]
