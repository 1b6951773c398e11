"""The key of a draft: an identifier may have a few empty or repeated values, and no timestamp stands in for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.sampling.facts import column_facts
from rempart.ingestion.sampling.keys import Key, likeliest_key
from rempart.settings.sources import Dialect

TIMES = [f"2025-01-{1 + n // 24:02d}T{n % 24:02d}:00Z" for n in range(100)]
NUMBERS = [str(n) for n in range(100)]
KINDS = ["a", "b"] * 50


def key(columns: Mapping[str, Sequence[str | None]], target: str | None = None) -> Key:
    table = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()})
    facts = [column_facts(name, table[name], None, Dialect()) for name in table.column_names]
    return likeliest_key(facts, table, target)


@pytest.mark.parametrize("name", ["id", "order_id", "auftragnr", "order_no", "invoice_number", "api_key", "zipcode"])
@pytest.mark.parametrize(
    ("first", "says"),
    [
        ([None, "1"], "1 cell is empty"),
        (["1", "1"], "1 row repeats the key of an earlier row"),
        ([None, "2"], "1 cell is empty and 1 row repeats the key of an earlier row"),
        ([None, None], "2 cells are empty"),
        (["2", "3"], "2 rows repeat the key of an earlier row"),
        (["2", "2"], "2 rows repeat the key of an earlier row"),
    ],
)
def test_an_identifier_may_have_a_few_faults(name: str, first: list[str | None], says: str) -> None:
    found = key({"at": TIMES, name: [*first, *NUMBERS[2:]], "kind": KINDS})
    assert found == Key((name,), note=f"{name}: {says}; such rows go to quarantine")


def test_the_first_column_may_have_a_few_faults_whatever_its_name() -> None:
    cells = [None, *NUMBERS[1:]]
    assert key({"order": cells, "at": TIMES, "kind": KINDS}).columns == ("order",)
    assert key({"at": TIMES, "order": cells, "kind": KINDS}).columns == ("at",)
    assert key({"order": cells, "at": TIMES}).columns == ("at",), "else nothing is left to predict"
    assert key({"order": cells, "at": TIMES, "kind": KINDS}, "order").columns == ("at",)


def test_an_identifier_with_many_faults_is_no_key() -> None:
    assert key({"order_id": [None] * 6 + NUMBERS[6:], "at": TIMES, "kind": KINDS}).columns == ("at",)
    assert key({"order_id": [None] * 5 + NUMBERS[5:], "at": TIMES, "kind": KINDS}).columns == ("order_id",)


def test_a_unique_identifier_and_then_the_one_with_the_fewest_faults_is_preferred() -> None:
    some, more = [None, *NUMBERS[1:]], [None, None, *NUMBERS[2:]]
    assert key({"buyer_id": some, "at": TIMES, "order_no": NUMBERS}) == Key(("order_no",))
    assert key({"buyer_id": more, "at": TIMES, "order_no": some}).columns == ("order_no",)
    assert key({"order_no": NUMBERS, "id": NUMBERS}) == Key(("id",))
    assert key({"amount_paid": KINDS, "prepaid": some, "at": TIMES}).columns == ("at",)


def test_columns_that_are_the_key_together_may_be_empty_in_a_few_rows() -> None:
    stations = ["a", "b", "c", "d"] * 25
    days = [f"2025-01-{1 + n // 4:02d}" for n in range(100)]
    assert key({"station": stations, "day": days}) == Key(("station", "day"))
    note = "station: 1 cell is empty; such rows go to quarantine"
    assert key({"station": [None, *stations[1:]], "day": days}) == Key(("station", "day"), note=note)
    assert not key({"station": stations, "day": ["2025-01-01"] * 100}).certain


@given(st.lists(st.one_of(st.none(), st.sampled_from(NUMBERS)), min_size=100, max_size=100))
def test_a_key_identifies_all_rows_but_a_few(cells: list[str | None]) -> None:
    found = key({"id": cells, "kind": KINDS})
    if found.columns == ("id",) and found.certain:
        assert len({cell for cell in cells if cell is not None}) >= 95
