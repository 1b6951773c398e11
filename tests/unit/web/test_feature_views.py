"""The age of online features and their comparison, as pages, figures and the command line tell it."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from rempart.cli.views import pipelines as lines
from rempart.replication.read_back import READ_BACK_EVERY
from rempart.settings.pipeline import ModelPipeline
from rempart.web.facts import NEWEST, CockpitFacts, Unknown
from rempart.web.metrics import exposition
from rempart.web.read_models import quarantine
from rempart.web.read_models.data import data
from rempart.web.read_models.feature_store.views import COMPARED_WITHIN, FeatureView, feature_views
from rempart.web.read_models.pipeline_states import pipeline_states
from rempart.web.wording import Texts
from tests.cockpit import NOW, Watched
from tests.unit.features.stays import stays

HOUR = timedelta(hours=1)
VIEWS = ["stay", "trend", "rooms"]


def pipeline(**limits: str) -> ModelPipeline:
    """The stays, with the limit of some views."""
    features: dict[str, Any] = stays().model_dump()["features"]
    for view, limit in limits.items():
        features[view]["max_age"] = limit
    return stays(features=features)


def views(watched: Watched, now_later: timedelta = timedelta(), **limits: str) -> dict[str, FeatureView]:
    found = feature_views(watched.facts(pipelines={"stays": pipeline(**limits)}), "stays", NOW + now_later)
    return {view.view: view for view in found}


def figures(facts: CockpitFacts) -> dict[str, float]:
    told = [line.rpartition(" ") for line in exposition(facts, NOW).splitlines() if "rempart_feature" in line]
    return {name: float(value) for name, _, value in told if not name.startswith("#")}


def test_each_view_is_judged_by_its_own_limit() -> None:
    watched = Watched()
    watched.materialization(VIEWS)
    watched.skew(VIEWS)
    found = views(watched, stay="3h", trend="1h")
    assert [(view.freshness, view.age_state, view.skew) for view in found.values()] == [
        ("fresh", "good", "equal"),
        ("stale", "bad", "equal"),
        ("no limit", "unknown", "equal"),
    ]
    assert {view.age_seconds for view in found.values()} == {7200.0}
    assert [view.state for view in found.values()] == ["good", "bad", "good"]
    assert views(watched, 2 * HOUR, stay="3h")["stay"].freshness == "stale", "time passes without a record"


def test_views_that_predictions_of_now_do_not_use_are_named_since_the_model_is_less_exact_without_them() -> None:
    watched = Watched()
    watched.materialization(VIEWS)
    facts = watched.facts(pipelines={"stays": pipeline()})
    day = timedelta(days=1)

    def told(later: timedelta) -> tuple[list[int | None], str]:
        passed = [view.passed_days for view in feature_views(facts, "stays", NOW + later)]
        return passed, "\n".join(lines.state_lines(pipeline_states(facts, NOW + later)[0], "landing"))

    for later, passed in ((5 * day, [None, None, None]), (8 * day, [None, None, 5]), (13 * day, [None, 10, 5])):
        assert told(later)[0] == passed
    assert "Predictions asked for now" not in told(5 * day)[1]
    assert "older than their longest\n  window: 'rooms' of 5 days. They are less exact" in told(8 * day)[1]
    assert "'trend' of 10 days, 'rooms' of 5 days. They are" in told(13 * day)[1]


def test_a_comparison_measures_the_age_too_and_the_newest_record_counts() -> None:
    watched = Watched()
    watched.materialization(VIEWS, ago=9 * HOUR)
    online = {"entities": 91, "newest": (NOW - 3 * HOUR).isoformat(), "loaded_at": (NOW - 2 * HOUR).isoformat()}
    watched.skew(VIEWS, views=dict.fromkeys(VIEWS, online))
    assert (views(watched)["stay"].age_seconds, views(watched)["stay"].entities) == (3 * 3600, 91)


def test_command_line_and_cockpit_tell_how_often_the_dag_compares() -> None:
    facts = Watched().facts(pipelines={"stays": pipeline()})
    told = "\n".join(lines.state_lines(pipeline_states(facts, NOW)[0], "landing"))
    assert timedelta(days=1) / READ_BACK_EVERY == 2
    assert told.count("not yet; twice a day") == len(VIEWS) and "twice a day" in Texts("en")("online.note")


def test_what_is_not_known_is_never_fresh_or_equal() -> None:
    assert {(v.freshness, v.skew) for v in views(Watched(), stay="3h").values()} == {("never loaded", "not compared")}
    silent = Watched().facts(pipelines={"stays": pipeline()}, evidence=Unknown("no answer"))
    assert {(v.freshness, v.skew) for v in feature_views(silent, "stays", NOW)} == {("unknown", "unknown")}
    odd = Watched()
    odd.record("materialization", "stays", {"views": {"stay": {"another": "form"}}})
    assert views(odd)["stay"].freshness == "unknown"
    other = Watched()
    other.materialization(["stay"])
    assert views(other)["trend"].freshness == "never loaded", "a view that is new in the file"
    full = Watched().facts(pipelines={"stays": pipeline()})
    record = Watched()
    record.record("materialization", "another", {"views": {}})
    (filler,) = record.facts().of("materialization")
    many = {**dict(full.evidence), "materialization": (filler,) * NEWEST["materialization"]}  # type: ignore[call-overload] # known above
    reached = dataclasses.replace(full, evidence=many)
    assert {view.freshness for view in feature_views(reached, "stays", NOW)} == {"unknown"}, (
        "older records are not read"
    )


@pytest.mark.parametrize("outcome", ["different", "unknown", "old"])
def test_a_difference_is_red_and_a_comparison_that_failed_or_is_old_is_unknown(outcome: str) -> None:
    watched = Watched()
    watched.materialization(VIEWS)
    watched.skew(VIEWS, ago=4 * HOUR)
    if outcome == "different":
        watched.skew(["stay"], different=3)
    elif outcome == "unknown":
        watched.record("skew", "stays", {"seed": 1, "size": 9, "outcome": "unknown", "why": "loaded", "views": {}})
    later = COMPARED_WITHIN if outcome == "old" else timedelta()
    found = views(watched, later)["stay"]
    assert (found.skew, found.different) == (("different", 3) if outcome == "different" else ("unknown", None))
    assert found.skew_state == ("bad" if outcome == "different" else "unknown")
    assert found.is_current == (outcome == "different")


@pytest.mark.parametrize("later", ["unknown", "old", "of other views", "equal"])
def test_a_known_difference_stays_until_a_comparison_finds_the_view_equal(later: str) -> None:
    watched = Watched()
    watched.materialization(VIEWS)
    watched.skew(VIEWS, ago=4 * HOUR, different=3)
    if later == "unknown":
        watched.record("skew", "stays", {"seed": 1, "size": 9, "outcome": "unknown", "why": "loaded", "views": {}})
    elif later != "old":
        watched.skew(["trend"] if later == "of other views" else VIEWS)
    found = views(watched, COMPARED_WITHIN if later == "old" else timedelta())["stay"]
    facts = watched.facts(pipelines={"stays": pipeline()})
    known = figures(facts)
    labels = '{pipeline="stays",view="stay"}'
    told = "\n".join(lines.state_lines(pipeline_states(facts, NOW)[0], "landing"))
    if later == "equal":
        assert (found.skew, found.different, found.is_current) == ("equal", 0, True)
        assert "DIFFERENT" not in told and known[f"rempart_feature_skew_entities{labels}"] == 0
        return
    assert (found.skew, found.different, found.skew_state, found.is_current) == ("different", 3, "bad", False)
    assert found.compared_at == NOW - 4 * HOUR
    assert known[f"rempart_feature_skew_entities{labels}"] == 3
    if later != "old":
        assert known[f"rempart_feature_skew_known{labels}"] == 0
        assert "DIFFERENT: 3 of 90 entities, 2026-03-01 08:00 UTC (unknown since)" in told


def test_figures_have_no_sample_for_what_is_not_known() -> None:
    watched = Watched()
    facts = watched.facts(pipelines={"stays": pipeline(stay="3h")})
    limit = 'rempart_feature_age_limit_seconds{pipeline="stays",view="stay"}'
    assert figures(facts) == {limit: 10800}
    watched.materialization(["stay"])
    labels = '{pipeline="stays",view="stay"}'
    found = figures(watched.facts(pipelines={"stays": pipeline(stay="3h")}))
    told = {limit: 10800, f"rempart_feature_age_seconds{labels}": 7200, f"rempart_feature_entities{labels}": 90}
    assert found == told, "the first comparison is not due yet"
    watched.record("skew", "stays", {"seed": 1, "size": 9, "outcome": "unknown", "why": "loaded", "views": {}})
    found = figures(watched.facts(pipelines={"stays": pipeline(stay="3h")}))
    assert found == told | {f"rempart_feature_skew_known{labels}": 0}
    overdue = Watched()
    overdue.materialization(["stay"], ago=COMPARED_WITHIN + HOUR)
    overdue.materialization(["stay"])
    assert figures(overdue.facts(pipelines={"stays": pipeline()}))[f"rempart_feature_skew_known{labels}"] == 0


def test_pages_and_the_command_line_tell_the_same() -> None:
    watched = Watched()
    watched.materialization(VIEWS)
    watched.skew(VIEWS)
    watched.skew(VIEWS, different=2)
    facts = watched.facts(pipelines={"stays": pipeline(stay="3h")})
    (listed,) = data(facts, NOW).pipelines
    page = quarantine.quality(facts, "stays", NOW)
    (state,) = pipeline_states(facts, NOW)
    assert page is not None
    assert page.features == state.features == feature_views(facts, "stays", NOW)
    assert listed.features == "bad"
    told = "\n".join(lines.state_lines(state, "landing"))
    (row,) = (line for line in told.splitlines() if " fresh " in line)
    assert " ".join(row.split()[1:]).startswith("fresh 2026-03-01, 2 h ago 3 h old 2026-03-01 11:00 UTC 90 ")
    assert told.count("DIFFERENT: 2 of 90 entities, 2026-03-01 11:00 UTC") == 3
    assert lines.as_json(state, "landing")["features"] == state.features


def test_the_newest_value_of_a_date_is_told_as_the_date_and_never_as_the_end_of_its_day() -> None:
    watched = Watched()
    online = {"entities": 9, "newest": "2026-02-28T00:00:00+00:00", "loaded_at": NOW.isoformat()}
    watched.materialization(VIEWS, views=dict.fromkeys(VIEWS, online))
    found = views(watched)
    assert {name: str(view.newest_day) for name, view in found.items()} == {
        "stay": "2026-02-28",
        "trend": "2026-02-27",  # values of `days` count from the day after
        "rooms": "2026-02-27",
    }
    facts = watched.facts(pipelines={"stays": pipeline()})
    told = "\n".join(lines.state_lines(pipeline_states(facts, NOW)[0], "landing"))
    assert " 2026-02-28, 1 d 12 h ago" in told and " 2026-02-27, 1 d 12 h ago" in told and "00:00 UTC" not in told


def test_a_reset_pipeline_was_never_loaded_since() -> None:
    watched = Watched()
    watched.materialization(VIEWS)
    watched.skew(VIEWS)
    watched.record("removal", "stays", {"what": "reset", "state": "ended"})
    assert {(v.freshness, v.skew) for v in views(watched).values()} == {("never loaded", "not compared")}
