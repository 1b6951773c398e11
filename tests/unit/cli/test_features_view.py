"""The catalogue of feature views on the command line and in the cockpit, from the facts of a platform in memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.cli import app, feature_lines, json_documents
from rempart.cli.views import facts as gathered
from rempart.errors import PipelineError
from rempart.features.catalogue.entries import CatalogueFacts, catalogue
from rempart.flows.training import materialize
from rempart.models import definitions
from rempart.settings import pipelines
from rempart.web import page, pages
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models.catalogue.views import features, of_facts
from rempart.web.wording import LANGUAGES, Texts
from tests.cockpit import NOW, ROOT, Watched
from tests.derived_project import WET
from tests.unit.cli.test_models_view import MODEL, candidate
from tests.unit.cli.test_pipelines_view import snapshot
from tests.unit.features.test_catalogue import parsed

DIGESTS = definitions.of_pipeline(pipelines.with_model(pipelines.load(ROOT / "include/pipelines/hotel_bookings.yaml")))
READ = [{"name": name, "definition": DIGESTS[name]} for name in ("booking__adults", "agent_trend__rows_90d")]
SILENT = Unknown("the ledger: no answer")


@pytest.fixture
def found() -> CockpitFacts:
    """Version 1 is champion, and reads two views."""
    watched = Watched()
    snapshot(watched, "s2")
    candidate(watched, "1", snapshot="s1", features=READ)
    watched.promotion("1")
    return watched.facts()


def test_the_list_has_owner_classification_key_moment_and_users(found: CockpitFacts) -> None:
    head, *rows = feature_lines.listing(of_facts(found))
    trend = next(row for row in rows if row.startswith("hotel_bookings.agent_trend"))
    assert [trend[head.index(column) :].split("  ")[0].rstrip() for column in feature_lines.HEAD] == [
        "hotel_bookings.agent_trend",
        "trailing",
        "mlops",
        "personal",
        "agent",
        "booking",
        "4",
        "hotel_bookings version 1",
    ]
    assert next(row for row in rows if ".segment_trend" in row).endswith("no champion")


def test_a_view_is_shown_with_origin_snapshots_and_the_features_that_are_read(found: CockpitFacts) -> None:
    view = of_facts(found).named(f"{MODEL}.agent_trend")
    assert view
    told = "\n".join(feature_lines.lines(view, "s1"))
    assert "newest snapshot  s2" in told and "loaded snapshot  s1" in told
    assert "Read by: hotel_bookings version 1, 1 of 4 features: rows_90d\n  trained on snapshot  s1" in told
    (mean,) = (line for line in told.splitlines() if line.startswith("avg_price_per_room_mean_90d"))
    assert mean.split()[1:] == ["number", "avg_price_per_room"]
    assert "the number of rows" in told and "DELIVERED AS" not in told


def test_a_champion_of_a_former_definition_is_told_as_such_by_command_and_page() -> None:
    watched = Watched()
    candidate(watched, "1", features=[{"name": "agent_trend__rows_90d", "definition": "00"}])
    watched.promotion("1")
    facts = watched.facts()
    view = of_facts(facts).named(f"{MODEL}.agent_trend")
    assert view and "0 of 4 features; by a former definition: rows_90d" in "\n".join(feature_lines.lines(view, "s1"))
    assert "By a former definition: rows_90d" in rendered(facts, "en")


def test_a_derived_view_is_shown_with_what_was_delivered() -> None:
    derived = parsed(WET)
    lineage = {"wet_trips": {"rain": ("weather.rain",)}}
    for known, wanted in ((lineage, "weather.rain"), ({}, "unknown")):
        (view,) = catalogue({derived.name: derived}, CatalogueFacts("mlops", derived=known)).views
        assert f"rain     number  rain     {wanted}" in list(feature_lines.lines(view, "none"))


def test_users_are_unknown_while_the_ledger_is_silent_and_never_none(found: CockpitFacts) -> None:
    silent = of_facts(Watched().facts(evidence=SILENT))
    assert all(row.endswith("unknown") for row in list(feature_lines.listing(silent))[1:])
    view = silent.named(f"{MODEL}.booking")
    assert view and "Read by: unknown" in "\n".join(feature_lines.lines(view, "unknown"))
    assert json.loads(json_documents.document(asdict(view)))["users"] is None


def run(monkeypatch: pytest.MonkeyPatch, facts: CockpitFacts, *words: str) -> Any:
    monkeypatch.setattr(gathered, "gather", lambda: facts)
    monkeypatch.setattr(materialize, "loaded_snapshot", lambda platform, pipeline: "s1")
    return CliRunner().invoke(app, ["feature", *words])


def test_the_commands_print_lines_or_one_document(monkeypatch: pytest.MonkeyPatch, found: CockpitFacts) -> None:
    listed = json.loads(run(monkeypatch, found, "list", "--json").output)
    assert [view["name"].partition(".")[2] for view in listed["views"]] == ["booking", "agent_trend", "segment_trend"]
    shown = json.loads(run(monkeypatch, found, "show", f"{MODEL}.booking", "--json").output)
    assert (shown["loaded_snapshot"], shown["snapshot"], shown["users"][0]["features"]) == ("s1", "s2", ["adults"])
    assert run(monkeypatch, found, "show", f"{MODEL}.booking").exit_code == 0
    whole = run(monkeypatch, found, "show", MODEL)
    assert whole.exit_code == 0 and "hotel_bookings.agent_trend" in whole.output and "energy_use" not in whole.output
    views = json.loads(run(monkeypatch, found, "show", MODEL, "--json").output)["views"]
    assert [view["name"] for view in views] == [view["name"] for view in listed["views"] if view["pipeline"] == MODEL]
    wrong = run(monkeypatch, found, "show", f"{MODEL}.bookings")
    assert wrong.exit_code == 2 and f"Did you mean '{MODEL}.booking'?" in wrong.output
    silent = run(monkeypatch, Watched().facts(evidence=SILENT), "list")
    assert silent.exit_code == 1 and "UNKNOWN: ledger" in silent.output


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("silent", [False, True])
def test_the_page_has_each_view_with_its_features_and_users(found: CockpitFacts, language: Any, silent: bool) -> None:
    if silent:
        found = Watched().facts(evidence=SILENT)
    texts, shown = own_texts().texts_in(language), rendered(found, language)
    assert shown.count("<h2 id=") == 3 and "{" not in shown
    assert 'id="hotel_bookings.agent_trend"' in shown and texts["features.rows"] in shown
    assert (f"{MODEL} 1</a>" in shown) is not silent and (texts["features.nobody"] in shown) is not silent


def rendered(found: CockpitFacts, language: Any) -> str:
    from rempart.web.rendering import _templates

    t = Texts(language, own_texts().texts_in(language))
    content = {"found": features(found, NOW), "base": "/rempart", "pages": (), "current": "features"}
    return (
        _templates()
        .get_template("features.html")
        .render(t=t, here=lambda language: "", evidence=True, operate=False, **content)
    )


def test_views_of_pipelines_that_cannot_be_read_are_unknown_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Watched().facts(pipelines=Unknown("the pipelines: no answer"))
    for words in (("feature", "list"), ("pipeline", "list"), ("model", "list")):
        monkeypatch.setattr(gathered, "gather", lambda: silent)
        listed = CliRunner().invoke(app, [*words])
        assert listed.exit_code == 1 and "UNKNOWN: pipelines: the pipelines: no answer" in listed.output
        assert "There is no" not in listed.output
    for words in (("feature", "show", f"{MODEL}.booking"), ("pipeline", "show", MODEL)):
        shown = CliRunner().invoke(app, [*words])
        assert isinstance(shown.exception, PipelineError) and "no answer" in shown.exception.what
    page = rendered(silent, "en")
    assert "<p>not known</p>" in page and "<p>None.</p>" not in page


def own_texts() -> page.Page:
    return next(entry for entry in pages.collect() if entry.name == "features")
