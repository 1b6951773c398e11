"""The matrix of the proof against lies: a green cell, or a cell that was not run, never hides a red one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lying_matrix import NOT_REACHABLE, Outcome, page, read, summary, table, write
from bench.lying_operations import OPERATIONS
from bench.prove_lying_sites import QUICK, Wanted, shares_of
from tests.lying import FAULTS

RED = Outcome("I8-get", "replicate", "primary", "RED false green", "lake/a | b", 3, 1.0)
FOUND = [RED, Outcome("I8-get", "replicate", "haven", "refused"), Outcome("I8-get", "drill", "haven", NOT_REACHABLE)]


def test_a_red_cell_at_one_site_stands_beside_the_green_of_the_other() -> None:
    (row,) = [line for line in table(FOUND).splitlines() if "I8-get" in line]
    assert "**RED false green**; refused" in row and NOT_REACHABLE in row
    assert summary(FOUND) == "2 cells were run, 1 are not reachable, 1 are red"


def test_the_page_names_each_red_cell_and_shows_what_was_not_run() -> None:
    told = page(FOUND)
    assert "## Red cells" in told and "lake/a \\| b" in told
    assert told.count("| not run |") > 100
    assert all(f"`{name}`" in told for name in FAULTS)


def test_outcomes_are_kept_for_a_run_that_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "lying-sites.json", FOUND, 2.0)
    assert read(tmp_path / "lying-sites.json") == FOUND
    assert read(tmp_path / "none.json") == []


@pytest.mark.parametrize(("fault", "operation"), QUICK)
def test_the_quick_cells_exist(fault: str, operation: str) -> None:
    assert fault in FAULTS and operation in OPERATIONS


CELLS = st.tuples(st.sampled_from(sorted(FAULTS)), st.sampled_from(sorted(OPERATIONS)), st.sampled_from(["a", "b"]))


@given(st.lists(CELLS), st.integers(1, 4))
def test_each_cell_is_in_one_share_and_each_operation_too(wanted: list[Wanted], workers: int) -> None:
    shares = shares_of(wanted, workers)
    assert sorted(cell for share in shares for cell in share) == sorted(wanted)
    assert all(shares) and len(shares) <= workers
    operations = [{operation for _, operation, _ in share} for share in shares]
    assert sum(map(len, operations)) == len({operation for _, operation, _ in wanted})
