"""One row per key: the first row counts, and the reason distinguishes a repetition from a contradiction."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion.acceptance import CONFLICT, DUPLICATE
from tests.unit.ingestion.oracle.first_of_each_key import judge_keys


def table(*rows: tuple[int, str | None]) -> pa.Table:
    return pa.table({"k": pa.array([r[0] for r in rows], pa.int64()), "v": pa.array([r[1] for r in rows], pa.string())})


def test_the_first_of_a_key_stands() -> None:
    accepted, against = judge_keys(table((1, "a")), table((1, "a"), (1, "b"), (2, None), (2, None), (2, "x")), ["k"])
    assert accepted == [2]
    assert against == {0: DUPLICATE, 1: CONFLICT, 3: DUPLICATE, 4: CONFLICT}


rows = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", None])), max_size=12)


@settings(max_examples=200)
@given(rows, rows)
def test_like_a_dictionary(before: list[tuple[int, str | None]], new: list[tuple[int, str | None]]) -> None:
    known = dict(reversed(before))
    accepted, against = judge_keys(table(*known.items()), table(*new), ["k"])
    for i, (key, value) in enumerate(new):
        if key not in known:
            known[key] = value
            assert i in accepted
        else:
            assert against[i] == (DUPLICATE if known[key] == value else CONFLICT)
    assert len(accepted) + len(against) == len(new)
