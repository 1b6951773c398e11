"""Snapshots: an id is a function of the rows, an unchanged month is not written again, an altered one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from rempart.errors import IngestError, IntegrityError
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings.pipeline import Column, Pipeline
from rempart.sites.port import Site
from tests.memory_site import MemorySite

ROWS = [
    f"m{m},2026-{month:02d}-0{day},{m}.5,{day},base,note {m}" for m in (1, 2) for month in (1, 2) for day in (1, 2, 3)
]


@pytest.fixture
def site(platform: Platform) -> Site:
    return platform.sites["primary"]


@pytest.fixture
def snapshot(platform: Platform, readings: Pipeline, site: Site, deliver: Callable[..., None]) -> snapshots.Snapshot:
    deliver("1.csv", *ROWS)
    ingest(platform, readings)
    found = snapshots.current(site, "lake", "readings")
    assert found is not None
    return found


def test_the_table_has_the_declared_types_and_every_row(site: Site, snapshot: snapshots.Snapshot) -> None:
    table = snapshots.load_table(site, "lake", snapshot)
    assert table.num_rows == snapshot.rows == len(ROWS)
    assert [(f.name, f.type, f.nullable) for f in table.schema] == [
        ("meter", pa.string(), False),
        ("day", pa.date32(), False),
        ("kwh", pa.float64(), False),
        ("people", pa.int64(), True),
        ("tariff", pa.string(), False),
        ("note", pa.string(), True),
    ]
    assert [(p.partition, p.rows) for p in snapshot.parts] == [("2026-01", 6), ("2026-02", 6)]
    assert table["day"].to_pylist()[0] == date(2026, 1, 1)


def test_a_month_without_new_rows_keeps_its_part(
    platform: Platform, readings: Pipeline, site: Site, snapshot: snapshots.Snapshot, deliver: Callable[..., None]
) -> None:
    deliver("2.csv", "m9,2026-02-09,1,1,base,")
    assert ingest(platform, readings).changed
    after = snapshots.current(site, "lake", "readings")
    assert after is not None
    assert after.parts[0] == snapshot.parts[0]
    assert after.parts[1] != snapshot.parts[1]
    assert after.previous == snapshot.id
    assert after.rows == 13


def test_everything_kept_carries_its_retention(site: Site, snapshot: snapshots.Snapshot) -> None:
    assert snapshot.retain_until == date(2027, 3, 31)  # 395 days for personal data
    for prefix in ("raw/", "snapshots/readings/parts/", f"snapshots/readings/{snapshot.id}"):
        found = list(site.list("lake", prefix))
        assert found
        for info in found:
            assert site.head("lake", info.key).metadata["retain-until"] == "2027-03-31"


def test_an_altered_part_or_manifest_is_refused(site: Site, snapshot: snapshots.Snapshot) -> None:
    part = snapshot.parts[0]
    body = bytearray(site.read("lake", part.key))
    body[len(body) // 2] ^= 1
    site.write("lake", part.key, bytes(body))
    with pytest.raises(IntegrityError):
        snapshots.load_table(site, "lake", snapshot)

    key = f"snapshots/readings/{snapshot.id}.json"
    manifest = json.loads(site.read("lake", key))
    manifest["content"]["parts"][0][2] += 1
    site.write("lake", key, json.dumps(manifest).encode())
    with pytest.raises(IntegrityError, match="does not match its id"):
        snapshots.read(site, "lake", "readings", snapshot.id)
    site.write("lake", key, b"{}")
    with pytest.raises(IntegrityError, match="not a manifest"):
        snapshots.current(site, "lake", "readings")


def test_before_the_first_there_is_none() -> None:
    site = MemorySite()
    site.ensure_bucket("lake", versioned=True)
    assert snapshots.current(site, "lake", "readings") is None


def with_columns(pipeline: Pipeline, **columns: Column | None) -> Pipeline:
    merged = {**pipeline.columns, **columns}
    kept = {name: column for name, column in merged.items() if column}
    return pipeline.model_copy(update={"schema_": kept})


def test_a_new_nullable_column_is_null_in_earlier_rows(
    platform: Platform, readings: Pipeline, site: Site, snapshot: snapshots.Snapshot, deliver: Callable[..., None]
) -> None:
    wider = with_columns(readings, roof=Column(type="integer", known="read", nullable=True), note=None)
    deliver("2.csv", "m9,2026-03-09,1,1,base,5", header="meter,day,kwh,people,tariff,roof\n")
    ingest(platform, wider)
    after = snapshots.current(site, "lake", "readings")
    assert after is not None
    table = snapshots.load_table(site, "lake", after)
    assert table["roof"].to_pylist() == [None] * 12 + [5]
    assert "note" not in table.column_names


@pytest.mark.parametrize(
    ("column", "what"),
    [
        ({"roof": Column(type="integer", known="read")}, "lacks column 'roof', which is not nullable"),
        (
            {"people": Column(type="number", known="read", nullable=True)},
            "'people' as integer, but the pipeline declares number",
        ),
    ],
)
def test_a_schema_change_that_needs_a_decision_is_refused(
    readings: Pipeline, site: Site, snapshot: snapshots.Snapshot, column: dict[str, Column], what: str
) -> None:
    table = snapshots.load_table(site, "lake", snapshot)
    with pytest.raises(IngestError, match=what) as error:
        snapshots.conform(table, snapshot, with_columns(readings, **column))
    assert "readings.yaml" in error.value.hint


def test_the_id_depends_on_content_alone(readings: Pipeline, site: Site, snapshot: snapshots.Snapshot) -> None:
    table = snapshots.load_table(site, "lake", snapshot)
    later, parts = snapshots.draw_up(
        readings,
        None,
        table.take(list(reversed(range(table.num_rows)))),
        (),
        now=datetime(2030, 1, 1, tzinfo=UTC),
        retain_until=date(2031, 1, 1),
    )
    assert later.id == snapshot.id
    assert [part for part, _ in parts] == list(snapshot.parts)
