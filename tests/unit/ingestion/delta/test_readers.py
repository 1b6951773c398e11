"""Polars, and DuckDB through deltalake, read the table as the snapshot has it: every type, null, version and column."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pytest

from rempart.flows.ingestion import delta_log
from rempart.ingestion import snapshots
from rempart.ingestion.delta import checkpoint, log
from tests.delta_tables import COLUMNS, NAME, NOON, rows, snapshot, stored, to_disk
from tests.memory_site import MemorySite


@pytest.fixture
def site() -> MemorySite:
    made = MemorySite()
    made.ensure_bucket("lake", versioned=True)
    return made


def by_polars(root: Path) -> pa.Table:
    return pl.read_delta(str(root)).sort("id").to_arrow()


def by_duckdb(root: Path) -> pa.Table:
    table = deltalake.DeltaTable(str(root)).to_pyarrow_dataset()
    with duckdb.connect() as connection:
        return connection.register("trips", table).execute("SELECT * FROM trips ORDER BY id").to_arrow_table()


def test_both_readers_give_every_type_and_null_back(site: MemorySite, tmp_path: Path) -> None:
    wanted = rows(*range(1, 9))
    delta_log.publish(site, "lake", stored(site, rows(1, 2, 3), rows(4, 5, 6, 7, 8)))
    root = to_disk(site, tmp_path)
    for found in (by_polars(root), by_duckdb(root)):
        assert found.to_pylist() == wanted.to_pylist()
    fields = {field.name: field for field in deltalake.DeltaTable(str(root)).schema().fields}
    assert {name: field.nullable for name, field in fields.items()} == {n: c.nullable for n, c in COLUMNS.items()}
    assert str(fields["fare"].type) == 'PrimitiveType("decimal(12,2)")'
    assert str(fields["at"].type) == 'PrimitiveType("timestamp")'


def test_a_reader_follows_versions_and_sees_only_the_newest_parts(site: MemorySite, tmp_path: Path) -> None:
    first = stored(site, rows(1, 2), rows(3))
    assert delta_log.publish(site, "lake", first) == 0
    table = deltalake.DeltaTable(str(to_disk(site, tmp_path)))
    second = stored(site, rows(1, 2), rows(3, 4), number=1)  # the second part was written anew
    assert delta_log.publish(site, "lake", second) == 1
    to_disk(site, tmp_path)
    table.update_incremental()
    assert table.version() == 1 and len(table.file_uris()) == 2
    assert by_polars(tmp_path / snapshots.folder(NAME))["id"].to_pylist() == [1, 2, 3, 4]
    assert deltalake.DeltaTable(str(tmp_path / snapshots.folder(NAME)), version=0).to_pyarrow_table().num_rows == 3


def test_an_added_column_is_null_in_older_parts(site: MemorySite, tmp_path: Path) -> None:
    first = stored(site, rows(1, 2))
    delta_log.publish(site, "lake", first)
    wider = dict(COLUMNS) | {"tip": snapshots.SnapshotColumn("number", True)}
    delta_log.publish(site, "lake", snapshot(first.parts, 1, wider))
    root = to_disk(site, tmp_path)
    for found in (by_polars(root), by_duckdb(root)):
        assert found["tip"].to_pylist() == [None, None] and found["id"].to_pylist() == [1, 2]


def test_a_reader_begins_at_a_checkpoint(site: MemorySite, tmp_path: Path) -> None:
    made = []
    for number in range(checkpoint.EVERY + 3):
        made.append(rows(number + 1))
        assert delta_log.publish(site, "lake", stored(site, *made, number=number)) == number
    _, checkpoints = delta_log.read(site, "lake", NAME)
    assert checkpoints == [checkpoint.EVERY]
    for version in range(checkpoint.EVERY):  # as another program cleans up
        site.delete("lake", log.version_key(NAME, version))
    root = to_disk(site, tmp_path)
    for found in (by_polars(root), by_duckdb(root)):
        assert found.to_pylist() == rows(*range(1, len(made) + 1)).to_pylist()


def test_after_a_rebuild_readers_see_the_cut_rows_alone_and_nothing_of_before(site: MemorySite, tmp_path: Path) -> None:
    for number, ids in enumerate([(1, 2), (1, 2, 4), (1, 2, 4, 5)]):
        delta_log.publish(site, "lake", stored(site, rows(*ids), number=number))
    table = deltalake.DeltaTable(str(to_disk(site, tmp_path / "before")))
    cut = stored(site, rows(1, 4, 5), number=7)
    deleted = delta_log.drop_before(
        site, "lake", cut.pipeline, delta_log.restart(site, "lake", cut), NOON + timedelta(hours=1)
    )
    assert deleted.keys == tuple(log.version_key(NAME, version) for version in range(3))
    assert {info.key for info in site.versions("lake", log.folder(NAME))} == {
        checkpoint.checkpoint_key(NAME, 3),
        log.version_key(NAME, 3),
    }
    root = to_disk(site, tmp_path / "after")
    for found in (by_polars(root), by_duckdb(root)):
        assert found.to_pylist() == rows(1, 4, 5).to_pylist()
    to_disk(site, tmp_path / "before")  # a reader that goes on from where it was
    table.update_incremental()
    assert table.to_pyarrow_table().num_rows == 3
    assert delta_log.drop_before(site, "lake", cut.pipeline, delta_log.restart(site, "lake", cut), NOON).versions == 0
    assert delta_log.publish(site, "lake", stored(site, rows(1, 4, 5), rows(7), number=8)) == 4
    assert by_polars(to_disk(site, tmp_path / "after"))["id"].to_pylist() == [1, 4, 5, 7]
