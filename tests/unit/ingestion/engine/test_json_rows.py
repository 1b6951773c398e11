"""JSON Lines are read as `json.loads` reads each line, whichever reader takes a line."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rempart.ingestion import cells
from rempart.ingestion.engine import json_arrow, json_rows
from rempart.ingestion.engine.batches import LINE, RAW
from rempart.ingestion.engine.limits import Limits
from rempart.settings.columns import Column
from rempart.settings.pipeline import Source

COLUMNS = {
    "i": Column(type="integer", known="m", nullable=True),
    "n": Column(type="number", known="m", nullable=True),
    "s": Column(type="string", known="m", nullable=True),
    "b": Column(type="boolean", known="m", nullable=True),
    "d": Column(type="date", known="m", nullable=True),
    "a": Column(type="array", items="number", known="m", nullable=True),
    "t": Column(type="array", items="string", known="m", nullable=True),
}
LIMITS = Limits()
Found = tuple[dict[int, tuple[str, tuple[Any, ...], tuple[str, ...]]], list[tuple[int, tuple[str, ...], str]]]


def read(body: bytes, source: Source, declared: Mapping[str, Column] | None, limits: Limits = LIMITS) -> Found:
    """Return the rows (raw text, typed values, reasons against them) by line, and the refused lines."""
    rows: dict[int, tuple[str, tuple[Any, ...], tuple[str, ...]]] = {}
    refused = []
    for batch in json_rows.read(io.BytesIO(body), len(body), source, list(COLUMNS), limits, declared):
        refused += [(row.line, row.reasons, row.raw) for row in batch.refused]
        made, against = cells.convert(batch.table, COLUMNS, required=(), dialect=source)
        places = zip(batch.table[LINE].to_pylist(), batch.table[RAW].to_pylist(), made.to_pylist(), strict=True)
        for index, (line, raw, row) in enumerate(places):
            assert line not in rows
            rows[line] = raw, tuple(map(repr, row.values())), tuple(against.get(index, ()))
    return rows, refused


number = st.sampled_from(
    [
        "0",
        "-0",
        "12",
        "1.0",
        "-1.5e3",
        "1e400",
        "1e-400",
        "9" * 18,
        "9" * 19,
        "9" * 40,
        "0.1234567890123456789",
        "01",
        "1.",
    ]
)
text = st.sampled_from(
    ['"x"', '""', '"2020-01-01"', '"1"', r'"\u00e9\n\"\\"', r'"\ud800"', r'"\ud83d\ude00"', r'"\u0000"', '"\t"', '"é}"']
)
other = st.sampled_from(
    [
        "null",
        "true",
        "false",
        "NaN",
        "-Infinity",
        "[1]",
        '[1, "1"]',
        "[true]",
        "[[1]]",
        "[NaN]",
        '[{"a": 1}]',
        '{"a": 1}',
        "",
        "nul",
        "'x'",
        '"x',
        "{}",
    ]
)
usual = st.fixed_dictionaries(
    {},
    optional={
        '"i"': st.sampled_from(["1", "null", "7"]),
        '"n"': st.sampled_from(["1", "1.5", "null"]),
        '"s"': st.sampled_from(['"x"', "null", r'"\u00e9"']),
        '"b"': st.sampled_from(["true", "null"]),
        '"d"': st.sampled_from(['"2020-01-01"', "null", '"x"']),
        '"a"': st.sampled_from(["[1, 2.5]", "[]", "null", '"[1]"', "[9007199254740993]", "[1, null]"]),
        '"t"': st.sampled_from(['["x", "y"]', "[]", "null", r'["\u00e9", ""]', r'["\u0000"]']),
    },
).map(lambda row: list(row.items()))
name = st.sampled_from(['"i"', '"n"', '"s"', '"b"', '"d"', '"a"', '"t"', r'"\u0069"', '"other"', "i", '""'])
fields = usual | usual | usual | st.lists(st.tuples(name, number | text | other), max_size=4)


NAMES = st.sampled_from([{}, {}, {"i": "n", "n": "i"}, {"other": "s"}, {"": "t", "a": "s", "s": "a"}])


@st.composite
def lines(draw: st.DrawFn) -> str:
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ", "), (" :", " ,")]))
    made = "{" + comma.join(f"{key}{colon}{value}" for key, value in draw(fields)) + "}"
    faulty = ["{0}{0}", "{0} ", " {0}", "{0},{0}", "[{0}]", '{{"i":', "2}}", "{0}\r", "", "\ufeff{0}"]
    return draw(st.sampled_from(["{0}"] * 12 + faulty)).format(made)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(lines(), min_size=1, max_size=12), st.sampled_from([1, 3, 64]), st.booleans(), st.integers(1, 200), NAMES
)
@example(['{"i":1}{"i":2}', '{"i":', "3}"], 1, False, 200, {})
@example(['{"i": 1}'] * 3 + ['{"i": 1.0}', '{"i": "1"}'], 1, False, 200, {})
@example(['{"n": 1}', '{"n": 1e400}', '{"n": -0}'], 1, False, 200, {})
@example(['{"i": 1}'] * 3 + ['{"i": 1.0}', '{"i": "1"}'], 1, False, 200, {"i": "n", "n": "i"})
def test_the_same_rows_and_reasons_as_line_by_line(
    made: list[str], few: int, tokens: bool, size: int, names: dict[str, str]
) -> None:
    body = "\n".join(["{}", *made]).encode()
    source = Source(prefix="x/", null_values=["", "7"] if tokens else [""], header=names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrow.ArrowLines, "read", lambda self, block: ([], range(len(block))))
        line_by_line = read(body, source, COLUMNS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrow, "_FEW", few)
        found = read(body, source, COLUMNS, replace(LIMITS, block=size))
    assert found == line_by_line


def test_lines_of_one_kind_keep_their_types() -> None:
    body = b'{"i": 1, "n": 1, "s": "x", "b": true, "d": "2020-01-01", "a": [1, 2.5], "t": ["x"]}\n' * 100
    source = Source(prefix="x/")
    (batch,) = json_rows.read(io.BytesIO(body), len(body), source, list(COLUMNS), LIMITS, COLUMNS)
    assert batch.table.schema.types[:5] == [pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.string()]
    assert batch.table.schema.types[5:7] == [pa.list_(pa.float64()), pa.list_(pa.string())]
    assert batch.table[RAW][99].as_py() == body.splitlines()[0].decode()
    assert batch.table.num_rows == 100


def test_a_list_is_an_array_only_where_the_column_takes_lists() -> None:
    body = b'{"a": [1, 2], "s": ["x"]}\n{"a": [1, 2]}\n{"a": "1|2"}'
    rows, refused = read(body, Source(prefix="x/"), COLUMNS)
    assert [reasons for _, reasons, _ in refused] == [("s: not a plain value",)]
    assert rows[2][1][5] == "[1.0, 2.0]" and rows[3][2] == ("a: not an array of numbers",)
    of_text = {**COLUMNS, "a": Column(type="array", items="number", separator="|", known="m", nullable=True)}
    _, refused = read(body, Source(prefix="x/"), of_text)
    assert refused[-1][1] == ("a: not a plain value",)


def test_one_faulty_line_leaves_the_others_to_arrow() -> None:
    good = json.dumps({"i": 1, "n": 0.5, "s": "x", "b": None, "d": None})
    body = "\n".join([*[good] * 1000, '{"i": ', *[good] * 1000]).encode()
    batches = list(json_rows.read(io.BytesIO(body), len(body), Source(prefix="x/"), list(COLUMNS), LIMITS, COLUMNS))
    typed = sum(batch.table.num_rows for batch in batches if batch.table["i"].type == pa.int64())
    assert typed > 1900
    assert sum(batch.table.num_rows for batch in batches) == 2000
    assert [row.line for batch in batches for row in batch.refused] == [1001]
