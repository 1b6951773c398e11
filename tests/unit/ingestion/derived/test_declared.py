"""A derived pipeline's declarations hold: columns as bound, classification of the highest input, no cycle."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rempart.errors import PipelineError
from rempart.ingestion.derived import declared
from rempart.ingestion.snapshots import SnapshotColumn
from rempart.settings.sources import AnySource, DerivedSource
from rempart.sovereignty.classification import ORDER

levels = st.sampled_from(ORDER)
names = st.sampled_from("abcdef")
graphs = st.dictionaries(names, st.sets(names).map(sorted), max_size=6)


@given(levels, st.dictionaries(names, levels, min_size=1))
def test_rows_stay_at_least_what_their_inputs_are(own: Any, inputs: Any) -> None:
    fault = declared.classification_fault(own, inputs)
    assert (fault is None) == all(ORDER.index(own) >= ORDER.index(level) for level in inputs.values())


@given(graphs)
def test_an_order_has_every_input_before_its_use_or_names_a_cycle(inputs_of: dict[str, list[str]]) -> None:
    whole = {name: [] for used in inputs_of.values() for name in used} | inputs_of
    try:
        order = declared.in_order(whole)
    except PipelineError as error:
        circle = error.what.rsplit(": ", 1)[1].split(" -> ")
        assert circle[0] == circle[-1]
        assert all(after in whole[before] for before, after in itertools.pairwise(circle))
        return
    assert sorted(order) == sorted(whole)
    for name in order:
        assert all(order.index(used) < order.index(name) for used in whole[name])
        reached = set(declared.descendants(name, whole))
        assert all(other in reached for other, used in whole.items() if name in used) and name not in reached


def test_an_unknown_input_is_named() -> None:
    with pytest.raises(PipelineError, match=r"Pipeline 'b': source\.inputs: there is no pipeline 'x'"):
        declared.in_order({"a": [], "b": ["a", "x"]})


def test_columns_differ_by_name_or_type_and_a_category_is_a_text() -> None:
    bound = {"id": SnapshotColumn("integer", True), "zone": SnapshotColumn("string", True)}
    assert not list(declared.column_faults(bound | {"zone": SnapshotColumn("category", False)}, bound))
    faults = list(declared.column_faults({"id": SnapshotColumn("number", True), "km": bound["id"]}, bound))
    assert faults == [
        "schema.id: declared as number, but the query gives integer",
        "schema.km: the query gives no such column (it gives id, zone)",
        "schema: column 'zone' of the query is not declared",
    ]
    assert list(declared.unused(["a", "b"], {"b"})) == ["source.inputs: the query does not read 'a'"]


def test_the_section_names_inputs_and_a_file() -> None:
    source: Any = TypeAdapter(AnySource)
    section = {"kind": "derived", "prefix": "x/", "inputs": ["trips", "weather"], "sql": "include/sql/x.sql"}
    found = source.validate_python(section)
    assert isinstance(found, DerivedSource) and not found.incremental and found.format == "parquet"
    for change in (
        {"inputs": []},
        {"inputs": ["trips", "trips"]},
        {"sql": "../x.sql"},
        {"sql": "x.sql"},
        {"decimal": ","},
    ):
        with pytest.raises(ValidationError):
            source.validate_python(section | change)
