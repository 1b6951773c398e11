"""A draft leaves numbers that seem to mean "not known" out of a range, asks, and says how they become empty cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rempart.flows.training import try_pipeline
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.sampling.sample import Declared, Sample
from rempart.settings.sources import Dialect
from tests.unit.ingestion.drafts import folded, unbroken
from tests.unit.ingestion.test_draft import load, write

ROWS = 400


def calls(column: str, cells: list[float | str], target: list[float | str] | None = None) -> pa.Table:
    """Calls for an ambulance, as text: a number, a column of `cells`, and the minutes until it came."""
    days = [str(date(2025, 1, 1) + timedelta(days=n)) for n in range(ROWS)]
    minutes = target or [5 + n * 7 % 40 for n in range(ROWS)]
    names: Sequence[str] = [f"C{n}" for n in range(ROWS)]
    columns: dict[str, Sequence[float | str]] = {"call": names, "day": days, column: cells, "minutes": minutes}
    return pa.table({name: [str(cell) for cell in values] for name, values in columns.items()})


def csv_text(table: pa.Table) -> str:
    rows = [",".join(row.values()) for row in table.to_pylist()]
    return "\n".join([",".join(table.column_names), *rows, ""])


def drafted(table: pa.Table) -> str:
    return draft_pipeline(Sample("calls.csv", table, Dialect(), {"format": "csv"}, ROWS, True), target="minutes")


def rule(text: str, column: str) -> str:
    """Return the line of a column's range, with what the draft asks and tells of it."""
    (line,) = (line for line in folded(text).splitlines() if f"reason: {column} is out of range" in line)
    return line


def with_some(number: float | str, every: int, usual: list[float | str]) -> list[float | str]:
    return [number if n % every == 0 else usual[n] for n in range(ROWS)]


AGES: list[float | str] = [n * 13 % 95 for n in range(ROWS)]


@pytest.mark.parametrize(("number", "every"), [(999, 200), (999, 20), (-1, 20), (-1, 4), (-999, 2), (99999, 10)])
def test_a_number_for_not_known_is_no_end_of_the_range_and_is_asked_about(number: int, every: int) -> None:
    line = rule(drafted(calls("age", with_some(number, every, AGES))), "age")
    assert re.search("min_value: 0, max_value: 9[34],", line)
    told = (
        f'{number} ({ROWS // every} of {ROWS} cells) seems to mean "not known". If so, add "{number}" to `null_values`'
    )
    assert (
        f"    # CHECK: {told}, which holds for all columns, and `nullable: true` to age; else widen the range" in line
    )
    assert ("they are too many: deliveries are held back" in line) is (every < 20)


@pytest.mark.parametrize(
    "cells",
    [
        [(-1, 0, 1)[n % 3] for n in range(ROWS)],
        [n * 7 % 40 - 20 for n in range(ROWS)],
        [n * 7 % 130 for n in range(ROWS)],
        with_some(99.99, 40, [5 + n * 13 % 95 + 0.5 for n in range(ROWS)]),
        [999 if n % 20 else n * 13 % 95 for n in range(ROWS)],
        with_some(500, 40, AGES),
    ],
    ids=[
        "three answers",
        "-1 among negative numbers",
        "99 among others",
        "a price",
        "the usual value",
        "another number",
    ],
)
def test_numbers_that_may_be_meant_stay_in_the_range(cells: list[float | str]) -> None:
    text = drafted(calls("size", cells))
    assert '"not known"' not in text
    numbers = [float(cell) for cell in cells]
    low, high = (float(found) for found in re.findall(r"_value: ([-0-9.]+)", rule(text, "size")))
    assert low <= min(numbers) and max(numbers) <= high


def test_two_such_numbers_are_one_question() -> None:
    cells = with_some(-1, 20, with_some(9999, 7, AGES))
    line = rule(drafted(calls("age", cells)), "age")
    assert f"CHECK: -1 (20 of {ROWS} cells) and 9999 ({cells.count(9999)}) seem to mean" in line
    assert 'add "-1", "9999" to `null_values`' in line


def test_of_the_target_such_rows_stay_refused_and_do_not_set_the_limit() -> None:
    target: list[float | str] = [5 + n * 7 % 40 for n in range(ROWS)]
    text = drafted(calls("age", AGES, with_some(9999, 50, target)))
    assert 'CHECK: 9999 (8 of 400 cells) seems to mean "not known". If so, leave the range: such rows go' in rule(
        text, "minutes"
    )
    assert "`null_values`" not in text and load(text).gate.limit < 20


def answered(text: str) -> str:
    """Return a draft in which the question about a column's numbers is answered as it says: they mean "not known"."""
    found = re.search(r"If so, add (.*?) to `(source|null_values)`.* and `nullable: true` to (\w+);", unbroken(text))
    assert found
    if found[2] == "source":
        text = text.replace("source:\n", f"source:\n  {found[1].strip('`')}\n")
    else:
        text = text.replace('null_values: [""', f'null_values: ["", {found[1]}')
    return re.sub(rf"(  {found[3]}: {{[^}}]*)}}", r"\1, nullable: true}", text)


def refused(text: str, file: Path) -> int:
    (tried,) = try_pipeline.try_pipeline(load(text), [file], lambda *_: None).files
    return tried.refused


@pytest.mark.parametrize(
    ("ending", "number"), [("csv", "-1"), ("csv", "-999.0"), ("jsonl", "-9.0"), ("parquet", "-999.0")]
)
def test_the_answer_that_a_draft_names_makes_such_cells_empty(tmp_path: Path, ending: str, number: str) -> None:
    table = calls("age", with_some(number, 20, AGES))
    file = tmp_path / f"calls.{ending}"
    if ending == "csv":
        write(file, csv_text(table))
    elif ending == "jsonl":
        form = '{{"call": "{call}", "day": "{day}", "age": {age}, "minutes": {minutes}}}'
        write(file, "\n".join([form.format(**row) for row in table.to_pylist()] + [""]))
    else:
        kinds = pa.schema({"call": pa.string(), "day": pa.string(), "age": pa.float64(), "minutes": pa.int64()})
        pq.write_table(table.cast(kinds), file)
    text = draft_pipeline(file, target="minutes")
    assert refused(text, file) == ROWS // 20
    assert refused(answered(text), file) == 0


def test_of_a_database_the_query_gives_null() -> None:
    table = calls("age", with_some(-1, 20, AGES))
    declared = {"age": Declared("integer"), "minutes": Declared("integer")}
    source = {"kind": "sql", "connection": "shop", "table": "public.calls"}
    sample = Sample("public.calls", table, Dialect(), source, ROWS, True, declared, ["call"], text=False)
    line = rule(draft_pipeline(sample), "age")
    assert "If so, let the SQL of the source give `NULLIF(age, -1)`, and `nullable: true` to age;" in line


@pytest.mark.parametrize(("columns", "in_each"), [(3, 3), (4, 0)])
def test_many_columns_with_such_numbers_are_one_question(columns: int, in_each: int) -> None:
    table = calls("age", with_some(-999, 20, AGES))
    for n in range(1, columns):
        table = table.append_column(f"age_{n}", table["age"])
    lines = folded(drafted(table)).splitlines()
    told = f'-999 (20 of {ROWS} cells) seems to mean "not known"'
    assert sum(f"# {told}" in line or f"# CHECK: {told}" in line for line in lines) == columns
    assert sum(f"# CHECK: {told}" in line for line in lines) == in_each
    (above,) = (line for line in lines if line.startswith("expectations:"))
    assert ('4 columns have a number that seems to mean "not known", as their notes tell.' in above) is (not in_each)
