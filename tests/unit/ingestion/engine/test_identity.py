"""Equal rows give equal ids, in any order, in any parts, from either engine; one other cell gives another id."""

from __future__ import annotations

import functools
import hashlib
import random
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion.engine import identity, parts
from rempart.ingestion.engine.database import opened
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.snapshots import SnapshotColumn, arrow_schema, partitions

TYPES = ["integer", "number", "boolean", "string", "category", "date"]
COLUMNS = {**{t: SnapshotColumn(t, True) for t in TYPES}, "day": SnapshotColumn("date", False)}
SCHEMA = arrow_schema(COLUMNS)
MONTH = parts.period("day", "date")
Row = tuple[Any, ...]

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6) | st.sampled_from(["-", "1:a", ":"])
days = st.dates(date(1, 1, 1), date(9999, 12, 31))
row = st.tuples(
    st.none() | st.integers(-(10**18), 10**18),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.booleans(),
    st.none() | text,
    st.none() | text,
    st.none() | days,
    st.sampled_from([date(2024, 1, 31), date(2024, 2, 1), date(1, 1, 1)]),
)


def table(rows: Sequence[Row]) -> pa.Table:
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def id_of(partitions: Sequence[identity.PartitionContent]) -> str:
    return identity.content_id(COLUMNS, ["integer"], "day", "month", partitions)


def months(parts: Sequence[pa.Table]) -> dict[str, list[pa.Table]]:
    found: dict[str, list[pa.Table]] = {}
    for part in parts:
        for month, rows in partitions(part, "day").items():
            found.setdefault(month, []).append(rows)
    return found


@functools.cache
def database() -> duckdb.DuckDBPyConnection:
    """One for all examples, in sessions of their own: to open one takes longer than an example."""
    return duckdb.connect()


def by_duckdb(parts: Sequence[pa.Table], key: Sequence[str] = ("integer",)) -> str:
    contents = []
    with database().cursor() as connection:
        for month, rows in months(parts).items():
            connection.register("rows", pa.concat_tables(rows))
            contents.append(identity.by_duckdb(connection, "rows", COLUMNS, key).content(month))
    return id_of(contents)


def by_arrow(parts: Sequence[pa.Table], key: Sequence[str] = ("integer",)) -> str:
    return id_of([identity.by_arrow(rows, COLUMNS, key, month) for month, rows in months(parts).items()])


def by_python(rows: Sequence[Row], key: Sequence[str]) -> str:
    """The same, written as the docstring of `identity` says it."""

    def value(cell: Any, kind: str) -> bytes:
        if cell is None:
            return b"-"
        match kind:
            case "number":
                cell = struct.unpack(">q", struct.pack(">d", cell + 0.0))[0]
            case "boolean":
                cell = int(cell)
            case "date":
                cell = (cell - date(1970, 1, 1)).days
        body = str(cell).encode()
        return b"%d:%s" % (len(body), body)

    found: dict[str, list[tuple[Any, bytes]]] = {}
    for cells in rows:
        body = b"".join(map(value, cells, (column.type for column in COLUMNS.values())))
        by_name = dict(zip(COLUMNS, cells, strict=True))
        order = [(by_name[name] is None, by_name[name]) for name in key]
        found.setdefault(f"{by_name['day']:%m}-{by_name['day'].year}", []).append(
            ([(null, 0 if null else cell) for null, cell in order], body)
        )
    return id_of(
        [
            identity.PartitionContent(
                f"{int(name[3:]):04d}-{name[:2]}",
                len(some),
                hashlib.sha256(b"".join(body for _, body in sorted(some))).hexdigest(),
            )
            for name, some in found.items()
        ]
    )


KEYS = [("integer",), ("string", "day"), ("number",), ("boolean", "date", "category")]


@settings(max_examples=15, deadline=None)
@given(st.lists(row, min_size=1, max_size=12), st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_parts_and_engine_make_no_difference(rows: list[Row], chance: random.Random, size: int) -> None:
    other = list(rows)
    chance.shuffle(other)
    parts = [table(other[i : i + size]) for i in range(0, len(other), size)]
    for key in KEYS:
        whole = by_python(rows, key)
        assert by_arrow(parts, key) == by_duckdb(parts, key) == by_duckdb([table(rows)], key) == whole
        assert by_arrow([table(rows)], key) == whole
        in_order = pa.concat_tables(parts).sort_by([(name, "ascending") for name in key])
        assert by_arrow([in_order], key) == by_duckdb([in_order], key) == whole


@settings(max_examples=15, deadline=None)
@given(st.lists(row, min_size=1, max_size=8), st.data())
def test_another_cell_gives_another_id(rows: list[Row], data: st.DataObject) -> None:
    place, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, len(TYPES)))
    other = list(rows)
    other[place] = (*rows[place][:column], data.draw(row)[column], *rows[place][column + 1 :])
    same = other[place][column] == rows[place][column]
    assert (by_arrow([table(other)]) == by_arrow([table(rows)])) is same
    assert (by_duckdb([table(other)]) == by_duckdb([table(rows)])) is same


LATER = {
    "decimal(4,2)": st.decimals(-99, 99, places=2),
    "decimal(3,3)": st.decimals("-0.999", "0.999", places=3),
    "decimal(38,20)": st.decimals(-(10**17), 10**17, places=20),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "array(number)": st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    "array(string)": st.lists(text, max_size=3),
}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*(st.none() | values for values in LATER.values())), min_size=1, max_size=6))
def test_both_engines_agree_on_sized_types_times_and_arrays(rows: list[Row]) -> None:
    columns = {name: SnapshotColumn(name, True) for name in LATER}
    schema = arrow_schema(columns)
    found = pa.table(
        [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)],
        schema=schema,
    )
    with database().cursor() as connection:
        connection.register("rows", found)
        for key in [[name] for name in columns if not name.startswith("array")]:
            whole = identity.by_duckdb(connection, "rows", columns, key).content("x")
            assert whole == identity.by_arrow([found], columns, key, "x")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), unique=True, max_size=20), st.integers(0, 20))
