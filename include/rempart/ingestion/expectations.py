"""The pipeline's Great Expectations, applied to each row by itself: which rows break which expectation.

Results of Great Expectations hold values of the rows; they never leave this module. Neither do its log records or
error texts.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rempart import lean_imports
from rempart.errors import PipelineError
from rempart.ingestion import patterns
from rempart.settings.pipeline import Expectation
from rempart.settings.schema import told_path

if TYPE_CHECKING:
    import pyarrow as pa

ROW = "_row"
"""Name of the index column: a row's position, which is no data."""

ROW_LEVEL = frozenset(
    {
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_column_pair_values_to_be_equal",
        "expect_column_pair_values_to_be_in_set",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_dateutil_parseable",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_be_json_parseable",
        "expect_column_values_to_be_null",
        "expect_column_values_to_match_json_schema",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_match_strftime_format",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_not_match_regex_list",
        "expect_multicolumn_sum_to_equal",
        "expect_multicolumn_values_to_be_equal",
        "expect_select_column_values_to_be_unique_within_record",
    }
)
"""Expectations that check a row without reference to another row.

With a check such as uniqueness, outliers or order, the result of a row would depend on the other rows of its delivery.
"""

_of_thread = threading.local()


def _check_name(index: int, expectation: Expectation) -> None:
    where = told_path("expectations", index, "expect")
    if expectation.expect not in ROW_LEVEL:
        raise PipelineError(
            f"{where}: '{expectation.expect}' is not an expectation that checks each row by itself",
            _similar(expectation.expect, ROW_LEVEL)
            + "Use one of: "
            + ", ".join(sorted(ROW_LEVEL))
            + ". Repeated keys are refused without an expectation.",
        )
    if "mostly" in expectation.arguments:
        raise PipelineError(
            f"{told_path('expectations', index, 'mostly')}: each row is checked by itself, so no share is allowed",
            "Remove `mostly`; `max_quarantined` limits the share of refused rows.",
        )


def _similar(wrong: str, known: Iterable[str]) -> str:
    close = get_close_matches(wrong, sorted(known), n=1)
    return f"Did you mean {close[0]}? " if close else ""


def _class_of(index: int, expectation: Expectation) -> Any:
    _check_name(index, expectation)
    return getattr(
        great_expectations().expectations, "".join(word.capitalize() for word in expectation.expect.split("_"))
    )


def _argument(value: object) -> object:
    """Convert an argument: dates and times in YAML are compared with columns that are timestamps in pandas, in UTC."""
    if isinstance(value, list):
        return [_argument(item) for item in value]
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date):
        import pandas as pd

        return pd.Timestamp(value)
    return value


def faults(rules: Mapping[int, Expectation], *, thorough: bool = True) -> list[PipelineError]:
    """Return what is wrong with each rule, by its position in the file: a name that is not allowed, or its arguments.

    Without `thorough` the arguments are not checked, and Great Expectations is not loaded.
    """
    found = []
    with _quiet():
        for index, expectation in rules.items():
            try:
                _check_name(index, expectation)
                if thorough:
                    patterns.check(index, expectation)
                    _build(index, expectation)
            except PipelineError as error:
                found.append(error)
    return found


def _build(index: int, expectation: Expectation) -> Any:
    expectation_class = _class_of(index, expectation)
    try:
        return expectation_class(**{name: _argument(value) for name, value in expectation.arguments.items()})
    except (ValueError, TypeError) as cause:  # pydantic's error is a ValueError
        known = set(getattr(expectation_class, "__fields__", {}))
        if known and (unknown := [name for name in expectation.arguments if name not in known]):
            raise PipelineError(
                f"{told_path('expectations', index)}: '{expectation.expect}' has no argument "
                + ", ".join(f"'{name}'" for name in unknown),
                "".join(_similar(name, known) for name in unknown).strip()
                or "Correct it as the documentation of Great Expectations describes that expectation.",
            ) from cause
        raise PipelineError(
            f"{told_path('expectations', index)}: the arguments of '{expectation.expect}' are not valid: {cause}",
            "Correct them as the documentation of Great Expectations describes that expectation.",
        ) from cause


def broken(expectations: Sequence[Expectation], table: pa.Table) -> dict[int, list[str]]:
    """Return reasons against rows, by position in the table; rows that meet every expectation are absent.

    An empty cell meets an expectation about one column (the schema decides whether it may be empty); one about several
    columns has `ignore_row_if`. Raises PipelineError if an expectation cannot be applied to its columns.
    """
    return reasons(expectations, places(expectations, table))


