"""Great Expectations checks each row by itself; its results hold values, so they stay inside."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from rempart.errors import PipelineError
from rempart.ingestion.expectations import ROW_LEVEL, broken, faults, places
from rempart.settings.pipeline import Expectation

CANARY = "canary-7f3a"
TABLE = pa.table(
    {
        "n": pa.array([1, 50, None, 7], pa.int64()),
        "m": pa.array([2.0, 1.0, 3.0, 8.5], pa.float64()),
        "d": pa.array([date(2020, 1, 1), date(1, 1, 1), None, date(2120, 1, 1)], pa.date32()),
        "s": pa.array(["ab", None, CANARY, "zz"], pa.string()),
        "b": pa.array([True, False, None, True], pa.bool_()),
        "e": pa.array([None, None, None, None], pa.string()),
    }
)


def expect(name: str, reason: str = "no", **arguments: Any) -> Expectation:
    return Expectation.model_validate({"expect": name, "reason": reason, **arguments})


@pytest.mark.parametrize(
    ("expectation", "rows"),
    [
        (expect("expect_column_values_to_be_between", column="n", min_value=0, max_value=10), {1}),
        (
            expect(
                "expect_column_values_to_be_between",
                column="d",
                min_value=date(2000, 1, 1),
                max_value=date(2100, 12, 31),
            ),
            {1, 3},
        ),
        (expect("expect_column_values_to_match_regex", column="s", regex="^[a-z]{2}$"), {2}),
        (expect("expect_column_values_to_not_be_null", column="s"), {1}),
        (expect("expect_column_values_to_be_in_set", column="b", value_set=[True]), {1}),
        (expect("expect_column_pair_values_a_to_be_greater_than_b", column_A="m", column_B="n"), {1, 2}),
        (
            expect(
                "expect_column_pair_values_a_to_be_greater_than_b",
                column_A="m",
                column_B="n",
                ignore_row_if="either_value_is_missing",
            ),
            {1},
        ),
        (expect("expect_multicolumn_sum_to_equal", column_list=["m", "n"], sum_total=3), {1, 2, 3}),
        (expect("expect_column_values_to_match_regex", column="e", regex="^x$"), set()),
    ],
)
def test_the_rows_that_break_it(expectation: Expectation, rows: set[int]) -> None:
    found = broken([expectation], TABLE)
    assert set(found) == rows
    assert all(reasons == ["no"] for reasons in found.values())


def test_a_row_collects_every_reason_even_from_two_like_expectations() -> None:
    same = {"column": "n", "min_value": 0, "max_value": 10}
    found = broken(
        [
            expect("expect_column_values_to_be_between", "first", **same),
            expect("expect_column_values_to_be_between", "second", **same),
            expect("expect_column_values_to_be_between", "third", column="m", min_value=1.5, max_value=8),
        ],
        TABLE,
    )
    assert found == {1: ["first", "second", "third"], 3: ["third"]}


def test_no_rows_and_no_expectations_are_no_work() -> None:
    assert broken([], TABLE) == {}
    assert broken([expect("expect_column_values_to_not_be_null", column="s")], TABLE.slice(0, 0)) == {}


@pytest.mark.parametrize(
    ("expectation", "what"),
    [
        (expect("expect_column_values_to_be_nice", column="n"), "not an expectation that checks each row by itself"),
        (expect("expect_column_values_to_be_unique", column="n"), "not an expectation that checks each row by itself"),
        (expect("expect_column_mean_to_be_between", column="n", min_value=1), "checks each row by itself"),
        (expect("expect_column_values_to_be_between", column="n", min_value=1, mostly=0.9), "mostly"),
        (expect("expect_column_values_to_be_between", column="n", minimum=1), "no argument"),
    ],
)
def test_what_cannot_judge_a_row_is_refused_with_a_remedy(expectation: Expectation, what: str) -> None:
    (error,) = faults({0: expectation})
    assert re.search(what, error.what) and error.hint


def test_every_allowed_expectation_exists() -> None:
    import great_expectations.expectations as known

    for name in ROW_LEVEL:
        assert hasattr(known, "".join(word.capitalize() for word in name.split("_")))


def test_an_expectation_that_does_not_fit_its_column_says_so_without_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(PipelineError, match="cannot be applied to s") as error:
        broken([expect("expect_column_values_to_be_between", column="s", min_value=1, max_value=2)], TABLE)
    assert CANARY not in f"{error.value!r}{error.value.__cause__!r}{error.value.__context__!r}"
    assert CANARY not in caplog.text


def test_values_reach_neither_logs_nor_output(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    found = broken([expect("expect_column_values_to_match_regex", "not a code", column="s", regex="^[a-z]{2}$")], TABLE)
    assert found == {2: ["not a code"]}
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err == ""
    assert CANARY not in caplog.text


def test_what_judges_no_row_is_loaded_when_it_is_used() -> None:
    code = (
        "import gc, sys; from rempart.ingestion import expectations; expectations.great_expectations(); "
        "print('scipy.stats._stats_py' in sys.modules, 'altair.vegalite' in sys.modules, gc.isenabled()); "
        "from scipy import stats; print(float(stats.norm.cdf(0)))"
    )
    asked = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert asked.stdout.split() == ["False", "False", "True", "0.5"]


def test_a_mistyped_rule_or_argument_gets_a_similar_name() -> None:
    def rule(name: str, **arguments: object) -> Expectation:
        return Expectation.model_validate({"expect": name, "column": "a", "reason": "x", **arguments})

    misnamed, misspelled = faults(
        {
            3: rule("expect_column_values_to_be_betwen"),
            4: rule("expect_column_values_to_be_between", max_value=1),
            5: rule("expect_column_values_to_be_between", max_valeu=1),
        }
    )
    assert misnamed.hint.startswith("Did you mean expect_column_values_to_be_between? ")
    assert misnamed.what.startswith("expectations, rule 4.expect: ")
    assert misspelled.what.startswith("expectations, rule 6: ") and "no argument 'max_valeu'" in misspelled.what
    assert "extra fields" not in misspelled.what and misspelled.hint == "Did you mean max_value?"


def test_each_table_is_judged_by_its_own_rows_and_columns_also_beside_others() -> None:
    """Great Expectations keeps its last table: the next one gets no answer that is about it."""

    def judged(number: int) -> bool:
        column, size = ("n", "m")[number % 2], number % 7 + 1
        rule = expect("expect_column_values_to_be_between", column=column, max_value=size // 2)
        values = pa.array(range(size), pa.int64())
        table = pa.table({column: values, "s": pa.array(["x"] * size)})
        gone = expect("expect_column_values_to_not_be_null", "gone", column="s")
        return places([rule, gone], table) == ({0: list(range(size // 2 + 1, size))} if size > 2 else {})

    assert all(judged(number) for number in range(14))
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(judged, range(80)))
