"""The catalogue of feature views: what is told of each view, of what its features are made, and who reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.cli import feature_lines
from rempart.errors import PipelineError
from rempart.features.catalogue import origins
from rempart.features.catalogue.entries import Catalogue, CatalogueFacts, CatalogueView, ChampionInputs, catalogue
from rempart.features.plan import view_tables
from rempart.models import definitions
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline, Pipeline
from tests.cockpit import ROOT
from tests.derived_project import WET
from tests.labelled_project import PAYMENTS
from tests.unit.features.stays import stays

FACTS = CatalogueFacts(owner="mlops")


def parsed(text: str) -> Pipeline:
    return pipelines.parsed(pipelines.plain_yaml.load(text))


def listed(*files: Pipeline, **facts: Any) -> Catalogue:
    return catalogue({file.name: file for file in files}, CatalogueFacts(**{"owner": "mlops", **facts}))


def view(found: Catalogue, name: str) -> CatalogueView:
    entry = found.named(name)
    assert entry
    return entry


def test_a_view_is_told_with_owner_key_moment_features_and_types() -> None:
    features = stays().model_dump()["features"]
    features["trend"] |= {"description": "Prices of the house"}
    found = view(listed(stays(owner="revenue", features=features), snapshots={"stays": "s7"}), "stays.trend")
    assert (found.owner, found.classification, found.kind, found.moment) == (
        "revenue",
        "personal",
        "trailing",
        "booking",
    )
    assert (found.key, found.moment_columns) == ({"house": "string"}, ("arrival", "lead"))
    assert (found.description, found.snapshot) == ("Prices of the house", "s7")
    assert {feature.name: feature.type for feature in found.features}["price_mean_3d"] == "number"
    assert view(listed(stays()), "stays.trend").owner == "mlops"


def test_each_feature_names_the_columns_that_it_is_made_of() -> None:
    found = listed(stays())
    made = {feature.name: feature.columns for feature in view(found, "stays.stay").features}
    assert (made["nights"], made["arrival_month"]) == (("nights",), ("arrival",))
    types = {feature.name: feature.type for feature in view(found, "stays.stay").features}
    assert (types["returning"], types["room"], types["arrival_month"]) == ("boolean", "string", "integer")
    made = {feature.name: feature.columns for feature in view(found, "stays.trend").features}
    assert (made["price_mean_10d"], made["rows_3d"]) == (("price",), ())
    (sources,) = (f.sources for f in view(found, "stays.trend").features if f.name == "price_mean_10d")
    assert sources == ("stays.price",)


def test_the_time_since_the_last_row_is_made_of_the_columns_of_its_moment() -> None:
    trend = {"kind": "trailing", "at": "booking", "by": ["house"], "windows": ["7d"], "since_last": True}
    features = {"own": {"kind": "row", "at": "booking", "columns": ["nights"]}, "trend": trend}
    found = view(listed(stays(features=features)), "stays.trend")
    assert {f.name: f.columns for f in found.features}["days_since_last"] == ("arrival", "lead")


def test_an_expression_is_made_of_the_columns_that_it_reads() -> None:
    own = {"kind": "row", "at": "booking", "columns": ["nights"], "expressions": {"long": "nights > 7 AND lead > 1"}}
    (feature,) = (f for f in view(listed(stays(features={"own": own})), "stays.own").features if f.name == "long")
    assert (feature.type, feature.columns) == ("boolean", ("nights", "lead"))


def test_every_feature_of_the_shipped_pipeline_has_an_origin() -> None:
    spec = pipelines.load(ROOT / "include/pipelines/hotel_bookings.yaml")
    assert isinstance(spec, ModelPipeline)
    found = listed(spec)
    assert [entry.view for entry in found.views] == list(spec.features)
    for entry, table in zip(found.views, view_tables(spec), strict=True):
        assert [feature.name for feature in entry.features] == list(table.features)
        assert all(feature.columns is not None and entry.description for feature in entry.features)


def test_a_champion_is_a_user_of_the_views_that_it_reads_with_the_features_that_it_reads() -> None:
    of = definitions.of_pipeline(stays())
    read = {name: of[name] for name in ("stay__nights", "stay__room", "rooms__rows_5d")}
    champion = ChampionInputs("stays", "3", "s1", "r7", read)
    other = ChampionInputs("others", "1", "s1", "r8", {"trend__rows_3d": of["trend__rows_3d"]})
    found = listed(stays(), champions=(champion, other))
    (user,) = view(found, "stays.stay").users or ()
    assert (user.model, user.version, user.snapshot, user.run_id) == ("stays", "3", "s1", "r7")
    assert user.features == ("nights", "room")
    assert view(found, "stays.trend").users == ()
    assert view(listed(stays(), champions=None), "stays.stay").users is None


def test_a_champion_that_learned_a_former_definition_does_not_read_the_present_feature() -> None:
    read = definitions.of_pipeline(stays())
    champion = ChampionInputs("stays", "3", "s1", "r7", read | {"stay__nights": "0" * 16, "stay__gone": "1" * 16})
    found = view(listed(stays(), champions=(champion,)), "stays.stay")
    (user,) = found.users or ()
    assert user.former == ("nights", "gone") and "nights" not in user.features and "room" in user.features
    told = "\n".join(feature_lines.lines(found, "s1"))
    assert "by a former definition: nights, gone" in told


def test_a_pipeline_without_a_model_has_no_view_and_a_wrong_one_a_fault() -> None:
    wrong = stays("wrong", features={"rows": {"kind": "row", "at": "booking", "columns": ["nights"]}})
    files = {"payments": parsed(PAYMENTS), "broken": PipelineError("no YAML", "Correct it."), "wrong": wrong}
    found = catalogue(files, FACTS)
    assert not found.views and found.faults["broken"] == "no YAML" and "reserved" in found.faults["wrong"]


def test_the_origin_of_a_derived_column_is_what_was_delivered_or_unknown() -> None:
    lineage = {"wet_trips": {"rain": ("weather.rain",), "km": ("trips.km",)}}
    (rain,) = view(listed(parsed(WET), derived=lineage), "wet_trips.own").features
    assert (rain.columns, rain.sources) == (("rain",), ("weather.rain",))
    (rain,) = view(listed(parsed(WET)), "wet_trips.own").features
    assert (rain.columns, rain.sources) == (("rain",), None)


NAMES = st.sampled_from(["p.x", "p.y", "q.x", "q.y", "r.x", "r.y"])
LINEAGES = st.dictionaries(
    st.sampled_from("pq"), st.dictionaries(st.sampled_from("xy"), st.none() | st.lists(NAMES, max_size=3).map(tuple))
)


@given(st.lists(NAMES, max_size=4), LINEAGES)
def test_origins_are_columns_that_no_query_makes_and_a_cycle_ends(columns: list[str], derived: Any) -> None:
    found = origins.delivered(columns, derived)
    whole = [origins.delivered([column], derived) for column in columns]
    if found is None:
        assert None in whole
    else:
        assert found == tuple(sorted({source for sources in whole for source in sources or ()}))
        assert not {source for source in found if source.partition(".")[0] in derived}
    assert origins.delivered(columns, {}) == tuple(sorted(set(columns)))


@pytest.mark.parametrize("name", ["stays", "stays.none", "none.stay"])
def test_a_name_that_is_none_finds_nothing(name: str) -> None:
    assert listed(stays()).named(name) is None
