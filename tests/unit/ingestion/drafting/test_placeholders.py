"""A draft leaves numbers that seem to mean "not known" out of a range, asks, and says how they become empty cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rempart.flows.training import try_pipeline
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.engine import staging
from rempart.ingestion.engine.deliveries import rows_of
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.sampling.sample import Declared, Sample
from rempart.settings.expressions.syntax import columns_of
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
    query = (
        "replace `table` by `query: include/sql/calls.sql`, one SELECT of all columns, with `NULLIF(age, -1) AS age`"
    )
    assert f"If so, {query}, and `nullable: true` to age;" in line
    assert "null_values" not in line


@pytest.mark.parametrize(
    ("column", "number", "given"),
    [
        ("user", 999, 'NULLIF("user", 999) AS "user"'),
        ("left", 999, 'NULLIF("left", 999) AS "left"'),
        ("users", 999, "NULLIF(users, 999) AS users"),
        ("age", 999.9, "NULLIF(age, '999.9') AS age"),
    ],
)
def test_the_query_is_sql_that_postgresql_takes(column: str, number: float, given: str) -> None:
    source = {"kind": "sql", "connection": "shop", "table": "shop.calls"}
    declared = {column: Declared("number"), "minutes": Declared("integer")}
    table = calls(column, with_some(number, 20, AGES))
    sample = Sample("shop.calls", table, Dialect(), source, ROWS, True, declared, ["call"], text=False)
    text = draft_pipeline(sample, target="minutes")
    assert f"with `{given}`, and" in unbroken(text)


def widened(text: str) -> str:
    """Return a draft in which a question that offers no `null_values` is answered as it says: with an expression."""
    asked = re.search(
        r'widen the range. If it means "not known", also replace (\w+) in `columns` of `own` by `(.*?\})`',
        unbroken(text),
    )
    assert asked
    text = re.sub(rf"(column: {asked[1]}, min_value: )-?\d+, max_value: \d+", r"\1-9999, max_value: 9999", text)
    return re.sub(rf"    columns: \[{asked[1]}(, )?(.*)\]", rf"    columns: [\2]\n    {asked[2]}", text)


def published(text: str, file: Path, out: Path) -> pa.Table:
    """Return the rows of a file as a run would publish them."""
    pipeline = load(text)
    staging.stage(rows_of(file, pipeline, Limits()), pipeline, out, Limits(), lambda _: {})
    return pq.read_table(out)


def test_a_number_that_is_a_value_of_another_column_stays_one(tmp_path: Path) -> None:
    table = calls("age", with_some(-1, 20, AGES))
    temperatures = [n % 30 - 10 for n in range(ROWS)]
    table = table.append_column("temp", pa.array(map(str, temperatures)))
    write(file := tmp_path / "calls.csv", csv_text(table))
    text = draft_pipeline(file, target="minutes")
    line = rule(text, "age")
    assert "CHECK: -1 (20 of 400 cells) seems" in line
    assert "`null_values` would empty such cells of temp, too" in line and "add" not in line
    followed = widened(text)
    assert refused(text, file) == ROWS // 20 and refused(followed, file) == 0
    assert published(followed, file, tmp_path / "out.parquet")["temp"].to_pylist() == temperatures
    assert columns_of(load(followed).features["own"].expressions["age_told"]) == ["age"]


def test_of_the_other_columns_three_are_named() -> None:
    table = calls("age", with_some(999, 20, AGES))
    for n in range(5):
        table = table.append_column(f"price_{n}", pa.array(str(900 + n * 7 % 150) for n in range(ROWS)))
    assert "would empty such cells of price_0, price_1, price_2 and 2 more, too" in rule(drafted(table), "age")


def test_a_key_has_values_that_another_column_may_not_empty() -> None:
    table = calls("age", with_some(999, 20, AGES))
    table = table.set_column(0, "call", pa.array(str(800 + n) for n in range(ROWS)))
    assert "`null_values` would empty such cells of call, too" in rule(drafted(table), "age")


def test_of_two_columns_with_the_same_number_for_not_known_none_has_it_as_a_value() -> None:
    table = calls("age", with_some(-1, 20, AGES))
    text = drafted(table.append_column("height", pa.array(map(str, with_some(-1, 40, AGES)))))
    assert 'add "-1" to `null_values`' in rule(text, "age") and 'add "-1" to `null_values`' in rule(text, "height")


def test_a_reserved_word_is_quoted_in_the_expression() -> None:
    table = calls("between", with_some(-1, 20, with_some(9999, 21, AGES)))
    table = table.append_column("temp", pa.array(str(n % 30 - 10) for n in range(ROWS)))
    text = drafted(table.append_column("between_told", pa.array(map(str, AGES))))
    expressions = load(widened(text)).features["own"].expressions
    assert expressions == {"between_told_2": 'nullif(nullif("between", -1), 9999)'}


def test_with_a_unit_the_whole_cell_becomes_empty(tmp_path: Path) -> None:
    table = calls("dist", [f"{cell} km" for cell in with_some(999, 20, AGES)])
    write(file := tmp_path / "calls.csv", csv_text(table))
    text = draft_pipeline(file, target="minutes")
    assert 'add "999 km" to `null_values`' in rule(text, "dist")
    assert refused(text, file) == ROWS // 20 and refused(answered(text), file) == 0


def test_with_a_unit_the_other_way_takes_the_bare_number(tmp_path: Path) -> None:
    table = calls("dist", [f"{cell} km" for cell in with_some(999, 20, AGES)])
    table = table.append_column("sign", pa.array("999 km" if n % 40 == 3 else "none" for n in range(ROWS)))
    write(file := tmp_path / "calls.csv", csv_text(table))
    text = draft_pipeline(file, target="minutes")
    assert "would empty such cells of sign, too" in rule(text, "dist") and refused(widened(text), file) == 0


def test_an_open_row_is_not_made_of_a_target_that_means_not_known() -> None:
    known = 380
    target: list[float | str] = ["" if n >= known else -1 if n % 25 == 0 else 5 + n * 7 % 40 for n in range(ROWS)]
    closed = ["" if n >= known else str(date(2025, 1, 2) + timedelta(days=n + n % 5)) for n in range(ROWS)]
    table = calls("age", with_some(-1, 20, AGES), target).append_column("closed", pa.array(closed))
    text = drafted(pa.table({c: pc.if_else(pc.equal(table[c], ""), None, table[c]) for c in table.column_names}))
    assert "a row without it is open" in unbroken(text)
    assert "`null_values` would empty such cells of minutes, too" in rule(text, "age")


HELD = "they are too many: deliveries are held back"


@pytest.mark.parametrize(("every", "held"), [(50, False), (20, False), (19, True), (3, True)])
def test_the_draft_says_if_rows_without_a_target_hold_a_delivery_back(every: int, held: bool) -> None:
    target: list[float | str] = [5 + n * 7 % 40 for n in range(ROWS)]
    line = rule(drafted(calls("age", AGES, with_some(9999, every, target))), "minutes")
    assert (f"and {HELD} unless you raise `max_quarantined`; else widen it" in line) is held
    assert ("held back" in line) is held


@pytest.mark.parametrize("columns", [2, 3, 4, 6])
@pytest.mark.parametrize(("shifted", "held"), [(0, False), (1, True)])
def test_a_row_with_several_such_numbers_counts_once(columns: int, shifted: int, held: bool, tmp_path: Path) -> None:
    table = calls("age", AGES)
    for i in range(columns):
        cells = [-9 if (n + i * shifted) % 30 == 0 else AGES[n] for n in range(ROWS)]
        table = table.append_column(f"age_{i}", pa.array(map(str, cells)))
    write(file := tmp_path / "calls.csv", csv_text(table))
    text = draft_pipeline(file, target="minutes")
    (tried,) = try_pipeline.try_pipeline(load(text), [file], lambda *_: None).files
    assert tried.held_back is held
    lines = [line for line in folded(text).splitlines() if "held back" in line]
    assert len(lines) == (0 if not held else columns if columns <= 3 else 1)
    told = f"and with those of other columns {HELD}" if columns <= 3 else f"and {HELD}"
    assert all(told in line for line in lines)


def test_many_columns_are_told_which_numbers_are_values_elsewhere() -> None:
    table = calls("age", with_some(-999, 20, AGES))
    for n in range(1, 4):
        table = table.append_column(f"age_{n}", pa.array(map(str, with_some(-1, 20, AGES))))
    table = table.append_column("dist", pa.array(f"{cell} km" for cell in with_some(999, 20, AGES)))
    table = table.append_column("temp", pa.array(str(n % 30 - 10) for n in range(ROWS)))
    (above,) = (line for line in folded(drafted(table)).splitlines() if line.startswith("expectations:"))
    assert 'If so, add "-999", "999 km" to `null_values`, which holds for all columns' in above
    assert "For age_1, age_2, age_3, widen the range, and use `nullif` in `expressions` (docs/how-to/files-as" in above
    assert "`null_values` would empty such cells of temp, too" in above


def test_of_many_columns_of_a_database_one_query_gives_null() -> None:
    names = [f"age_{n}" for n in range(4)]
    table = calls("age_0", with_some(999, 20, AGES))
    for name in names[1:]:
        table = table.append_column(name, table["age_0"])
    source = {"kind": "sql", "connection": "shop", "table": "shop.calls"}
    declared = {name: Declared("integer") for name in (*names, "minutes")}
    sample = Sample("shop.calls", table, Dialect(), source, ROWS, True, declared, ["call"], text=False)
    text = unbroken(draft_pipeline(sample, target="minutes"))
    told = "one SELECT of all columns, with `NULLIF(age_0, 999) AS age_0` and so on, and `nullable: true` to each"
    assert f"replace `table` by `query: include/sql/calls.sql`, {told}" in text


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
