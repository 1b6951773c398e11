"""Judging each distinct value once gives what judging each row gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion import expectations
from rempart.ingestion.judging import distinct
from rempart.ingestion.judging.distinct import DistinctValues
from rempart.settings.pipeline import Expectation


def expect(name: str, reason: str, **arguments: Any) -> Expectation:
    return Expectation.model_validate({"expect": name, "reason": reason, **arguments})


DECLARED = [
    expect("expect_column_values_to_be_between", "n", column="n", min_value=2, max_value=5),
    expect("expect_column_values_to_match_regex", "s", column="s", regex="^a"),
    expect("expect_column_pair_values_a_to_be_greater_than_b", "pair", column_A="n", column_B="m"),
    expect("expect_column_values_to_be_in_set", "n again", column="n", value_set=[1, 2, 3]),
    expect("expect_column_values_to_not_be_null", "no s", column="s"),
    expect("expect_select_column_values_to_be_unique_within_record", "pair", column_list=["m", "n"]),
]
RULES: list[Any] = [
    lambda row: row["n"] is not None and not 2 <= row["n"] <= 5,
    lambda row: row["s"] is not None and not row["s"].startswith("a"),
    lambda row: row["n"] is None or row["m"] is None or row["n"] <= row["m"],
    lambda row: row["n"] not in (None, 1, 2, 3),
    lambda row: row["s"] is None,
    lambda row: row["n"] == row["m"],
]


def by_rule(declared: Sequence[Expectation], table: pa.Table) -> Mapping[int, Sequence[int]]:
    """Stand for Great Expectations."""
    rows = table.to_pylist()
    return {i: [at for at, row in enumerate(rows) if RULES[i](row)] for i in range(len(declared))}


row = st.tuples(
    st.none() | st.integers(0, 7), st.none() | st.sampled_from([0.5, 2.0, 3.0]), st.sampled_from("ab") | st.none()
)


def made(rows: Sequence[tuple[Any, ...]], chunks: int = 1) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = {"n": pa.int64(), "m": pa.float64(), "s": pa.string()}
    table = pa.table({name: pa.array(column, kinds[name]) for name, column in zip(kinds, columns, strict=True)})
    size = max(1, table.num_rows // chunks)
    parts = [table.slice(at, size) for at in range(0, table.num_rows, size)]
    return pa.concat_tables(parts) if parts else table


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(row, max_size=30), max_size=4), st.integers(1, 3), st.sampled_from([0, 2, 1000]))
def test_the_same_as_row_by_row_from_table_to_table(
    tables: list[list[tuple[Any, ...]]], chunks: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "MOST_VALUES", most)
        judge = DistinctValues(DECLARED, by_rule)
        for rows in tables:
            table = made(rows, chunks)
            assert judge(table) == expectations.reasons(DECLARED, by_rule(DECLARED, table))


def test_a_value_is_judged_once() -> None:
    seen: list[int] = []

    def places(declared: Sequence[Expectation], table: pa.Table) -> Mapping[int, Sequence[int]]:
        seen.append(table.num_rows)
        return by_rule(declared, table)

    judge = DistinctValues(DECLARED[:2], places)
    rows = [(1, None, "a"), (2, None, "b"), (1, None, None)] * 100
    for _ in range(3):
        judge(made(rows))
    judge(made([*rows, (7, None, "a")]))
    assert seen == [3, 1]


def test_lists_are_judged_row_by_row() -> None:
    declared = [expect("expect_column_values_to_be_null", "list", column="l")]
    table = pa.table({"l": pa.array([[1.0], None, [1.0]], pa.list_(pa.float64()))})
    assert DistinctValues(declared, lambda _, rows: {0: pa.compute.indices_nonzero(rows["l"].is_valid()).to_pylist()})(
        table
    ) == {0: ["list"], 2: ["list"]}


def test_great_expectations_gives_the_same() -> None:
    table = made([(n % 8, [None, 0.5, 2.0, 3.0][n % 4], ["a", "b", None][n % 3]) for n in range(96)])
    judge = DistinctValues(DECLARED)
    want = expectations.broken(DECLARED, table)
    assert want
    assert judge(table) == want
    assert judge(table) == want
