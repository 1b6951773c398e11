"""Trailing views on real databases: PostgreSQL gives what DuckDB gives, and the online store what holds at its time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from rempart.features import in_memory, offline, tables, training_set
from rempart.features.databases import FeatureDatabases, Session, session
from rempart.features.freshness.content import read_content
from rempart.features.offline_load.basis import Changes
from rempart.features.plan import rows_table, view_tables
from rempart.flows.training.materialize import materialize_rows
from rempart.ingestion import snapshots
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import NOW
from tests.online_rows import online_rows
from tests.unit.features import aggregated
from tests.unit.features.aggregated import orders

pytestmark = pytest.mark.stores
_numbers = itertools.count()
WRITTEN = "All rows were read: another program wrote to the tables, or a comparison found a difference."


@pytest.mark.parametrize("history", [False, True])
def test_each_aggregate_is_that_of_the_training_set_without_a_server(
    feature_databases: FeatureDatabases, *, history: bool
) -> None:
    """Both run one SQL; tests/unit/features/test_aggregates.py holds it to the definition."""
    dice = random.Random(7)  # noqa: S311 - test data
    for number, view in enumerate(({"windows": ["30m", "2d"]}, {"windows": ["2d"], "at": "day"}, {"days": [1, 3]})):
        pipeline = orders(f"orders{number}{'h' * history}", history=history, **view)
        rows = aggregated.random_orders(dice, 60, versions=history)
        materialize_rows(feature_databases, pipeline, aggregated.arrow(rows).to_reader(), "s1", NOW)
        read = training_set.point_in_time(feature_databases, pipeline)
        built = in_memory.build(pipeline, aggregated.arrow(rows), None)
        stored, tried = read.table.to_pylist(), built.table.to_pylist()
        assert len(stored) == len(tried) and read.open == built.open > 0
        assert all(map(aggregated.same, stored, tried))


def test_what_left_a_window_leaves_the_online_store_as_time_passes(feature_databases: FeatureDatabases) -> None:
    pipeline, start = orders("orders_online", windows=["6h", "2d"]), aggregated.START
    rows = aggregated.random_orders(random.Random(3), 2, versions=False)  # noqa: S311 - test data
    for number, row in enumerate(rows):
        row |= {"shop": "a", "units": number, "ordered": start + timedelta(hours=10 * number), "day": start.date()}

    def newest() -> timedelta | None:
        """From the first row's moment to the newest of which the online values tell, by the view's age."""
        _, content = read_content(feature_databases, pipeline)
        (past,) = (view for view in content if view.view == "past")
        return past.newest and past.newest - start

    def told(hours: int) -> tuple[Any, ...]:
        at = start + timedelta(hours=hours)
        materialize_rows(feature_databases, pipeline, aggregated.arrow(rows).to_reader(), "s1", at)
        (found,) = online_rows(feature_databases, pipeline, "past", [{"shop": "a"}], at)
        return tuple(found[name] for name in ("rows_6h", "rows_2d", "days_since_last", "units_last_2d"))

    assert told(0) == (None, None, None, None), "the first row counts only after its moment"
    assert told(1) == (1, 1, 1 / 24, 0)
    assert told(8) == (0, 1, 8 / 24, 0)
    assert newest() == timedelta(), "a value that left its window makes nothing newer, and a planned row counts later"
    assert told(12) == (1, 2, 2 / 24, 1)
    assert told(49) == (0, 1, 39 / 24, 1)
    assert newest() == timedelta(hours=10)
    assert told(80) == (0, 0, None, None)


class Deliveries:
    """Orders that come, go, are corrected or erased, as snapshots by day; and loads of them."""

    def __init__(self, databases: FeatureDatabases, *, history: bool, **view: Any) -> None:
        self.databases, self.dice = databases, random.Random(5)  # noqa: S311 - test data
        number = next(_numbers)
        self.pipeline, self.anew = (
            orders(f"{name}{number}", history=history, **view).model_copy(update={"partition_every": "day"})
            for name in ("orders_part", "orders_anew")
        )
        made = aggregated.random_orders(self.dice, 80, versions=history)
        self.pool = {(row["order"], row["seen"] if history else None): row for row in made}
        self.there = set(self.dice.sample(sorted(self.pool), 40))
        self.erased: set[int] = set()
        self.loads = self.last = 0
        self.loaded: dict[str, pa.Table] = {}

    def change(self) -> None:
        self.there ^= set(self.dice.sample(sorted(self.pool), 3))
        for key in self.dice.sample(sorted(self.there), 2):
            self.pool[key] = self.pool[key] | {"amount": float(self.loads), "shop": self.dice.choice([None, "a", "c"])}
        key = self.dice.choice(sorted(self.there))  # a correction that moves the row to another partition
        self.pool[key] = self.pool[key] | {"day": aggregated.START.date() + timedelta(days=self.loads)}

    def rows(self) -> pa.Table:
        there = (row for key, row in sorted(self.pool.items()) if key in self.there)
        return aggregated.arrow([row for row in there if row["order"] not in self.erased])

    def load(self, *, killed: bool = False) -> str:
        """Load what is there, by what changed since the last load that was not killed. Return the load's note."""
        self.loads += 1
        table = self.rows()
        days = snapshots.partitions(table, "day", self.pipeline.partition_every)
        names = {name for name in {*days, *self.loaded} if days.get(name) != self.loaded.get(name)}
        batches = [batch for name, found in days.items() if name in names for batch in found.to_batches()]

        def read() -> Iterator[pa.RecordBatch]:
            yield from batches
            if killed:
                raise Killed

        reader = pa.RecordBatchReader.from_batches(table.schema, read())
        changes = Changes(f"s{self.last}", tuple(sorted(names)), reader, str(sorted(self.erased)))
        at, name = NOW + timedelta(minutes=self.loads), f"s{self.loads}"
        note = offline.load(self.databases, self.pipeline, table.to_reader(), name, at, changes=changes).note
        self.loaded, self.last = days, self.loads
        return note

    def assert_same(self) -> None:
        """Compare all tables, byte by byte, with those of a load of the same rows into no tables."""
        with session(self.databases.offline, "compare") as opened:
            for view in view_tables(self.anew):
                opened.execute(f'DROP TABLE IF EXISTS "{view.table}"')
            opened.execute(f'DROP TABLE IF EXISTS "{rows_table(self.anew)}"')
        offline.load(self.databases, self.anew, self.rows().to_reader(), "s", NOW)
        with session(self.databases.offline, "compare") as opened:
            assert self.content(opened, self.pipeline) == self.content(opened, self.anew)

    def content(self, opened: Session, pipeline: ModelPipeline) -> list[bytes]:
        stored = [(rows_table(pipeline), tables.rows_columns(pipeline))]
        stored += [(view.table, tables.view_columns(view)) for view in view_tables(pipeline)]
        return [copied(opened, table, tables.names(name for name, _ in columns)) for table, columns in stored]


