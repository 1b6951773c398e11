"""A typed column means what its text means; each distinct text means what each cell means."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rempart.ingestion import cells
from rempart.ingestion.parsing import typed
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect

COLUMNS = {
    "integer": Column(type="integer", known="m"),
    "number": Column(type="number", known="m", nullable=True),
    "boolean": Column(type="boolean", known="m"),
    "string": Column(type="string", known="m"),
    "decimal": Column(type="decimal", precision=6, scale=2, known="m"),
    "date": Column(type="date", known="m"),
    "timestamp": Column(type="timestamp", known="m", nullable=True),
}
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)),
    (pa.int16(), st.integers(-3, 3)),
    (pa.uint64(), st.integers(0, 2**64 - 1) | st.integers(0, 3)),
    (pa.float64(), st.floats() | st.sampled_from([0.0, -0.0, 1.5, 1e300])),
    (pa.float32(), st.floats(width=32)),
    (pa.bool_(), st.booleans()),
    (pa.decimal128(8, 3), st.decimals(-9999, 9999, places=3) | st.just(Decimal("1.500"))),
    (pa.date32(), st.dates() | st.just(date(2020, 1, 1))),
    (pa.timestamp("us"), st.datetimes(datetime(2020, 3, 28), datetime(2020, 3, 30)) | st.datetimes()),  # noqa: DTZ001 - local
    (pa.timestamp("ms", "Europe/Berlin"), st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1))),  # noqa: DTZ001
    (pa.string(), st.sampled_from(["1", "1.5", "true", "2020-01-01", "", "x", "2020-10-25 02:30"])),
]


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    kind, values = draw(st.sampled_from(KINDS))
    made = draw(st.lists(st.none() | values, max_size=6))
    if pa.types.is_timestamp(kind):
        made = [value and value.replace(microsecond=value.microsecond // 1000 * 1000) for value in made]
    return pa.array(made, kind)


def converted(values: pa.Array, declared: str, dialect: Dialect) -> tuple[list[Any], dict[int, list[str]]]:
    table, against = cells.convert(
        pa.table({"c": values}), {"c": COLUMNS[declared]}, required=frozenset(), dialect=dialect
    )
    assert (
        table["c"].type == cells.convert([["1"]], {"c": COLUMNS[declared]}, required=(), dialect=dialect)[0]["c"].type
    )
    return list(map(repr, table["c"].to_pylist())), {row: sorted(reasons) for row, reasons in against.items()}


@settings(max_examples=200, deadline=None)
@given(
    columns(),
    st.sampled_from(list(COLUMNS)),
    st.sampled_from([None, "Europe/Berlin", "UTC"]),
    st.sampled_from([[""], ["", "3"], ["true"]]),
)
@example(pa.array([datetime(2020, 10, 25, 2, 30), datetime(2020, 3, 29, 2, 30)]), "timestamp", "Europe/Berlin", [""])  # noqa: DTZ001
def test_a_typed_column_is_what_its_text_is(
    values: pa.Array, declared: str, zone: str | None, nulls: list[str]
) -> None:
    dialect = Dialect(time_zone=zone, null_values=nulls)
    assert converted(values, declared, dialect) == converted(pc.cast(values, pa.string()), declared, dialect)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["1", "1,5", "nan", "", "x", "1e999", "true", "2020-02-30", "2020-01-01", None]), max_size=9
    )
)
def test_each_distinct_text_is_converted_as_each_cell(texts: list[str | None]) -> None:
    values = pa.array(texts, pa.string())
    for declared in COLUMNS:
        found = []
        for encoded in (lambda _: None, lambda text: text.dictionary_encode(null_encoding="encode")):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cells, "_encoded", encoded)
                found.append(converted(values, declared, Dialect()))
        assert found[0] == found[1]


def test_only_a_column_of_repeated_texts_is_encoded() -> None:
    few = pa.array(["1", "2"] * 1000)
    assert cells._encoded(few) is not None
    assert cells._encoded(pa.array(map(str, range(2000)))) is None
    assert converted(few, "integer", Dialect()) == (["1", "2"] * 1000, {})


def test_a_source_that_writes_decimal_commas_does_not_read_typed_numbers_by_them() -> None:
    german = Dialect(decimal=",", thousands=".", dates="DD.MM.YYYY")
    assert converted(pa.array([1.5]), "number", german) == (["1.5"], {})
    assert converted(pa.array([1.5], pa.float32()), "number", german) == (["1.5"], {})
    assert converted(pa.array([date(2020, 1, 2)]), "date", german)[1] == {}


def test_nanoseconds_count_only_as_whole_microseconds() -> None:
    values = pa.array([1_000, 1_001, None], pa.int64()).cast(pa.timestamp("ns", "UTC"))
    table, against = cells.convert(pa.table({"c": values}), {"c": COLUMNS["timestamp"]}, required=(), dialect=Dialect())
    assert against == {1: ["c: a fraction of a second with more than six digits"]}
    assert table["c"].is_null().to_pylist() == [False, True, True]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_local_times_around_every_change_of_a_year(zone: str) -> None:
    start = datetime(2019, 1, 1)  # noqa: DTZ001 - local
    times = pa.array([start + timedelta(minutes=15 * n) for n in range(4 * 24 * 365)], pa.timestamp("us"))
    dialect = Dialect(time_zone=zone)
    assert typed.column(times, COLUMNS["timestamp"], dialect) is not None
    assert converted(times, "timestamp", dialect) == converted(pc.cast(times, pa.string()), "timestamp", dialect)