def reasons(expectations: Sequence[Expectation], found: Mapping[int, Iterable[int]]) -> dict[int, list[str]]:
    """Return reasons by row, in the order of the expectations. `found`: what `places` returns."""
    against: dict[int, list[str]] = {}
    for index in sorted(found):
        reason = expectations[index].reason
        for row in found[index]:
            against.setdefault(row, []).append(reason)
    return against


def places(expectations: Sequence[Expectation], table: pa.Table) -> dict[int, list[int]]:
    """Return which rows break which expectation: ascending positions of rows by the index of the expectation."""
    if not expectations or not table.num_rows:
        return {}
    found: dict[int, list[int]] = {}
    for index, expectation in enumerate(expectations):
        if expectation.expect in patterns.NAMES:
            found[index] = patterns.broken(index, expectation, table)
    others = {i: expectation for i, expectation in enumerate(expectations) if expectation.expect not in patterns.NAMES}
    if others:
        with _quiet():
            _add_broken(others, table, found)
    return {index: rows for index, rows in found.items() if rows}


def columns(expectation: Expectation) -> list[str]:
    """Return the columns of an expectation."""
    named = [value for name, value in expectation.arguments.items() if name.startswith("column")]
    return [column for value in named for column in (value if isinstance(value, list) else [value])]


def _add_broken(expectations: Mapping[int, Expectation], table: pa.Table, against: dict[int, list[int]]) -> None:
    """Add what Great Expectations finds: the rows that break each expectation."""
    import numpy as np

    objects = [_build(index, expectation) for index, expectation in expectations.items()]
    used = sorted({column for expectation in expectations.values() for column in columns(expectation)})
    frame = _comparable(table.select(used)).to_pandas(date_as_object=False)
    frame[ROW] = np.arange(table.num_rows)
    batch = _all_rows().get_batch({"dataframe": frame})
    form = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": [ROW],
        "return_unexpected_index_query": False,
    }
    for (index, expectation), obj in zip(expectations.items(), objects, strict=True):
        result = batch.validate(obj, result_format=form)
        found = result.result.get("unexpected_index_list")
        if result.success:
            continue
        if not found:  # it could not be evaluated; its message may quote values
            raise PipelineError(
                f"{told_path('expectations', index)}: '{expectation.expect}' cannot be applied to "
                + ", ".join(columns(expectation)),
                "Check that its arguments fit the type of the column (a number for a number, a date for a date).",
            )
        against[index] = sorted({int(entry[ROW]) for entry in found})


def _all_rows() -> Any:
    """Return what gives a frame's rows to expectations.

    A thread keeps its own, since each part of it writes a configuration as YAML when it is made; threads that shared
    one would get each other's rows.
    """
    if found := getattr(_of_thread, "rows", None):
        return found
    gx = great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    _of_thread.rows = asset.add_batch_definition_whole_dataframe("all")
    return _of_thread.rows


def _comparable(table: pa.Table) -> pa.Table:
    """Return the table with decimals as floats and timestamps as UTC without a zone, as a YAML file writes limits."""
    import pyarrow as pa

    def kind(declared: pa.DataType) -> pa.DataType:
        if pa.types.is_decimal(declared):
            return pa.float64()
        return pa.timestamp("us") if pa.types.is_timestamp(declared) else declared

    return table.cast(pa.schema([pa.field(field.name, kind(field.type)) for field in table.schema]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Great Expectations from logging: it writes hundreds of lines, and values into some of them."""
    import warnings

    logger = logging.getLogger("great_expectations")
    before = logger.disabled, logger.level, logger.propagate
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled, logger.level, logger.propagate = before


def great_expectations() -> Any:
    """Return the package, loaded with all its expectations, and without what judges no row.

    Its import takes 2.5 s of processor time otherwise. Half of that is scipy.stats, altair, and the garbage collector.
    """
    if "great_expectations" not in sys.modules:
        import pandas  # noqa: F401 - needed anyhow, and loaded as usual
    return lean_imports.load("great_expectations")


def load() -> None:
    """Load Great Expectations without its log: a process that forks for each run does so once, for all of them."""
    with _quiet():
        great_expectations()
