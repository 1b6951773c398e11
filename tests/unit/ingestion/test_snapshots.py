"""Snapshots: an id is a function of the rows, an unchanged month is not written again, an altered one is refused."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import IngestError, IntegrityError
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings.pipeline import Column, ModelPipeline
from rempart.sites.port import Site
from tests.memory_site import MemorySite
from tests.snapshots_of_tables import Drawing
from tests.unit.ingestion.conftest import READINGS

ROWS = [
    f"m{m},2026-{month:02d}-0{day},{m}.5,{day},base,note {m}" for m in (1, 2) for month in (1, 2) for day in (1, 2, 3)
]


@pytest.fixture
def site(platform: Platform) -> Site:
    return platform.sites["primary"]


@pytest.fixture
def snapshot(
    platform: Platform, readings: ModelPipeline, site: Site, deliver: Callable[..., None]
) -> snapshots.Snapshot:
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
    platform: Platform, readings: ModelPipeline, site: Site, snapshot: snapshots.Snapshot, deliver: Callable[..., None]
) -> None:
    deliver("2.csv", "m9,2026-02-09,1,1,base,")
    assert ingest(platform, readings).changed
    after = snapshots.current(site, "lake", "readings")
    assert after is not None
    assert after.parts[:2] == snapshot.parts  # the late row has a part of its own
    assert [(part.partition, part.rows) for part in after.parts[2:]] == [("2026-02", 1)]
    assert after.partitions[0] == snapshot.partitions[0]
    assert after.partitions[1] != snapshot.partitions[1]
    assert after.previous == snapshot.id
    assert after.rows == 13
    changed = snapshots.changed_partitions(snapshot, after)
    assert changed == snapshots.changed_partitions(after, snapshot) == ("2026-02",)
    site.delete("lake", after.parts[0].key)  # a part of another month is not read
    assert {day.month for day in snapshots.rows(site, "lake", after, changed).read_all()["day"].to_pylist()} == {2}
    assert snapshots.changed_partitions(snapshot, replace(after, key=("day", "meter"))) is None


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
    altered = json.loads(json.dumps(manifest))
    altered["content"]["partitions"][0][1] += 1
    site.write("lake", key, json.dumps(altered).encode())
    with pytest.raises(IntegrityError, match="does not match its id"):
        snapshots.read(site, "lake", "readings", snapshot.id)
    manifest["parts"][0][2] += 1
    site.write("lake", key, json.dumps(manifest).encode())
    with pytest.raises(IntegrityError, match="parts do not match its partitions"):
        snapshots.read(site, "lake", "readings", snapshot.id)
    site.write("lake", key, b"{}")
    with pytest.raises(IntegrityError, match="not a manifest"):
        snapshots.current(site, "lake", "readings")


def test_a_snapshot_of_a_release_with_another_format_names_both_and_asks_for_no_copy(
    site: Site, snapshot: snapshots.Snapshot
) -> None:
    key = f"snapshots/readings/{snapshot.id}.json"
    manifest = json.loads(site.read("lake", key))
    site.write("lake", key, json.dumps(manifest | {"format": 1}).encode())
    with pytest.raises(IntegrityError, match="it has format 1, but this release reads format 3") as refused:
        snapshots.current(site, "lake", "readings")
    assert "docs/how-to/upgrade.md" in refused.value.hint and "replica" not in refused.value.hint


def test_before_the_first_there_is_none() -> None:
    site = MemorySite()
    site.ensure_bucket("lake", versioned=True)
    assert snapshots.current(site, "lake", "readings") is None


def with_columns(pipeline: ModelPipeline, **columns: Column | None) -> ModelPipeline:
    merged = {**pipeline.columns, **columns}
    kept = {name: column for name, column in merged.items() if column}
    return pipeline.model_copy(update={"schema_": kept})


def test_a_new_nullable_column_is_null_in_earlier_rows(
    platform: Platform, readings: ModelPipeline, site: Site, snapshot: snapshots.Snapshot, deliver: Callable[..., None]
) -> None:
    wider = with_columns(readings, roof=Column(type="integer", known="read", nullable=True), note=None)
    deliver("2.csv", "m9,2026-03-09,1,1,base,5", header="meter,day,kwh,people,tariff,roof\n")
    with pytest.raises(IngestError, match=r"- note, not declared as removed \(declared: \+ roof: integer"):
        ingest(platform, wider)
    ingest(platform, wider.model_copy(update={"removed_columns": ["note"]}))
    after = snapshots.current(site, "lake", "readings")
    assert after is not None
    table = snapshots.load_table(site, "lake", after)
    assert table["roof"].to_pylist() == [None] * 12 + [5]
    assert "note" not in table.column_names


def test_another_key_that_earlier_rows_have_twice_is_refused_and_one_that_they_have_once_is_taken(
    platform: Platform, readings: ModelPipeline, site: Site, snapshot: snapshots.Snapshot, deliver: Callable[..., None]
) -> None:
    deliver("2.csv", "m9,2026-03-09,1,1,base,note 9")
    with pytest.raises(IngestError, match=f"{snapshot.id} .*several rows with one key") as error:
        ingest(platform, readings.model_copy(update={"key": ["meter"]}))
    assert "key: [meter, day]" in error.value.hint
    assert snapshots.current(site, "lake", "readings") == snapshot
    assert ingest(platform, readings.model_copy(update={"key": ["day", "meter"]})).total_rows == snapshot.rows + 1


def test_parts_of_other_rows_are_refused_although_the_manifest_names_them(
    site: Site, snapshot: snapshots.Snapshot
) -> None:
    """The id commits to the rows and not to the parts, so the rows are hashed when they are loaded."""
    swapped = replace(snapshot.parts[0], sha256=snapshot.parts[1].sha256, key=snapshot.parts[1].key)
    key = f"snapshots/readings/{snapshot.id}.json"
    site.write("lake", key, snapshots.manifest(replace(snapshot, parts=(swapped, snapshot.parts[1]))))
    shown = snapshots.read(site, "lake", "readings", snapshot.id)
    with pytest.raises(IntegrityError, match="rows do not match the hash"):
        snapshots.load_table(site, "lake", shown)


def test_a_partition_whose_rows_were_altered_is_not_added_to_nor_brought_to_another_schema(
    platform: Platform, readings: ModelPipeline, site: Site, snapshot: snapshots.Snapshot, deliver: Callable[..., None]
) -> None:
    swapped = replace(snapshot.parts[0], sha256=snapshot.parts[1].sha256, key=snapshot.parts[1].key)
    key = f"snapshots/readings/{snapshot.id}.json"
    site.write("lake", key, snapshots.manifest(replace(snapshot, parts=(swapped, snapshot.parts[1]))))
    deliver("2.csv", "m9,2026-01-09,1,1,base,")
    with pytest.raises(IntegrityError, match="rows do not match the hash"):
        ingest(platform, readings)
    wider = with_columns(readings, roof=Column(type="integer", known="read", nullable=True))
    deliver("2.csv", "m9,2026-01-09,1,1,base,,5", header="meter,day,kwh,people,tariff,note,roof\n")
    with pytest.raises(IntegrityError, match="rows do not match the hash"):
        ingest(platform, wider)


days = st.dates(date(2026, 1, 1), date(2026, 3, 31))
rows_of_some = st.lists(
    st.tuples(st.sampled_from("abc"), days, st.floats(0, 100)), max_size=12, unique_by=lambda r: r[:2]
)


@settings(max_examples=10, deadline=None)
@given(rows_of_some, st.randoms(), st.integers(0, 2))
def test_the_same_rows_have_the_same_id_in_any_order_of_deliveries_and_after_compaction(
    rows: list[tuple[str, date, float]], random: Random, small_parts: int
) -> None:
    spec = ModelPipeline.model_validate(yaml.safe_load(READINGS))
    ids = set()
    for number in range(3):
        mixed = random.sample(rows, len(rows))
        cuts = sorted(random.randint(0, len(rows)) for _ in range(3))
        with tempfile.TemporaryDirectory() as place:
            drawing = Drawing(spec, Path(place), small_parts=small_parts if number else 99)
            snapshot: snapshots.Snapshot | None = None
            for start, end in itertools.pairwise([0, *cuts, len(rows)]):
                snapshot, _ = drawing.add(snapshot, table_of(mixed[start:end]))
                assert snapshot.rows == end
                most = small_parts if number else 99
                assert all(n <= max(most, 1) for n in Counter(p.partition for p in snapshot.parts).values())
            stored = [row for part in snapshot.parts for row in pq.read_table(drawing.files[part.sha256]).to_pylist()]
            assert sorted(stored, key=str) == sorted(table_of(rows).to_pylist(), key=str)
            ids.add(snapshot.id)
            if rows and not number:
                meter, day, kwh = rows[0]
                other, _ = drawing.add(None, table_of([(meter, day, kwh + 1), *rows[1:]]))
                assert other.id != snapshot.id
    assert len(ids) == 1


def table_of(rows: list[tuple[str, date, float]]) -> pa.Table:
    spec = ModelPipeline.model_validate(yaml.safe_load(READINGS))
    plain = [
        {"meter": meter, "day": day, "kwh": kwh, "people": None, "tariff": "base", "note": None}
        for meter, day, kwh in rows
    ]
    return pa.Table.from_pylist(plain, schema=snapshots.arrow_schema(snapshots.snapshot_columns(spec)))
