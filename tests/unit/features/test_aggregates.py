"""Trailing features equal their definition, and nothing that lies after a row's moment changes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.errors import LabelsMissing
from rempart.features.in_memory import training_set
from rempart.settings.pipeline import ModelPipeline
from tests.unit.features.aggregated import START, TICK, VALUES, Definition, Row, arrow, midnight, orders, same

PIPELINES = [
    orders(windows=["30m", "6h", "2d"]),
    orders(at="day", windows=["1d", "3d"]),
    orders(days=[1, 3]),
    orders(history=True, windows=["1h", "2d"]),
    orders(at="day", history=True, windows=["2d"]),
    orders(at="day", history=True, days=[1, 3]),
    orders(decimals=True, windows=["30m", "2d"]),
    orders(decimals=True, at="day", history=True, days=[1, 3]),
]
"""Instants and days, windows of both kinds, with and without versions of rows, numbers and declared decimals."""

TIMES = st.builds(
    lambda hours, offset: START + timedelta(hours=6 * hours) + offset,
    st.integers(0, 9),
    st.sampled_from([timedelta(), timedelta(), timedelta(minutes=30), TICK, -TICK]),
)
"""Few times, so that moments are equal, or at the ends of windows, or a tick beside them."""
DRAWN = {name: st.sampled_from(values) for name, values in VALUES.items()}


@st.composite
def an_order(draw: st.DrawFn, number: int) -> Row:
    at, seen = draw(TIMES), draw(TIMES)
    ship, settle = draw(st.none() | TIMES), draw(st.none() | TIMES)  # also before the order: data have such faults
    made = {name: draw(values) for name, values in DRAWN.items()}
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
    """The trailing features of each example."""
    decimals = [name for name, column in pipeline.columns.items() if column.type == "decimal"]
    try:
        made = training_set(pipeline, arrow(rows, decimals)).to_pylist()
    except LabelsMissing:
        return {}
    return {
        row["order"]: {n.removeprefix("past__"): v for n, v in row.items() if n.startswith("past__")} for row in made
    }


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from(PIPELINES))
def test_each_feature_is_what_its_definition_says(data: st.DataObject, pipeline: ModelPipeline) -> None:
    rows = data.draw(some_orders(pipeline))
    definition, made = Definition(pipeline, rows), trailing(pipeline, data.draw(st.permutations(rows)))
    assert made.keys() == {order for order, _, _ in definition.examples()}, "an open order is no example"
    for order, at, shop in definition.examples():
        wanted = definition.features(shop, at)
        assert same(made[order], wanted), (order, at, shop, made[order], wanted)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from(PIPELINES))
def test_nothing_after_a_moment_changes_its_features(data: st.DataObject, pipeline: ModelPipeline) -> None:
    """Rows and values of later times are changed, dropped and added, those of the row itself included."""
    rows = data.draw(some_orders(pipeline))
    definition = Definition(pipeline, rows)
    assume(examples := list(definition.examples()))
    order, at, _ = data.draw(st.sampled_from(examples))
    rows = [row | {"settled": at} if data.draw(st.booleans()) else row for row in rows]  # known a tick too late
    own = [row for row in rows if row["order"] == order]
    newest = max(own, key=lambda row: row["seen"])
    # the version that was known at the moment tells the group, so it is among what must not be dropped
    stays = [row for row in own if row is newest or row["seen"] <= at]
    kept = [made for row in rows for made in later_changed(data, pipeline, row, at, keep=row in stays)]
    kept = [row | {"paid": row["paid"] or 1.0} if row["order"] == order else row for row in kept]  # it stays an example
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
        made |= {name: data.draw(values) for name, values in DRAWN.items()}
    if row["settled"] is None or row["settled"] >= at:
        made |= {
            "settled": data.draw(st.none() | TIMES.filter(lambda time: time >= at)),
            "fraud": data.draw(DRAWN["fraud"]),
        }
        made |= {"paid": data.draw(DRAWN["paid"])}
    if row["shipped"] is None or midnight(row["shipped"]) + timedelta(days=1) > at:
        days = st.none() | TIMES.map(lambda time: time.date()).filter(
            lambda day: midnight(day) + timedelta(days=1) > at
        )
        made |= {"shipped": data.draw(days), "weight": data.draw(DRAWN["weight"])}
    return [made]


def test_the_rows_own_target_is_in_none_of_its_features_also_if_the_view_is_earlier_than_the_prediction() -> None:
    sections = orders(windows=["2d"]).model_dump(by_alias=True, exclude_unset=True)
    sections["schema"]["settled"]["nullable"] = False
    sections["schema"]["paid"] = {
        "type": "number",
        "known": "day",
    }  # wrong: the prediction is about it
    sections["prediction"]["at"] = "settle"
    rows = [an_order_of(1, 0, settled=5, paid=1.0), an_order_of(2, 3, settled=9, paid=10.0)]
    made = trailing(ModelPipeline.model_validate(sections), rows)
    assert [(made[order]["rows_2d"], made[order]["paid_mean_2d"]) for order in (1, 2)] == [(2, None), (2, 1.0)]


def an_order_of(number: int, hours: float, *, settled: float, **values: Any) -> Row:
    at = START + timedelta(hours=hours)
    made: Row = dict.fromkeys(VALUES) | {"order": number, "ordered": at, "day": at.date(), "seen": at, "shop": "a"}
    return made | {"settled": START + timedelta(hours=settled), "shipped": None} | values


@pytest.mark.parametrize(
    ("at", "view", "wanted"),
    [
        ("order", {}, "give either `windows`"),
        ("order", {"windows": ["1d"], "days": [1]}, "give either `windows`"),
        ("order", {"windows": ["1 day"]}, "up to 100y: 30m, 6h, 7d, 8w or 2y"),
        ("order", {"windows": ["101y"]}, "up to 100y"),
        ("order", {"days": [0]}, "greater than or equal to 1"),
        ("day", {"windows": ["36h"]}, "features.past.windows: '36h' is no whole number of days, but 'day' is a day"),
        ("order", {"windows": ["1d", "1d"]}, "features.past.windows: two features have the name 'amount_mean_1d'"),
        ("order", {"windows": ["1d"], "sum": ["shop"]}, "features.past.sum: column 'shop' must be number or"),
        ("order", {"windows": ["1d"], "last": ["shop"]}, "features.past.last: column 'shop' must be number or"),
        ("order", {"windows": ["1d"], "share": ["channel"]}, "column 'channel' is category; name a boolean column"),
        ("order", {"windows": ["1d"], "share": ["channel=we"]}, "'we' is not one of the `values` of column 'channel'"),
        ("order", {"windows": ["1d"], "max": ["amont"]}, r"features.past: column 'amont' .*did you mean 'amount'"),
        ("order", {"windows": ["1d"], "by": ["fraud"]}, "'fraud' is known only from 'settle', later than the view's"),
    ],
)
def test_what_a_view_cannot_have_is_refused(at: str, view: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        orders(at=at, **view)
