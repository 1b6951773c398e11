"""The point-in-time join of DuckDB by its definition: ties, nulls, late rows, several keys, limits of age."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import FeatureError, IntegrityError
from rempart.features import in_memory, training_set
from rempart.features.labels import Received
from rempart.features.parquet_store import joining, loading, scratch, training_sets
from rempart.features.parquet_store.joining import JoinedView
from rempart.features.parquet_store.scratch import ScratchDatabase
from rempart.features.training_set import read_csv
from tests.derived_project import write_project
from tests.integration.test_features import arrow, random_rows, row
from tests.labelled_project import ORDERS, PAYMENTS, order, order_rows, orders, payment, received
from tests.unit.features.stays import stays

Row = dict[str, Any]
START = datetime(2026, 3, 1, tzinfo=UTC)
KEYS = {"house": pa.string(), "room": pa.int64()}
MOMENT = pa.timestamp("us", "UTC")
HOUSES, ROOMS = st.sampled_from([None, "a", "b", ""]), st.sampled_from([None, 1, 2])
HOURS = st.integers(0, 6).map(lambda hours: START + timedelta(hours=hours))
ENTITIES = st.lists(
    st.fixed_dictionaries({"house": HOUSES, "room": ROOMS, "at": st.one_of(st.none(), HOURS)}), max_size=12
)
STORED = st.lists(
    st.fixed_dictionaries(
        {
            "house": HOUSES,
            "room": ROOMS,
            "since": HOURS,
            "created": st.one_of(st.none(), HOURS),
            "value": st.one_of(st.none(), st.integers(0, 3)),
        }
    ),
    max_size=12,
)


def by_definition(entities: list[Row], views: list[tuple[JoinedView, list[Row]]]) -> Iterator[tuple[Any, ...]]:
    """Each entity row with every newest row of each view that it may see."""
    for entity in entities:
        shown = [[row["value"] for row in newest(entity, view, rows)] or [None] for view, rows in views]
        for values in itertools.product(*shown):
            yield (entity["house"], entity["room"], entity["at"], *values)


def newest(entity: Row, view: JoinedView, rows: list[Row]) -> list[Row]:
    at = entity["at"]
    seen = [
        row
        for row in rows
        if at is not None
        and all(entity[key] is not None and row[key] == entity[key] for key in view.keys)
        and row["since"] <= at
        and (not view.ttl or row["since"] >= at - timedelta(seconds=view.ttl))
    ]
    seen = [row for row in seen if row["since"] == max(row["since"] for row in seen)]
    if view.created:  # PostgreSQL sorts null before all else when it sorts downwards
        order = [row["created"] or datetime.max.replace(tzinfo=UTC) for row in seen]
        seen = [row for row, created in zip(seen, order, strict=True) if created == max(order)]
    return seen


@given(
    entities=ENTITIES,
    stored=st.lists(
        st.tuples(
            STORED,
            st.sampled_from([("house",), ("room",), ("house", "room")]),
            st.sampled_from([0, 3600, 7200]),
            st.sampled_from([None, "created"]),
            st.sampled_from(["all", "moments", "entities"]),
        ),
        min_size=1,
        max_size=2,
    ),
)
def test_the_join_is_its_definition(entities: list[Row], stored: list[tuple[Any, ...]]) -> None:
    schema = pa.schema([*KEYS.items(), ("since", MOMENT), ("created", MOMENT), ("value", pa.int64())])
    views: list[tuple[JoinedView, list[Row]]] = []
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        asked = pa.Table.from_pylist(entities, pa.schema([*KEYS.items(), ("at", MOMENT)]))
        connection.register("asked", asked)
        for number, (rows, keys, ttl, created, kind) in enumerate(stored):
            if kind != "all":  # one row for each moment, or for each entity
                by = (*keys, "since") if kind == "moments" else keys
                rows = list({tuple(row[key] for key in by): row for row in rows}.values())
            connection.register(f"stored_{number}", pa.Table.from_pylist(rows, schema))
            views.append(
                (JoinedView(f"stored_{number}", keys, {f"value {number}": "value"}, "since", ttl, created), rows)
            )
        shaped = [(view, joining.uniqueness(connection, view)) for view, _ in views]
        query = joining.joined("SELECT * FROM asked", asked.column_names, "at", shaped)
        found = connection.sql(query).to_arrow_table()
    assert found.column_names == [*asked.column_names, *(f"value {number}" for number in range(len(views)))]
    assert Counter(tuple(row.values()) for row in found.to_pylist()) == Counter(by_definition(entities, views))


def test_what_rows_of_a_view_share_is_found() -> None:
    view = JoinedView("stored", ("house",), {"value": "value"}, "since")

    def told(*rows: tuple[str, int]) -> str:
        with duckdb.connect() as connection:
            table = {"house": [house for house, _ in rows], "since": [since for _, since in rows]}
            connection.register("stored", pa.table(table))
            return joining.uniqueness(connection, view)

    assert told(("a", 1), ("b", 1)) == "entity"
    assert told(("a", 1), ("a", 2)) == "moment"
    assert told(("a", 1), ("a", 1)) == "none"


def test_a_join_that_multiplied_rows_is_refused(tmp_path: Path) -> None:
    pipeline, rows = stays(), arrow(random_rows(2, 40))
    with scratch.created(ScratchDatabase(tmp_path), "try") as connection:
        loaded = loading.load(connection, pipeline, rows.to_reader(), None)
        connection.execute("INSERT INTO stays__trend SELECT * FROM stays__trend")
        views = [(view, joining.uniqueness(connection, view)) for view in joining.of_pipeline(pipeline)]
        assert [unique for _, unique in views] == ["entity", "none", "moment"]
        entities = loading.in_duckdb(training_set.entity_query(pipeline))
        query = joining.joined(entities, training_set.entity_columns(pipeline), "event_timestamp", views)
        reader = training_sets.ordered(connection, pipeline, query, loaded.examples)
        with pytest.raises(FeatureError, match="rows instead of 40"):
            reader.read_all()


@pytest.mark.parametrize(
    ("prices", "inexact"),
    [
        ([80.0, 120.0, 95.5], False),
        ([1e6, 1e6 + 0.01, 1e6 + 0.02], True),
        ([1.7e9, 1.7e9 + 1, 1.7e9 + 2], True),
        ([1e-4, 1.1e-4, 1.2e-4], True),
        ([1e15, 2e15, 3e15], True),
        ([80.0, float("nan"), 95.5], True),
        ([80.0, float("inf"), 95.5], True),
        ([80.0, 80.0, 80.0], False),
    ],
)
def test_a_column_whose_sums_would_lose_digits_is_found(tmp_path: Path, prices: list[float], inexact: bool) -> None:
    trend = {
        "kind": "trailing",
        "at": "booking",
        "by": ["house"],
        "windows": ["7d"],
        "mean": ["price"],
        "std": ["price"],
    }
    pipeline = stays(features={"own": {"kind": "row", "at": "booking", "columns": ["nights"]}, "trend": trend})
    rows = arrow([row(number, number, price=price) for number, price in enumerate(prices)])
    with scratch.created(ScratchDatabase(tmp_path), "try") as connection:
        if inexact:
            with pytest.raises(loading.InexactSums, match="price"):
                loading.load(connection, pipeline, rows.to_reader(), None, exact=True)
        else:
            assert loading.load(connection, pipeline, rows.to_reader(), None, exact=True).examples == 3


def test_a_failure_to_read_rows_is_told_as_it_is(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from table.to_batches()
        raise IntegrityError("read partition 2020-02: it was altered", "Restore it.")

    table = arrow(random_rows(1, 20))
    reader = pa.RecordBatchReader.from_batches(table.schema, broken())
    with (
        pytest.raises(IntegrityError, match="it was altered"),
        scratch.created(ScratchDatabase(tmp_path), "try") as connection,
    ):
        loading.load(connection, stays(), reader, None)


def test_labels_are_read_batch_by_batch_and_a_failure_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, ORDERS, PAYMENTS, sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    alive: list[int] = []

    def batches(payments: pa.Table, *, whole: bool) -> Iterator[pa.RecordBatch]:
        for batch in payments.to_batches(max_chunksize=10):
            alive.append(batch.num_rows)
            yield batch
        if not whole:
            raise IntegrityError("read partition 2026-01: it was altered", "Restore it.")

    def labels(*, whole: bool) -> Received:
        given = received([payment(n, n + 1) for n in range(100)], 300)
        schema, payments = given.rows.schema, given.rows.read_all()
        return replace(given, rows=pa.RecordBatchReader.from_batches(schema, batches(payments, whole=whole)))

    rows = order_rows(order(n, n) for n in range(100))
    assert in_memory.build(orders(), rows, labels(whole=True)).table.num_rows == 100
    assert alive == [10] * 10
    with pytest.raises(IntegrityError, match="it was altered"):
        in_memory.build(orders(), rows, labels(whole=False))


def test_an_error_of_the_engine_quotes_no_value(tmp_path: Path) -> None:
    rows = arrow([row(1, 0, room="canary")])
    changed = stays().columns | {"room": stays().columns["nights"]}
    pipeline = stays(schema={name: column.model_dump() for name, column in changed.items()})
    with (
        pytest.raises(FeatureError, match="DuckDB answered ConversionException") as caught,
        scratch.created(ScratchDatabase(tmp_path), "try") as connection,
    ):
        loading.load(connection, pipeline, rows.to_reader(), None)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_scratch_database_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with (
        pytest.raises(FeatureError, match="PermissionException"),
        scratch.created(ScratchDatabase(tmp_path / "in"), "try") as connection,
    ):
        connection.execute(f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")


@pytest.mark.parametrize("cut", [1, 7, 1 << 20])
def test_arrow_reads_what_postgresql_copies(cut: int) -> None:
    types = {
        "text": pa.string(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "at": MOMENT,
        "day": pa.date32(),
        "count": pa.int64(),
    }
    body = (
        "text,number,flag,at,day,count\n"
        '"",NaN,t,0,0,-9223372036854775808\n'
        ",,,,,\n"
        '"a ""b"", c\r\nnext\n",-Infinity,f,-62135596800000001,-719163,9223372036854775807\n'
        "\u00e9\U0001f3e8,0.30000000000000004,t,1,1,1\n"
        '"NaN",1e-320,t,253402300799999999,2932896,0\n'
        "NULL,Infinity,t,1,1,0\n"
    ).encode()
    blocks = [body[start : start + cut] for start in range(0, len(body), cut)]
    table = read_csv(blocks, types)
    assert table.schema == pa.schema(types.items())
    assert table["text"].to_pylist() == ["", None, 'a "b", c\r\nnext\n', "\u00e9\U0001f3e8", "NaN", "NULL"]
    infinity = float("inf")
    assert str(table["number"].to_pylist()) == str(
        [float("nan"), None, -infinity, 0.30000000000000004, 1e-320, infinity]
    )
    assert table["flag"].to_pylist() == [True, None, False, True, True, True]
    assert table["at"].cast(pa.int64()).to_pylist() == [0, None, -62135596800000001, 1, 253402300799999999, 1]
    assert table["day"].cast(pa.int32()).to_pylist() == [0, None, -719163, 1, 2932896, 1]
    assert table["count"].to_pylist() == [-(2**63), None, 2**63 - 1, 1, 0, 0]


def test_no_row_is_no_row() -> None:
    assert read_csv([b"text\n"], {"text": pa.string()}).num_rows == 0
