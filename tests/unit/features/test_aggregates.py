"""Trailing features equal their definition, and nothing that lies after a row's moment changes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.features.in_memory import training_set
from rempart.settings.pipeline import ModelPipeline
from tests.unit.features.aggregated import START, Definition, Row, arrow, midnight, orders, same

PIPELINES = [
    orders(windows=["30m", "6h", "2d"]),
    orders(at="day", windows=["1d", "3d"]),
    orders(days=[1, 3]),
    orders(history=True, windows=["1h", "2d"]),
    orders(at="day", history=True, windows=["2d"]),
    orders(at="day", history=True, days=[1, 3]),
]
"""Instants and days, windows of both kinds, with and without versions of rows."""

TIMES = st.builds(
    lambda half_hours, ticks: START + timedelta(minutes=30 * half_hours, microseconds=ticks),
    st.integers(0, 5 * 48),
    st.sampled_from([0, 0, 0, 1, -1]),
)
"""Few times, so that moments are equal, or at the ends of windows, or a tick beside them."""
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "amount": st.sampled_from([None, 0.1, 2.5, -7.25, 1e6]),
    "units": st.sampled_from([None, 1, 2, 40]),
    "channel": st.sampled_from([None, "web", "shop", "fair"]),
    "weight": st.sampled_from([None, 0.5, 3.0]),
    "fraud": st.sampled_from([None, True, False]),
    "paid": st.sampled_from([1.0, 10.0, 12.5]),
}


@st.composite
def an_order(draw: st.DrawFn, number: int) -> Row:
    at, seen = draw(TIMES), draw(TIMES)
    ship, settle = draw(st.none() | TIMES), draw(st.none() | TIMES)  # also before the order: data have such faults
    made = {name: draw(values) for name, values in VALUES.items()}
    made |= {"shop": draw(st.sampled_from([None, "a", "a", "b"])), "shipped": ship and ship.date(), "settled": settle}
    return made | {"order": number, "ordered": at, "day": at.date(), "seen": seen}


@st.composite
def some_orders(draw: st.DrawFn, pipeline: ModelPipeline, first: int = 0) -> list[Row]:
    """Orders, with versions if the pipeline keeps them."""
    rows: dict[Any, Row] = {}
    for number in range(first, first + draw(st.integers(1, 8))):
        for _ in range(draw(st.integers(1, 3)) if pipeline.conflict_rule == "history" else 1):
            made = draw(an_order(number))
            rows[made["order"], made["seen"]] = made
    return list(rows.values())


def trailing(pipeline: ModelPipeline, rows: list[Row]) -> dict[int, Row]:
    """The trailing features of each order."""
    made = training_set(pipeline, arrow(rows)).to_pylist()
    return {
        row["order"]: {n.removeprefix("past__"): v for n, v in row.items() if n.startswith("past__")} for row in made
    }


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(PIPELINES))
def test_each_feature_is_what_its_definition_says(data: st.DataObject, pipeline: ModelPipeline) -> None:
    rows = data.draw(some_orders(pipeline))
    definition, made = Definition(pipeline, rows), trailing(pipeline, data.draw(st.permutations(rows)))
    for order, at, shop in definition.examples():
        wanted = definition.features(shop, at)
        assert same(made[order], wanted), (order, at, shop, made[order], wanted)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(PIPELINES))
def test_nothing_after_a_moment_changes_its_features(data: st.DataObject, pipeline: ModelPipeline) -> None:
    """Rows and values of later times are changed, dropped and added, those of the row itself included."""
    rows = data.draw(some_orders(pipeline))
    definition = Definition(pipeline, rows)
    order, at, _ = data.draw(st.sampled_from(list(definition.examples())))
    newest = max((row for row in rows if row["order"] == order), key=lambda row: row["seen"])
    kept = [made for row in rows for made in later_changed(data, pipeline, row, at, keep=row is newest)]
    added = [row for row in data.draw(some_orders(pipeline, 100)) if is_later(definition, row, at)]
    before, after = trailing(pipeline, rows), trailing(pipeline, data.draw(st.permutations([*kept, *added])))
    assert after[order] == before[order]


def is_later(definition: Definition, row: Row, at: Any) -> bool:
    return definition.moment(row) >= at or (definition.history and row["seen"] > at)


def later_changed(data: st.DataObject, pipeline: ModelPipeline, row: Row, at: Any, *, keep: bool) -> list[Row]:
    """A row as others may see it who know more than what was known at an instant."""
    definition, made = Definition(pipeline, [row]), dict(row)
    if is_later(definition, row, at):
        if not keep and data.draw(st.booleans()):
            return []
        made |= {name: data.draw(values) for name, values in VALUES.items()}
    if row["settled"] is None or row["settled"] >= at:
        made |= {
            "settled": data.draw(st.none() | TIMES.filter(lambda time: time >= at)),
            "fraud": data.draw(VALUES["fraud"]),
        }
        made |= {"paid": data.draw(VALUES["paid"])}
    if row["shipped"] is None or midnight(row["shipped"]) + timedelta(days=1) > at:
        days = st.none() | TIMES.map(lambda time: time.date()).filter(
            lambda day: midnight(day) + timedelta(days=1) > at
        )
        made |= {"shipped": data.draw(days), "weight": data.draw(VALUES["weight"])}
    return [made]
