"""A declared unit is taken off each number of its column, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.cells import convert
from rempart.ingestion.parsing import units
from rempart.settings.columns import Column
from rempart.settings.sources import Dialect

UNITS = ["€", "$", "%", "CHF", "km/h", "m²", "°C", "(net)"]


def read(text: str, unit: str, type_: str = "number", **more: object) -> tuple[object, list[str]]:
    """Return the value of a cell in a column with a unit, and the reasons against it."""
    dialect = Dialect(decimal=",", thousands=".", null_values=["", "NA"], units={"price": unit})
    spec = Column.model_validate({"type": type_, "known": "then", "nullable": True, **more})
    table, against = convert([[text]], {"price": spec}, required=(), dialect=dialect)
    return table["price"][0].as_py(), against.get(0, [])


@pytest.mark.parametrize("blank", ["", " ", "\u00a0", "\u202f"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_number_is_read_without_its_unit_on_either_side(unit: str, blank: str) -> None:
    assert read(f"1.234,5{blank}{unit}", unit) == (1234.5, [])
    assert read(f"{unit}{blank}-1,5", unit) == (-1.5, [])
    assert units.stripped(f"7{blank}{unit}", unit) == units.stripped(f"{unit}{blank}7", unit) == "7"


@pytest.mark.parametrize("text", ["12,5", "12,5 CHF", "€ 12,5 €", "12 € 5", "twelve"])
def test_a_number_without_its_unit_or_with_another_one_is_refused(text: str) -> None:
    assert read(text, "€") == (None, ["price: not a number with the unit €"])


def test_what_stands_beside_the_unit_is_judged_as_ever() -> None:
    assert read("twelve €", "€") == (None, ["price: not a number"])
    assert read("1,5 %", "%", "integer")[0] is None
    assert read("12 %", "%", "integer") == (12, [])
    assert read("", "€") == read("NA", "€") == (None, [])
    value, against = read("1.234,50 €", "€", "decimal", precision=8, scale=2)
    assert (str(value), against) == ("1234.50", [])


@given(st.lists(st.sampled_from(["12 €", "CHF 9", "9", "A7", "", "3,5 €"]), min_size=1, max_size=60))
def test_a_unit_is_likely_only_if_almost_all_cells_have_it(cells: list[str]) -> None:
    counted = {cell: cells.count(cell) for cell in cells}
    found = units.likely(counted)
    having = sum(cell.endswith("€") for cell in cells)
    if 20 * having >= 19 * len(cells):
        assert found == units.Unit("€", len(cells) - having)
    else:
        assert found is None or found.text == "CHF"


def test_a_letter_right_behind_a_digit_is_a_part_of_a_name() -> None:
    assert units.likely({"12b": 3, "7b": 9}) is None
    assert units.likely({"12 h": 3, "7 h": 9}) == units.Unit("h", 0)
    assert units.mixed({"12 €": 3, "CHF 7": 9, "": 0}) == {"CHF": 9, "€": 3}
    assert units.mixed({"12 €": 3}) == units.mixed({"12 €": 3, "other": 9}) == {}