def test_rows_go_on_where_their_keys_ascend_and_only_there(numbers: list[int], cut: int) -> None:
    columns = {"a": SnapshotColumn("integer", False)}
    some, more = ([*sorted(numbers[:cut])], [*sorted(numbers[cut:])])
    with database().cursor() as connection:
        for name, values in (("earlier", some), ("later", more), ("whole", numbers)):
            connection.register(name, pa.table({"a": pa.array(values, pa.int64())}))
        found = identity.by_duckdb(connection, "earlier", columns, ["a"])
        goes_on = found.reads(connection, "later", columns, ["a"])
        assert goes_on is (not some or not more or some[-1] < more[0])
        if goes_on:
            assert found.content("x") == identity.by_duckdb(connection, "whole", columns, ["a"]).content("x")


def test_a_repeated_key_does_not_go_on() -> None:
    columns = {"a": SnapshotColumn("integer", False)}
    with duckdb.connect() as connection:
        found = identity.by_duckdb(connection, "(SELECT 1::BIGINT AS a)", columns, ["a"])
        assert not found.reads(connection, "(SELECT 1::BIGINT AS a)", columns, ["a"])


@pytest.mark.parametrize("every", ["month", "day", "hour"])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland"])
def test_periods_are_those_of_snapshots_in_whatever_zone_the_session_is(every: Any, zone: str) -> None:
    times = [
        datetime(2024, 2, 29, 23, 59, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 5, tzinfo=UTC),
    ]
    rows = pa.table({"at": pa.array(times, pa.timestamp("us", "UTC"))})
    with duckdb.connect() as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        connection.register("rows", rows)
        found = connection.execute(
            f"SELECT {parts.period('at', 'timestamp', every)} AS p FROM rows ORDER BY p"
        ).fetchall()
    assert [name for (name,) in found] == list(partitions(rows, "at", every))


def test_a_row_counts_as_often_as_it_is_there() -> None:
    row = (1, 1.0, True, "a", "b", None, date(2024, 1, 1))
    assert len({by_arrow([table([row] * count)]) for count in (1, 2, 3)}) == 3


def test_a_value_does_not_move_to_its_neighbour() -> None:
    def made(a: str | None, b: str | None) -> str:
        return by_arrow([table([(1, 1.0, True, a, b, None, date(2024, 1, 1))])])

    assert len({made("ab", ""), made("a", "b"), made("", "ab"), made(None, "ab"), made("-", "ab")}) == 5


def test_the_id_of_known_rows_never_changes() -> None:
    rows = [
        (7, -0.0, False, "é", None, date(1969, 12, 31), date(2024, 1, 1)),
        (8, 1.5, None, "", "x", None, date(1, 1, 1)),
    ]
    assert (
        by_arrow([table(rows)])
        == by_duckdb([table(rows)])
        == by_python(rows, ["integer"])
        == "f6859ea8dbf696f052d452b8a157f4a8"
    )


@pytest.mark.parametrize("change", ["column", "key", "nullable", "partition"])
def test_the_schema_is_part_of_the_id(change: str) -> None:
    columns = {"a": SnapshotColumn("integer", False)}
    others = {
        "column": ({"b": SnapshotColumn("integer", False)}, ["a"]),
        "key": (columns, ["a", "a"]),
        "nullable": ({"a": SnapshotColumn("integer", True)}, ["a"]),
    }
    others["partition"] = (columns, ["a"])
    every = "day" if change == "partition" else "month"
    assert identity.content_id(*others[change], "d", every, []) != identity.content_id(columns, ["a"], "d", "month", [])


def test_sorting_in_threads_with_little_memory_gives_the_same(tmp_path: Path) -> None:
    columns = {"a": SnapshotColumn("integer", False), "b": SnapshotColumn("string", False)}
    made = "(SELECT CAST(hash(range) >> 2 AS BIGINT) AS a, repeat('x', 200) AS b FROM range(300000))"
    in_order = f"(FROM {made} ORDER BY a)"
    with opened(Resources(128 << 20, 4, tmp_path), []) as small, duckdb.connect() as large:
        found = [identity.by_duckdb(some, made, columns, ["a"]).content("x") for some in (small, large)]
        streamed = identity.OrderedRows()
        assert streamed.reads(large, in_order, columns, ["a"])
    assert found[0] == found[1] == streamed.content("x")
    assert found[0].rows == 300_000


def test_parts_are_sorted_by_partition_and_key_and_limited_in_size(tmp_path: Path) -> None:
    columns = {"a": SnapshotColumn("integer", False), "day": SnapshotColumn("date", False)}
    made = (
        "(SELECT CAST(hash(range) % 1000000000 AS BIGINT) AS a, DATE '2024-01-01' + CAST(range % 60 AS INTEGER) AS day "
        "FROM range(400000))"
    )
    with opened(Resources(256 << 20, 4, tmp_path), [tmp_path]) as connection:
        written = parts.write(connection, made, columns, ["a"], parts.period("day", "date"), tmp_path, most=200_000)
    names = [part.partition for part in written]
    assert names == sorted(names)
    assert len(names) > len(set(names)) == 2
    for month in ("2024-01", "2024-02"):
        read = pa.concat_tables([pq.read_table(part.file) for part in written if part.partition == month])
        assert read["a"].to_pylist() == sorted(read["a"].to_pylist())
    assert sum(part.rows for part in written) == 400_000
