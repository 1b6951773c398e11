"""Rows whose own target is not known yet: accepted, with features, counted, and no examples until it is delivered."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.errors import LabelsMissing, TrainingError
from rempart.features import in_memory
from rempart.features.label_feed import told_open
from rempart.flows.training.labelled import split, undated
from rempart.flows.training.train import without_late
from rempart.settings import config
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.conftest import no_connection
from tests.unit.training import stage

FIRST = date(2026, 1, 1)
START = 31
"""Days after the first one at which the hold-out begins."""
NULLABLE = {"closed_on": {"nullable": True}, "days": {"nullable": True}}


def loans(columns: dict[str, dict[str, Any]] = NULLABLE, **keys: Any) -> ModelPipeline:
    schema: dict[str, dict[str, Any]] = {
        "loan": {"type": "integer", "known": "lent"},
        "lent_on": {"type": "date", "known": "lent"},
        "pages": {"type": "integer", "known": "lent"},
        "reader": {"type": "string", "known": "lent"},
        "closed_on": {"type": "date", "known": "closed"},
        "days": {"type": "number", "known": "closed"},
        "seen": {"type": "date", "known": "lent"},
    }
    past = {"kind": "trailing", "by": ["reader"], "windows": ["30d"], "mean": ["days"], "count": ["days"]}
    spec = {
        "name": "loans",
        "classification": "internal",
        "source": {"prefix": "loans/"},
        "on_conflict": "newest",
        "key": ["loan"],
        "moments": {"lent": {"column": "lent_on"}, "closed": {"column": "closed_on"}},
        "partition_by": "lent_on",
        "schema": {name: column | columns.get(name, {}) for name, column in schema.items()},
        "features": {"own": {"kind": "row", "columns": ["pages"]}, "past": past},
        "prediction": {"target": "days", "task": "regression", "at": "lent"},
        "holdout": {"column": "lent_on", "start": FIRST + timedelta(days=START)},
        "gate": {"metric": "mae", "limit": 10, "baseline_by": []},
    }
    return ModelPipeline.model_validate(spec | keys)


def loan(number: int, lent: int, closed: int | None, *, days: float | None = None, seen: int = 0) -> dict[str, Any]:
    """A loan that was lent and closed so many days after the first one; without `days`, it is open."""
    returned = None if closed is None else FIRST + timedelta(days=closed)
    made = {"loan": number, "lent_on": FIRST + timedelta(days=lent), "pages": 10, "reader": "r", "closed_on": returned}
    return made | {"days": days, "seen": FIRST + timedelta(days=seen)}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    kinds = {"loan": pa.int64(), "lent_on": pa.date32(), "pages": pa.int64(), "reader": pa.string()}
    kinds |= {"closed_on": pa.date32(), "days": pa.float64(), "seen": pa.date32()}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))


CLOSINGS = st.none() | st.integers(0, 40)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), CLOSINGS), min_size=1, max_size=30))
def test_an_open_row_is_counted_and_neither_learned_from_nor_measured(given_: list[tuple[int, int | None]]) -> None:
    rows = [
        loan(n, lent, None if after is None else lent + after, days=after) for n, (lent, after) in enumerate(given_)
    ]
    closed = {row["loan"] for row in rows if row["days"] is not None}
    if not closed:
        with pytest.raises(LabelsMissing, match=r"no days yet, and no row has it"):
            in_memory.build(loans(), table(rows), None)
        return
    made = in_memory.build(loans(), table(rows), None)
    assert set(made.table["loan"].to_pylist()) == closed and made.open == len(rows) - len(closed)
    begin = FIRST + timedelta(days=START)
    in_time = {row["loan"] for row in rows if row["loan"] in closed and row["closed_on"] < begin}
    held_out = {row["loan"] for row in rows if row["loan"] in closed and row["lent_on"] >= begin}
    assert set(without_late(loans(), made.table)["loan"].to_pylist()) == in_time | held_out
    assert undated(made.table) == 0


def test_the_later_delivery_of_its_outcome_makes_it_an_example_and_counts_from_its_closing() -> None:
    before = [loan(1, 0, 3, days=3), loan(2, 5, None), loan(3, 20, 25, days=5)]
    after = [before[0], loan(2, 5, 15, days=10), before[2]]
    first, then = (in_memory.build(loans(), table(rows), None) for rows in (before, after))
    told = [
        {row["loan"]: (row["past__rows_30d"], row["past__days_mean_30d"], row["past__days_count_30d"]) for row in rows}
        for rows in (first.table.to_pylist(), then.table.to_pylist())
    ]
    assert told[0] == {1: (None, None, None), 3: (2, 3.0, 1)}, "an open loan is a row of its reader, without a target"
    assert told[1] == {1: (None, None, None), 2: (1, 3.0, 1), 3: (2, 6.5, 2)}
    assert (first.open, then.open) == (1, 0)
    later = in_memory.build(loans(), table([*after, loan(4, 40, 41, days=1)]), None)
    parts = split(loans(), without_late(loans(), later.table))
    assert parts.held_out["loan"].to_pylist() == [4]


def test_of_versions_the_newest_says_whether_a_row_is_open() -> None:
    pipeline = loans(on_conflict="history", version_by="seen")
    rows = [loan(1, 0, None, seen=0), loan(1, 0, 9, days=9, seen=9), loan(2, 0, 4, days=4, seen=4)]
    made = in_memory.build(pipeline, table([*rows, loan(2, 0, None, seen=6), loan(3, 1, None, seen=1)]), None)
    assert (made.table["loan"].to_pylist(), made.table["days"].to_pylist(), made.open) == ([1], [9.0], 2)


def test_an_outcome_of_a_fixed_time_after_its_row_may_be_open_too() -> None:
    fixed = {"lent": {"column": "lent_on"}, "closed": {"column": "lent_on", "plus": "14 days"}}
    pipeline = loans({"days": {"nullable": True}}, moments=fixed)
    made = in_memory.build(pipeline, table([loan(1, 0, 14, days=1), loan(2, 3, 17)]), None)
    assert (made.table["loan"].to_pylist(), made.open) == ([1], 1)


@pytest.mark.parametrize("holdout", [{}, {"holdout": {"share": 0.3, "by": ["loan"]}}])
def test_a_training_on_rows_that_were_accepted_open_says_how_they_leave(holdout: dict[str, Any]) -> None:
    """The pipeline file no longer has `nullable`, and no row was judged since."""
    rows = [loan(1, 0, None), loan(2, 1, None)]
    strict = loans({}, **holdout)
    built = in_memory.build(strict, table(rows), None).table
    with pytest.raises(TrainingError, match=r"2 accepted rows have no days, .*'loans' no longer allows") as refused:
        stage.ordered(stage.platform_in_memory(config.load(), no_connection), strict, built)
    assert "`rempart pipeline rejudge loans`" in refused.value.hint and "`nullable: true` again" in refused.value.hint


def test_the_page_declares_such_rows() -> None:
    page = (project_root() / "docs/how-to/target-comes-later.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    spec = yaml.safe_load(block)
    columns = spec.pop("schema")
    pipeline = loans(columns, **spec)
    first = in_memory.build(pipeline, table([loan(1, 0, 3, days=3), loan(2, 5, None)]), None)
    assert (first.table["loan"].to_pylist(), first.open, pipeline.conflict_rule) == ([1], 1, "newest")


def test_an_outcome_of_a_fixed_time_stands_after_the_moment_of_the_prediction() -> None:
    """Above it, its days would be left out, and earlier rows would be learned from before they were known."""
    moments = {"outcome": {"column": "lent_on", "plus": "300 days"}, "lent": {"column": "lent_on"}}
    with pytest.raises(ValidationError, match=r"'outcome' stands before the moment of the prediction, 'lent'"):
        loans({"days": {"known": "outcome"}, "closed_on": {"known": "lent"}}, moments=moments)
    ordered = dict(reversed(moments.items()))
    assert loans({"days": {"known": "outcome"}, "closed_on": {"known": "lent"}}, moments=ordered)


@pytest.mark.parametrize(
    "keys",
    [
        {"columns": {"days": {"nullable": True, "known": "lent"}}},
        {"columns": NULLABLE, "moments": {"lent": {"column": "lent_on"}, "closed": {"column": "lent_on"}}},
    ],
)
def test_a_target_that_may_be_empty_needs_a_moment_that_is_later_than_the_prediction(keys: dict[str, Any]) -> None:
    wanted = r"prediction\.target: column 'days' is nullable, but known from .*Declare a later moment, such as"
    with pytest.raises(ValidationError, match=wanted):
        loans(**keys)


def test_a_row_without_its_target_may_lack_the_date_of_its_moment_too() -> None:
    """Otherwise each open row would go to quarantine for the date."""
    with pytest.raises(ValidationError, match=r"prediction\.target: .*Make closed_on `nullable: true`, too"):
        loans({"days": {"nullable": True}})


def test_a_row_that_is_delivered_again_with_its_target_must_not_be_refused() -> None:
    with pytest.raises(ValidationError, match=r"prediction\.target: .*'days' is nullable.*`on_conflict: newest`"):
        loans(on_conflict="refuse")
    assert not loans({}, on_conflict="refuse").columns["days"].nullable


def test_the_number_of_open_rows_is_a_sentence() -> None:
    assert told_open(1, "days") == "1 open row has no days yet"
    assert told_open(1200, "days") == "1,200 open rows have no days yet"
