"""Training sets from Parquet beside those of PostgreSQL: Feast's own join, the join by index, and DuckDB."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv as csv
import pytest
import yaml

from rempart.errors import FeatureError, IntegrityError
from rempart.features import offline, quick_feast, removal, repository, training_set
from rempart.features.databases import FeatureDatabases
from rempart.features.parquet_store import joining, scratch, training_sets
from rempart.features.parquet_store.scratch import ScratchDatabase
from rempart.features.parquet_store.training_sets import SnapshotRows
from rempart.flows.training import train
from rempart.flows.training.materialize import materialize, materialize_rows
from rempart.ingestion import snapshots
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.settings.config import project_root
from rempart.settings.pipelines import named, with_model
from tests.derived_project import World, changed, write_project
from tests.integration.test_features import NOW, arrow, random_rows
from tests.integration.test_labels import world  # noqa: F401 # a fixture
from tests.labelled_project import ORDERS, PAYMENTS, order, orders, payment
from tests.labelled_project import csv as lines
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores

Row = dict[str, Any]
START = datetime(2026, 3, 1, tzinfo=UTC)
MOMENT = pa.timestamp("us", "UTC")
ASKED = {"number": pa.int64(), "house": pa.string(), "room": pa.int64(), "event_timestamp": MOMENT}
VIEWS = {"groups": (("house",), 7200), "pairs": (("house", "room"), 0), "rooms": (("room",), 3600)}
"""The views of a repository that Feast's own API made, with keys and seconds until a value is too old."""