def copied(opened: Session, table: str, columns: sql.Composed) -> bytes:
    query = sql.SQL("COPY (SELECT {c} FROM {} ORDER BY {c}) TO STDOUT (FORMAT binary)")
    with opened.cursor().copy(query.format(tables.name(table), c=columns)) as copy:
        return b"".join(copy)


class Killed(Exception):
    """Stands for the end of the process that loads."""


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("view", [{"windows": ["30m", "2d"]}, {"days": [1, 3]}], ids=str)
def test_after_any_deliveries_a_load_of_what_changed_gives_what_a_load_of_all_gives(
    feature_databases: FeatureDatabases, monkeypatch: pytest.MonkeyPatch, view: dict[str, Any], *, history: bool
) -> None:
    """Rows come, go, move and are corrected; some are erased; loads are killed; other programs write to the tables."""
    monkeypatch.setattr(offline, "LARGEST_PART", 0)  # so few rows would all be made anew
    data = Deliveries(feature_databases, history=history, **view)
    past = view_tables(data.pipeline)[1].table
    assert data.load() == ""
    for _ in range(3):
        data.change()
        assert data.load() == ""
        data.assert_same()
    data.change()
    with pytest.raises(Killed):
        data.load(killed=True)
    data.change()
    assert data.load() == ""
    data.assert_same()
    data.erased = {min(key[0] for key in data.there)}
    assert data.load() == "All rows were read: rows were erased."
    data.assert_same()
    assert data.load() == "", "nothing changed"
    with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
        opened.execute(f'DELETE FROM "{past}" WHERE event_timestamp = (SELECT max(event_timestamp) FROM "{past}")')
    assert data.load() == WRITTEN
    data.assert_same()
    with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
        opened.execute(f'CREATE TABLE again (LIKE "{past}" INCLUDING ALL); DROP TABLE "{past}"')
        opened.execute(f'ALTER TABLE again RENAME TO "{past}"')
    assert data.load() == "Made anew, since the definition or the table is another one: past."
    data.assert_same()
