"""A load builds on the one before it only if nothing that it would not see can have changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from rempart.features.offline_load.basis import FIRST, WHOLE_LOAD_EVERY, Basis, Changes, LastLoad, basis

AT = datetime(2030, 1, 8, tzinfo=UTC)
ROWS = pa.table({"stay": [1]})
LAST = LastLoad("s1", AT - timedelta(days=1), "by", "", AT - WHOLE_LOAD_EVERY + timedelta(seconds=1))


def told(since: str | None = "s1", left_out: str = "") -> Changes:
    return Changes(since, ("2030-01",), ROWS.to_reader(), left_out)


def test_what_did_not_change_is_neither_read_nor_made() -> None:
    assert basis(LAST, "by", told(), AT, is_watched=True) == Basis("", "")
    assert basis(replace(LAST, left_out="e"), "by", told(left_out="e"), AT, is_watched=True).told(["trend"]) == (
        "Made anew, since the definition or the table is another one: trend."
    )


@pytest.mark.parametrize(
    ("last", "is_watched", "why"),
    [
        (LAST, False, "another program wrote"),
        (replace(LAST, read_by=None), True, "another program wrote"),
        (replace(LAST, read_by="other"), True, "definition"),
        (replace(LAST, whole_at=AT - WHOLE_LOAD_EVERY), True, "7 days"),
        (replace(LAST, whole_at=None), True, "7 days"),
        (replace(LAST, whole_at=AT + timedelta(days=400)), True, "7 days"),
    ],
)
def test_a_load_that_cannot_know_reads_and_makes_everything(last: LastLoad, is_watched: bool, why: str) -> None:
    found = basis(last, "by", told(), AT, is_watched=is_watched)
    assert why in found.all_made
    assert found.all_made == found.all_read
    assert found.told(["trend"]) == f"All rows were read: {found.all_read}."


def test_all_rows_are_read_and_views_kept_if_the_difference_is_not_known() -> None:
    for changes, why in ((told(since=None), "s1, which is loaded"), (told("s0"), "s1"), (told(left_out="e"), "erased")):
        found = basis(LAST, "by", changes, AT, is_watched=True)
        assert found.all_made == ""
        assert why in found.all_read
    assert basis(LAST, "by", None, AT, is_watched=True).told([]) == ""


def test_the_first_load_has_no_note() -> None:
    first = basis(None, "by", told(), AT, is_watched=False)
    assert first == Basis(FIRST, FIRST)
    assert first.told(["trend"]) == ""