@dataclass
class Stores:
    """One content in a PostgreSQL and in a scratch database."""

    databases: FeatureDatabases
    place: ScratchDatabase

    def store(self, connection: psycopg.Connection[Any], name: str, table: pa.Table) -> None:
        kinds = {pa.string(): "text", pa.int64(): "bigint", MOMENT: "timestamptz"}
        columns = ", ".join(f"{field.name} {kinds[field.type]}" for field in table.schema)
        connection.execute(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({columns})".encode())
        with connection.cursor() as cursor, cursor.copy(f"COPY {name} FROM STDIN".encode()) as copy:
            for values in table.to_pylist():
                copy.write_row(values.values())

    def fill(self, tables: dict[str, pa.Table]) -> None:
        with (
            psycopg.connect(self.databases.offline.postgresql_url()) as opened,
            scratch.created(self.place, "fill") as connection,
        ):
            for name, table in tables.items():
                self.store(opened, name, table)
                connection.register("given", table)
                connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")

    @contextmanager
    def opened(self, *, parquet: bool) -> Iterator[Any]:
        config = {"type": training_sets.STORE, "folder": str(self.place.folder)} if parquet else None
        with repository.feature_store(self.databases, stays("of_feast"), offline_store=config) as store:
            yield store


def random_tables(dice: random.Random, *, ties: bool) -> dict[str, pa.Table]:
    """Few entities and hours: values that came late, none, of nobody, NULL; of one moment only with `ties`."""

    def any_row() -> Row:
        return {
            "house": dice.choice([None, "a", "ab", "", "a|b"]),
            "room": dice.choice([None, 1, 2, 12]),
            "event_timestamp": START + timedelta(minutes=30 * dice.randrange(20)),
        }

    made = {}
    for view in VIEWS:
        rows = [any_row() | {"value": dice.choice([None, *range(50)])} for _ in range(60)]
        if not ties:
            rows = list({(row["house"], row["room"], row["event_timestamp"]): row for row in rows}.values())
            by = VIEWS[view][0]
            rows = list({(*(row[key] for key in by), row["event_timestamp"]): row for row in rows}.values())
        schema = pa.schema([*list(ASKED.items())[1:], ("value", pa.int64())])
        made[f"stored_{view}"] = pa.Table.from_pylist(rows, schema)
    asked = [{"number": number} | any_row() for number in range(80)]
    made["asked"] = pa.Table.from_pylist(asked, pa.schema(ASKED.items()))
    return made


def rows_of(job: Any) -> tuple[list[str], list[tuple[Any, ...]]]:
    table = job.to_arrow()
    table = table.set_column(
        table.column_names.index("event_timestamp"), "event_timestamp", table["event_timestamp"].cast(MOMENT)
    )
    return table.column_names, sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


@pytest.fixture(scope="module")
def stores(feature_databases: FeatureDatabases, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """A repository whose views have one key and two, in Feast's registry."""
    from feast import Entity, FeatureView, Field
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
    from feast.types import Int64, String
    from feast.value_type import ValueType

    made = Stores(feature_databases, ScratchDatabase(tmp_path_factory.mktemp("parquet")))
    made.fill(random_tables(random.Random(1), ties=False))  # noqa: S311 - test data
    kinds = {"house": (ValueType.STRING, String), "room": (ValueType.INT64, Int64)}
    entities = {name: Entity(name=name, join_keys=[name], value_type=kind) for name, (kind, _) in kinds.items()}
    views = [
        FeatureView(
            name=view,
            entities=[entities[key] for key in keys],
            ttl=timedelta(seconds=ttl),
            schema=[*(Field(name=key, dtype=kinds[key][1]) for key in keys), Field(name="value", dtype=Int64)],
            source=PostgreSQLSource(name=view, table=f"stored_{view}", timestamp_field="event_timestamp"),
            online=False,
        )
        for view, (keys, ttl) in VIEWS.items()
    ]
    with made.opened(parquet=False) as store:
        store.apply([*entities.values(), *views])
    return made


def test_three_joins_give_the_same_rows_of_random_data(stores: Stores, tmp_path: Path) -> None:
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStore

    features, query = [f"{view}:value" for view in VIEWS], "SELECT * FROM asked"
    for seed in range(4):
        ties = seed == 3
        tables = random_tables(random.Random(seed), ties=ties)  # noqa: S311 - test data
        (tmp_path / str(seed)).mkdir()
        now = replace(stores, place=ScratchDatabase(tmp_path / str(seed)))
        now.fill(tables)
        with now.opened(parquet=True) as store:
            found = rows_of(store.get_historical_features(query, features, full_feature_names=True))
            frame = tables["asked"].to_pandas()
            assert rows_of(store.get_historical_features(frame, features, full_feature_names=True)) == found
        with now.opened(parquet=False) as store:
            assert rows_of(store.get_historical_features(query, features, full_feature_names=True)) == found
            if not ties:  # Feast's own takes any of them
                views = [store.get_feature_view(view) for view in VIEWS]
                own = PostgreSQLOfflineStore.get_historical_features(
                    store.config, views, features, query, store.registry, "of_feast", full_feature_names=True
                )
                names, rows = rows_of(own)
                assert (names, len(rows)) == (found[0], 80)
                assert rows == found[1]
        assert (len(found[1]) > 80) == ties
        assert any(row[-1] is not None for row in found[1])


def test_what_the_store_does_not_do_says_where_it_is_done(stores: Stores) -> None:
    with stores.opened(parquet=True) as store:
        with pytest.raises(FeatureError, match="needs rows with their moments"):
            store.get_historical_features(features=["groups:value"], start_date=START, end_date=NOW)
        with pytest.raises(FeatureError, match="only joins"):
            store._get_provider().offline_store.pull_latest_from_table_or_query()


def same(left: pa.Table, right: pa.Table) -> None:
    """Compare two training sets, floats to the rounding of a sum."""
    assert left.schema == right.schema
    for name in left.column_names:
        ours, other = left[name].combine_chunks(), right[name].combine_chunks()
        if pa.types.is_floating(ours.type):
            assert ours.is_null().equals(other.is_null()), name
            np.testing.assert_allclose(
                ours.to_numpy(zero_copy_only=False), other.to_numpy(zero_copy_only=False), rtol=1e-9, err_msg=name
            )
        else:
            assert ours.equals(other), name


def test_the_demos_bookings_give_the_training_set_of_postgresql(feature_databases: FeatureDatabases) -> None:
    pipeline = with_model(named("hotel_bookings"))
    schema = arrow_schema(snapshot_columns(pipeline))
    rows = csv.read_csv(
        project_root() / "data/hotel_bookings.csv.gz",
        convert_options=csv.ConvertOptions(
            column_types=schema, include_columns=schema.names, null_values=[""], strings_can_be_null=True
        ),
    )
    assert rows.num_rows > 15_000
    materialize_rows(feature_databases, pipeline, rows.to_reader(), "s1", NOW)
    made = training_sets.point_in_time(feature_databases, pipeline, SnapshotRows(rows.to_reader(5_000), "s1"))
    stored = training_set.point_in_time(feature_databases, pipeline)
    assert (made.snapshot, made.table.num_rows) == ("s1", rows.num_rows)
    same(made.table, stored.table)
    removal.remove(feature_databases, pipeline)  # another module loads a pipeline of this name


def test_a_folder_of_a_training_set_is_gone_at_its_end(
    feature_databases: FeatureDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_feast.load()  # whose import makes a folder for temporary files, too
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipeline, rows = stays("scratched"), arrow(random_rows(2, 40))
    materialize_rows(feature_databases, pipeline, rows.to_reader(), "s1", NOW)
    with training_sets.opened(feature_databases, pipeline, SnapshotRows(rows.to_reader(), "s1")) as (loaded, reader, _):
        assert loaded.examples == 40
        (folder,) = tmp_path.iterdir()
        assert (folder.stat().st_mode & 0o777) == 0o700
        assert reader.read_all().num_rows == 40
    assert list(tmp_path.iterdir()) == []
    declared = [replace(view, relation=view.relation.strip('"')) for view in joining.of_pipeline(pipeline)]
    assert list(training_sets.asked_views(feature_databases, pipeline)) == declared
    none = SnapshotRows(rows.slice(0, 0).to_reader(), "s0")
    made = training_sets.point_in_time(feature_databases, pipeline, none).table
    assert (made.num_rows, made.schema.names) == (0, list(training_set.kinds(pipeline)))


def test_a_training_set_whose_sums_duckdb_cannot_hold_is_joined_in_postgresql(
    world: World,  # noqa: F811 # the fixture
    feature_databases: FeatureDatabases,
    caplog: pytest.LogCaptureFixture,
) -> None:
    past = {"kind": "trailing", "at": "order", "by": ["country"], "windows": ["3d"], "mean": ["amount"]}
    features = yaml.safe_load(ORDERS)["features"] | {"past": past}
    write_project(project_root(), changed(ORDERS, features=features), PAYMENTS, sql={})
    world.deliver("orders", "one", lines(order(n, n, amount=1e-12 * (n + 1)) for n in range(20)))
    world.deliver("payments", "one", lines(payment(n, n + 1, paid=n % 3 > 0) for n in range(20)))
    loaded = materialize(world.platform, orders())
    assert world.platform.config.training.offline_store == "parquet"
    found = train.training_set(world.platform, orders())
    assert "numbers of column 'amount' are too small" in caplog.text
    assert "joining in PostgreSQL" in caplog.text
    assert found.snapshot == loaded.snapshot and found.labels == loaded.labels
    same(found.table, training_set.point_in_time(feature_databases, orders()).table)
    means = dict(zip(found.table["order_id"].to_pylist(), found.table["past__amount_mean_3d"].to_pylist(), strict=True))
    assert [means[n] for n in range(3, 20)] == pytest.approx([1e-12 * (n - 1) for n in range(3, 20)], rel=1e-9)


def test_both_stores_train_on_the_loaded_snapshot_and_never_on_a_newer_one(
    world: World,  # noqa: F811 # the fixture
    feature_databases: FeatureDatabases,
) -> None:
    """Rows and labels arrive after the load: neither reaches a training set before the next materialization."""
    platform, pipeline = world.platform, orders()
    world.deliver("orders", "one", lines(order(n, n) for n in range(30)))
    world.deliver("payments", "one", lines(payment(n, n + 1, paid=n % 3 > 0) for n in range(20)))
    loaded = materialize(platform, pipeline)
    world.deliver("orders", "two", lines(order(n, n) for n in range(30, 40)))
    world.deliver("payments", "two", lines(payment(n, n + 1) for n in range(15, 40)))
    training = platform.config.training.model_copy(update={"offline_store": "postgresql"})
    by_postgresql = replace(platform, config=platform.config.model_copy(update={"training": training}))

    def both() -> tuple[int, str]:
        found = train.training_set(platform, pipeline)
        other = train.training_set(by_postgresql, pipeline)
        assert (found.snapshot, found.labels) == (other.snapshot, other.labels)
        same(found.table, other.table)
        return found.table.num_rows, found.snapshot

    assert both() == (20, loaded.snapshot)
    newer = materialize(platform, pipeline)
    assert both() == (40, newer.snapshot)
    assert newer.snapshot != loaded.snapshot

    # what is stored is checked, and a snapshot that is gone is told
    site, bucket = platform.active_site("personal"), platform.config.buckets.lake
    snapshot = snapshots.read(site, bucket, "orders", newer.snapshot)
    part = snapshot.parts[0].key
    body = site.read(bucket, part)
    site.write(bucket, part, body[:-1] + b"?")
    with pytest.raises(IntegrityError):
        train.training_set(platform, pipeline)
    site.write(bucket, part, body)
    assert both() == (40, newer.snapshot)
    site.delete(bucket, f"snapshots/orders/{snapshot.id}.json")
    with pytest.raises(FeatureError, match="site 'primary' has it no longer"):
        train.training_set(platform, pipeline)
    assert offline.find_snapshot(feature_databases, pipeline.name) == newer.snapshot
