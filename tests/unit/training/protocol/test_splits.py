"""The parts of a split: disjoint, in the order of time, with their gaps, groups whole, and stable when rows come."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.training.job import Origins, Split
from rempart.training.protocol import splits

DAY = 86_400
FIRST = date(2026, 1, 1)
QUICK = settings(max_examples=25, deadline=None)
DAYS = st.lists(st.integers(0, 90), min_size=8, max_size=60).filter(lambda days: len(set(days)) > 3)


def by_day(days: list[int], *, instants: bool = False, known: list[int] | None = None) -> pa.Table:
    kind = pa.timestamp("us", "UTC") if instants else pa.date32()
    begun = datetime(2026, 1, 1, 13, tzinfo=UTC) if instants else FIRST
    columns = {"day": pa.array([begun + timedelta(days=d) for d in days], kind)}
    if known is not None:
        at = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in known]
        columns["known"] = pa.array(at, pa.timestamp("us", "UTC"))
    return pa.table(columns)


@QUICK
@given(DAYS, st.integers(1, 60), st.integers(0, 20), st.booleans())
def test_validation_has_the_newest_rows_and_the_gap_is_on_no_side(days, last, gap, instants):
    table, how = by_day(days, instants=instants), Split(column="day", last=last * DAY, gap=gap * DAY)
    newest = max(days)
    wanted = [day >= newest - last for day in days], [day < newest - last - gap for day in days]
    if not any(wanted[1]):
        with pytest.raises(TrainingError, match="0 rows to fit on"):
            splits.validation(table, how)
        return
    parts = splits.validation(table, how)
    assert (parts.measured.tolist(), parts.fit.tolist()) == wanted
    assert not (parts.fit & parts.measured).any()


@QUICK
@given(DAYS, st.floats(0.05, 0.5))
def test_a_share_takes_whole_days_and_at_least_the_share(days, share):
    try:
        parts = splits.validation(by_day(days), Split(column="day", share=share))
    except TrainingError:  # the oldest day alone has more than the rest
        assert days.count(min(days)) > (1 - share) * len(days)
        return
    held = [day for day, measured in zip(days, parts.measured, strict=True) if measured]
    fitted = [day for day, fit in zip(days, parts.fit, strict=True) if fit]
    assert len(held) + len(fitted) == len(days) and max(fitted) < min(held)
    assert len(held) >= share * len(days) - 1e-9


def test_a_target_that_was_known_only_after_validation_began_is_not_fitted_on():
    table = by_day([0, 1, 2, 10, 11], known=[1, 9, 3, 12, 13])
    parts = splits.validation(table, Split(column="day", last=3 * DAY, known_at="known"))
    assert parts.begins == FIRST + timedelta(days=8)
    assert parts.fit.tolist() == [True, False, True, False, False]


@QUICK
@given(DAYS, st.integers(1, 5), st.integers(1, 15), st.integers(0, 5), st.none() | st.integers(1, 40), st.booleans())
def test_each_origin_learns_only_from_before_itself_and_is_measured_on_the_time_up_to_the_next(
    days, origins, every, gap, window, instants
):
    how = Origins(
        column="day", origins=origins, every=every * DAY, gap=gap * DAY, window=window * DAY if window else None
    )
    made = []
    try:
        made += list(splits.origins(by_day(days, instants=instants), how))
    except TrainingError as error:
        assert "Set fewer `backtest.origins`" in error.hint
    values, seen = np.array(days), np.zeros(len(days), bool)
    for parts in made:
        fitted, measured = values[parts.fit], values[parts.measured]
        assert fitted.max() < measured.min() - gap and measured.max() - measured.min() < every
        assert window is None or fitted.min() >= measured.max() - every - gap - window
        assert not (seen & parts.measured).any()
        seen |= parts.measured
    if len(made) == origins:
        assert seen.tolist() == [day > max(days) - origins * every for day in days]


KEYS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["ada", "bob", "", "é\x1f", None])), min_size=1)


def groups(rows) -> pa.Table:
    numbers, names = zip(*rows, strict=True)
    return pa.table({"number": pa.array(numbers, pa.int64()), "name": pa.array(names, pa.string())})


@QUICK
@given(KEYS, KEYS, st.floats(0.05, 0.95))
def test_a_group_is_on_one_side_as_a_whole_and_stays_there_when_rows_come(rows, more, share):
    held = splits.hashed(groups(rows), ["number", "name"], share, key="holdout")
    later = splits.hashed(groups([*more, *rows]), ["number", "name"], share, key="holdout")
    assert later[len(more) :].tolist() == held.tolist()
    sides: dict = {}
    for row, side in zip(rows, held.tolist(), strict=True):
        assert sides.setdefault(row, side) == side


def test_the_hash_never_changes_and_does_not_depend_on_the_width_of_a_column():
    table = pa.table({"number": pa.array(range(12), pa.int64())})
    held = splits.hashed(table, ["number"], 0.5, key="holdout")
    assert "".join("x" if each else "." for each in held) == HELD
    narrow = pa.table(
        {"number": pa.chunked_array([pa.array(range(5), pa.int16()), pa.array(range(5, 12), pa.int16())])}
    )
    assert splits.hashed(narrow, ["number"], 0.5, key="holdout").tolist() == held.tolist()


HELD = "..xx.x.xx..x"
"""Which of twelve keys are held out. Another pattern would move rows of every pipeline across its hold-out."""


def test_the_share_is_kept_and_validation_is_drawn_apart_from_the_hold_out():
    table = pa.table({"number": pa.array(range(20_000), pa.int64())})
    held = splits.hashed(table, ["number"], 0.2, key="holdout")
    assert abs(held.mean() - 0.2) < 0.01
    validated = splits.hashed(table, ["number"], 0.2, key="validation")
    assert abs(validated[~held].mean() - 0.2) < 0.01


@QUICK
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=200), st.sampled_from([0.1, 0.2, 0.5]))
def test_stratified_has_the_share_of_each_class(classes, share):
    table = pa.table({"number": pa.array(range(len(classes)), pa.int64()), "label": pa.array(classes)})
    held = splits.hashed(table, ["number"], share, key="holdout", within="label")
    for label in set(classes):
        of_class = np.array(classes) == label
        assert held[of_class].sum() == min(int(np.ceil(share * of_class.sum())), of_class.sum() - 1)


def test_a_class_of_one_row_keeps_it_to_learn_from():
    table = pa.table({"number": pa.array(range(11), pa.int64()), "label": ["common"] * 10 + ["rare"]})
    held = splits.hashed(table, ["number"], 0.2, key="holdout", within="label")
    assert held.tolist()[-1] is False and held.sum() == 2


def test_a_part_without_rows_is_refused():
    with pytest.raises(TrainingError, match="The validation part from 2025-10-13 leaves 0 rows to fit on and 3"):
        splits.validation(by_day([0, 5, 10]), Split(column="day", last=90 * DAY))
    with pytest.raises(TrainingError, match="The back-test from"):
        list(splits.origins(by_day([0, 5, 10]), Origins(column="day", origins=4, every=5 * DAY)))
