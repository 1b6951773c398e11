"""Digests of definitions: what a value is made of changes them, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.features.plan import view_tables
from rempart.models import definitions
from rempart.models.encoding import features_of
from rempart.settings.expressions import checking
from rempart.settings.expressions.checking import Typed
from rempart.settings.pipeline import ModelPipeline
from tests.unit.features.aggregated import orders
from tests.unit.features.expressed import COLUMNS, EXPRESSIONS, visits

Sections = dict[str, Any]


def digest(text: str, **sections: Any) -> str:
    return definitions.of_view(visits(own={"made": text}, **sections), "own")["made"]


def plain(made: Typed) -> Any:
    """A tree in which a whole number that is calculated as a number is that number."""
    if made.kind == "as number" and made.parts[0].kind == "literal":
        return ("literal", "number", float(made.parts[0].value))
    return (made.kind, made.type, None if made.kind == "as number" else made.value, *map(plain, made.parts))


@given(EXPRESSIONS, EXPRESSIONS)
def test_two_expressions_have_one_digest_only_if_they_are_one_tree(left: str, right: str) -> None:
    trees = plain(checking.checked(left, COLUMNS)), plain(checking.checked(right, COLUMNS))
    assert (digest(left) == digest(right)) == (trees[0] == trees[1])
    assert digest(left) == digest(left.replace(" ", "\n"))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x / y", "( x/(y) )", True),
        ("x != y", "x <> y", True),
        ("case when p then x end", "CASE WHEN p THEN x ELSE null END", True),
        ('ABS("x")', "abs(x)", True),
        ("- - x", "x", True),
        ("x / 2", "x / 3", False),
        ("x / 2", "x * 2", False),
        ("x / y", "y / x", False),
        ("x + 1", "x + 1.5", False),
        ("x + 1", "x + 1.0", True),
        ("n * 2", "n * 2.0", True),
        ("n + 1", "n + 1.0", False),  # an integer and a number
        ("x", "y", False),
        ("kind = 'a'", "kind = 'b'", False),
        ("kind = '2020-01-01'", "born = date '2020-01-01'", False),
        ("round(x, 1)", "round(x, 2)", False),
        ("days_since(born)", "days_since(seen)", False),
        ("extract(month from born)", "extract(year from born)", False),
    ],
)
def test_the_layout_of_an_expression_does_not_count_and_its_meaning_does(left: str, right: str, *, same: bool) -> None:
    assert (digest(left) == digest(right)) == same


ELSEWHERE = {"prefix": "visits/", "time_zone": "Europe/Berlin"}
EARLIER = {"now": {"column": "at", "minus": "1 hours"}, "paid": {"column": "at"}}
RENAMED = {"now": {"column": "at"}, "later": {"column": "at"}, "paid": {"column": "at"}}


@pytest.mark.parametrize(
    ("text", "sections", "same"),
    [
        ("extract(month from begun)", {"source": ELSEWHERE}, False),
        ("extract(month from born)", {"source": ELSEWHERE}, True),
        ("days_since(born)", {"source": ELSEWHERE}, False),
        ("days_since(begun)", {"source": ELSEWHERE}, True),
        ("days_between(left, begun)", {"source": ELSEWHERE}, True),
        ("days_since(begun)", {"moments": EARLIER}, False),
        ("x / y", {"moments": EARLIER}, True),
        ("days_since(begun)", {"moments": RENAMED}, True),
        ("x / y", {"on_conflict": "history", "version_by": "at"}, False),
    ],
)
def test_moments_and_zones_count_where_a_value_depends_on_them(text: str, sections: Sections, *, same: bool) -> None:
    assert (digest(text) == digest(text, **sections)) == same


def trailing() -> Sections:
    return orders(windows=["6h", "2d"]).model_dump(by_alias=True, exclude_unset=True)


def changed(change: Callable[[Sections], Any], made: Sections | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """The digests before and after a change of a pipeline file."""
    before = made or trailing()
    after = copy.deepcopy(before)
    change(after)
    told = [definitions.of_pipeline(ModelPipeline.model_validate(sections)) for sections in (before, after)]
    return told[0], told[1]


def reordered(sections: Sections) -> None:
    sections["features"] = dict(reversed(sections["features"].items()))
    sections["schema"] = dict(reversed(sections["schema"].items()))
    sections["features"]["past"]["windows"].reverse()
    sections["features"]["past"]["sum"].reverse()


def moment_renamed(sections: Sections) -> None:
    sections["moments"] = {name.replace("ship", "sent"): moment for name, moment in sections["moments"].items()}
    for column in sections["schema"].values():
        column["known"] = column["known"].replace("ship", "sent")


@pytest.mark.parametrize(
    "change",
    [
        reordered,
        moment_renamed,
        lambda d: d.update(owner="team", description="Orders."),
        lambda d: d["schema"]["amount"].update(description="What was paid."),
        lambda d: d["features"]["past"].update(description="The shop's past.", max_age="2d"),
        lambda d: d["schema"]["amount"].update(nullable=False),
    ],
)
def test_words_names_and_order_are_no_part_of_a_definition(change: Callable[[Sections], Any]) -> None:
    before, after = changed(change)
    assert before == after


@pytest.mark.parametrize(
    ("change", "features"),
    [
        (lambda d: d["schema"]["amount"].update(type="integer"), ["amount_mean_6h", "amount_std_2d", "amount_sum_2d"]),
        (lambda d: d["schema"]["amount"].update(known="settle"), ["amount_mean_6h", "amount_max_2d", "amount_min_6h"]),
        (lambda d: d["moments"]["ship"].update(minus="1 days"), ["weight_sum_6h", "weight_max_2d"]),
        (lambda d: d["moments"]["order"].update(minus="1 hours"), ["rows_6h", "days_since_last", "units_last_2d"]),
        (lambda d: d["features"]["past"].update(by=["channel"]), ["rows_6h", "days_since_last", "fraud_share_2d"]),
        (lambda d: d["features"]["past"].update(windows=["6h"]), ["days_since_last"]),
        (lambda d: d.update(on_conflict="history", version_by="seen"), ["rows_6h", "units_last_2d"]),
    ],
)
def test_what_an_aggregate_is_made_of_is_its_definition(change: Callable[[Sections], Any], features: list[str]) -> None:
    before, after = changed(change)
    differing = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert {f"past__{name}" for name in features if f"past__{name}" in after} <= differing
    if "amount_mean_6h" in features:
        assert {name for name in differing if not name.startswith("past__amount")} == set()


def test_windows_of_days_share_their_end() -> None:
    """They end with the last day on which something of the group became known, and stay for the longest one."""
    made = orders(days=[1, 3]).model_dump(by_alias=True, exclude_unset=True)
    before, after = changed(lambda d: d["features"]["past"].update(days=[1, 5]), made)
    assert before["past__amount_sum_1d"] != after["past__amount_sum_1d"]
    before, after = changed(lambda d: d["features"]["past"].update(sum=["amount"], max=["units"]), made)
    assert before["past__amount_sum_1d"] != after["past__amount_sum_1d"], "no value waits for the shipment any more"


def test_an_expression_over_views_changes_with_the_features_that_it_reads() -> None:
    def digests(own: str, across: str = "own.ratio * 2") -> dict[str, str]:
        return definitions.of_pipeline(
            visits(own={"ratio": own, "other": "m + 1"}, expressions={"twice": across, "far": "own.other / 3"})
        )

    first, second = digests("x / y"), digests("x / n")
    assert {name for name in first if first[name] != second[name]} == {"own__ratio", "expressions__twice"}
    assert first != digests("x / y", "own.ratio * 3")


def test_every_field_and_every_input_has_the_digest_of_its_feature() -> None:
    pipeline = orders(windows=["6h"])
    digests = definitions.of_pipeline(pipeline)
    fields = {
        f"{view.view}__{view.feature(f.name)}": f.definition for view in view_tables(pipeline) for f in view.fields
    }
    assert fields == digests
    assert {feature.name: feature.definition for feature in features_of(pipeline)}.items() <= digests.items()
    assert all(len(digest) == 16 for digest in digests.values())


@given(st.sampled_from(["x / 2", "x / 3"]), st.sampled_from(["x / 2", "x / 3"]))
def test_an_online_table_is_another_if_a_definition_is(left: str, right: str) -> None:
    names = [view_tables(visits(own={"part": text}))[0].online.name for text in (left, right)]
    assert (names[0] == names[1]) == (left == right)
