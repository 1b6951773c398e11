"""Timestamps, decimals and arrays from a delivery to a snapshot that is read back, in partitions of hours."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, erasing, snapshots
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.conftest import READINGS

SPEC = yaml.safe_load(READINGS) | {
    "source": {
        "prefix": "readings/",
        "delimiter": ";",
        "decimal": ",",
        "dates": "DD.MM.YYYY",
        "time_zone": "Europe/Berlin",
    },
    "key": ["meter", "at"],
    "partition_by": "at",
    "partition_every": "hour",
    "moments": {"read": {"column": "at"}},
    "schema": {
        "meter": {"type": "string", "known": "read"},
        "at": {"type": "timestamp", "known": "read"},
        "kwh": {"type": "number", "known": "read"},
        "price": {"type": "decimal", "precision": 8, "scale": 2, "known": "read", "nullable": True},
        "levels": {"type": "array", "items": "number", "separator": "|", "known": "read", "nullable": True},
        "tariff": {"type": "category", "known": "read", "values": ["base", "night"]},
    },
    "features": {"own": {"kind": "row", "at": "read", "columns": ["tariff"]}},
    "holdout": {"column": "at", "start": "2026-02-01"},
}
HEADER = "meter;at;kwh;price;levels;tariff\n"
ROWS = [
    "m1;01.01.2026 01:30:00;1,5;12,30;1|2,5;base",
    "m1;01.01.2026 02:30:00;1;;;night",
    "m2;29.03.2026 02:30:00;1;;;night",
    "m1;01.01.2026 01:30:00;1,5;12,30;1|2,5;base",
    "m1;01.01.2026 01:30:00;1,5;12,31;1|2,5;base",
]


@pytest.fixture
def spec() -> ModelPipeline:
    return ModelPipeline.model_validate(SPEC)


def test_lists_of_json_and_parquet_are_arrays_and_make_the_same_snapshot(
    platform: Platform, spec: ModelPipeline
) -> None:
    schema = {**SPEC["schema"], "levels": {"type": "array", "items": "number", "known": "read", "nullable": True}}
    site, found = platform.sites["primary"], []
    rows: list[dict[str, Any]] = [
        {
            "meter": f"m{i}",
            "at": f"2026-01-01T00:{i}0:00Z",
            "kwh": 1.5,
            "price": "2.50",
            "levels": levels,
            "tariff": "base",
        }
        for i, levels in enumerate([[1.0, 2.5], [], None, [1.0, None]])
    ]
    table = pa.Table.from_pylist(rows)
    at = pa.array([datetime(2026, 1, 1, 0, 10 * i, tzinfo=UTC) for i in range(4)], pa.timestamp("us", "UTC"))
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(1, "at", at), sink)
    for name, body in (
        ("1.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()),
        ("2.parquet", bytes(sink.getvalue())),
    ):
        source = {"prefix": "readings/", "format": name.partition(".")[2]}
        site.write("landing", f"readings/{name}", body)
        found.append(ingest(platform, ModelPipeline.model_validate({**SPEC, "schema": schema, "source": source})))
    first, second = found
    assert (first.accepted, first.quarantined, second.accepted) == (3, 1, 0)
    assert second.snapshot == first.snapshot
    snapshot = snapshots.current(site, "lake", "readings")
    assert snapshot and snapshots.load_table(site, "lake", snapshot)["levels"].to_pylist() == [[1.0, 2.5], [], None]
    reasons = [set(o["reasons"]) for o in deliveries.outcomes(site, "lake", "readings")]
    assert all("levels: not an array of numbers" in told for told in reasons)


def test_times_decimals_and_arrays_come_back_as_they_were_meant(platform: Platform, spec: ModelPipeline) -> None:
    site = platform.sites["primary"]
    site.write("landing", "readings/1.csv", (HEADER + "\n".join(ROWS) + "\n").encode())
    ingest(platform, spec)
    late = "m3;01.01.2026 01:45:00;2;0,05;;base"
    site.write("landing", "readings/2.csv", (HEADER + late + "\n").encode())
    ingest(platform, spec)
    found = snapshots.current(site, "lake", "readings")
    assert found and [content.partition for content in found.partitions] == ["2026-01-01T00", "2026-01-01T01"]
    assert snapshots.load_table(site, "lake", found).to_pylist() == [
        {
            "meter": "m1",
            "at": datetime(2026, 1, 1, 0, 30, tzinfo=UTC),
            "kwh": 1.5,
            "price": Decimal("12.30"),
            "levels": [1.0, 2.5],
            "tariff": "base",
        },
        {
            "meter": "m3",
            "at": datetime(2026, 1, 1, 0, 45, tzinfo=UTC),
            "kwh": 2.0,
            "price": Decimal("0.05"),
            "levels": None,
            "tariff": "base",
        },
        {
            "meter": "m1",
            "at": datetime(2026, 1, 1, 1, 30, tzinfo=UTC),
            "kwh": 1.0,
            "price": None,
            "levels": None,
            "tariff": "night",
        },
    ]
    (first,) = (o for o in deliveries.outcomes(site, "lake", "readings") if o["file"] == "1.csv")
    assert (first["accepted"], first["quarantined"]) == (2, 3)
    assert {"duplicate of an accepted row", "its key was accepted before with other values"} < set(first["reasons"])
    # the zone of today is another one: the delivery's own zone tells which row it is
    source = {**SPEC["source"], "time_zone": "UTC", "dates": "YYYY-MM-DD"}
    today = ModelPipeline.model_validate({**SPEC, "source": source})
    read_by = deliveries.read_by(first, today)
    (key,) = erasing.typed_keys([["m1", "01.01.2026 01:30:00"]], read_by)
    assert key == ("m1", datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
    assert erasing.typed_keys([["m1", "01.01.2026 01:30:00"]], today) == [None]
