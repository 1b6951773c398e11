"""Each page, figure and command answers whichever records are gone: altered, deleted, or older than those read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import Response
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from rempart.cli import feature_lines, json_documents
from rempart.cli.models import search
from rempart.cli.monitoring import lines as drift_lines
from rempart.cli.monitoring import pipeline_health
from rempart.cli.monitoring.pipeline_health import PipelineHealth
from rempart.cli.views import models, pipelines, quarantine, site_list
from rempart.cli.views.refused_lines import RefusedLines
from rempart.errors import TrainingError
from rempart.flows.drill import drill_report
from rempart.flows.retirement.facts import recorded
from rempart.flows.search.records import searches
from rempart.flows.training import roll_back_to
from rempart.flows.training.champions import decisions_on
from rempart.flows.training.explained.keep import importances
from rempart.ledger.memory import MemoryLedger
from rempart.settings import access
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.metrics import exposition
from rempart.web.read_models import points
from rempart.web.read_models.catalogue.views import of_facts
from rempart.web.read_models.model_versions import model_states
from rempart.web.read_models.models import JUDGEMENTS, champions
from rempart.web.read_models.pipeline_states import pipeline_states
from rempart.web.read_models.quarantine import quality
from rempart.web.read_models.rollback import rollback
from rempart.web.read_models.searches.views import view
from rempart.web.read_models.versions.comparison import compared
from rempart.web.read_models.watched.drift import all_watched
from tests import full_ledger
from tests.cockpit import DELIVERY, NOW, POINT, Watched
from tests.cockpit_routes import ROUTES
from tests.full_ledger import NAME, OLDER_POINT

LEDGER = full_ledger.full().ledger
SEQS = [record.seq for record in LEDGER.records]
KINDS = sorted({record.kind for record in LEDGER.records})
READ_OF_THE_CHAIN = ("/ledger", "/api/ledger", "/evidence", "/static", "/api/openapi.json")
"""Routes that show what is stored, or no record at all."""


@st.composite
def losses(draw: st.DrawFn) -> tuple[frozenset[int], int | None]:
    """Numbers of records that are gone, and how many of each kind are read, if fewer than usually."""
    some, half = st.sets(st.sampled_from(SEQS)), st.lists(st.booleans(), min_size=len(SEQS), max_size=len(SEQS))
    kinds = st.sets(st.sampled_from(KINDS))
    gone = draw(
        st.one_of(
            some,
            some.map(lambda kept: {*SEQS} - kept),
            half.map(lambda lost: {seq for seq, is_lost in zip(SEQS, lost, strict=True) if is_lost}),
            kinds.map(lambda lost: {record.seq for record in LEDGER.records if record.kind in lost}),
        )
    )
    return frozenset(gone), draw(st.none() | st.integers(1, 4))


@pytest.fixture(scope="module")
def known() -> CockpitFacts:
    return Watched().facts()


def told(facts: CockpitFacts, ledger: MemoryLedger) -> list[str]:
    """Return what the commands write that show records."""
    found, states, stands = list[str](), model_states(facts), pipeline_states(facts, NOW)
    found += models.listing([*states.values()], ())
    for state in states.values():
        found += models.state_lines(state)
        known = {version.version: importances(ledger, NAME, version.version) for version in state.versions}
        for version in state.versions:
            first = state.versions[0]
            comparison = compared(NAME, first, version, (known[first.version], known[version.version]))
            found += [*models.comparison_lines(comparison, state.metric), json_documents.document(comparison)]
    found += pipelines.listing(stands, "landing")
    for each in stands:
        found += [*pipelines.state_lines(each, "landing"), json_documents.document(pipelines.as_json(each, "landing"))]
    found += pipeline_health.lines([PipelineHealth(each, None, None) for each in stands])
    if shown := quality(facts, NAME, NOW):
        found += quarantine.lines(shown, "cockpit", RefusedLines())
    found += site_list.lines(site_list.entries(facts, {}, {}), NOW)
    for watched in all_watched(facts, NOW):
        found += drift_lines.verdict(watched)
    catalogue = of_facts(facts)
    found += feature_lines.listing(catalogue)
    for each_view in catalogue.views:
        found += feature_lines.lines(each_view, "s1")
    found += search.lines(NAME, [view(each) for each in searches(ledger, NAME)])
    found += [drill_report.as_json(drill_report.make(ledger, record, ())) for record in ledger.find("drill")]
    return found


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(losses())
def test_commands_and_figures_stand_any_subset_of_the_records(
    known: CockpitFacts, lost: tuple[frozenset[int], int | None]
) -> None:
    ledger = full_ledger.without(LEDGER, lost[0])
    facts = full_ledger.facts_of(ledger, known, lost[1])
    lines, shown = told(facts, ledger), exposition(facts, NOW)
    assert lines and "rempart_source_up" in shown
    recorded(ledger, NAME)
    by_decision = {champion.model: champion.version for champion in champions(facts)}
    for state in model_states(facts).values():
        standing = {version.version: version.standing for version in state.versions}
        version = by_decision.get(state.model)
        assert (state.champion is not None) == (version is not None and standing[version] != "retired")
    decisions = decisions_on(ledger, NAME)
    plan = rollback(NAME, decisions)
    try:
        steps = roll_back_to.steps_to(decisions, NAME, None)
    except TrainingError:
        assert plan is None or plan.returns is None
    else:
        assert plan and plan.returns and steps[0].returns == plan.returns.version


@pytest.fixture(scope="module")
def show() -> Iterator[Callable[[CockpitFacts, MemoryLedger], dict[str, Response]]]:
    """Ask every route that reads records; return the answer of each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 32)
        patched.setenv("AIRFLOW__API__SECRET_KEY", "y" * 32)
        from airflow.api_fastapi.core_api.security import get_user

        from rempart.web import sources
        from rempart.web.app import build
        from rempart.web.pages import collect

        app = build(collect())
        rights: Any = access.role("admin").permissions
        app.dependency_overrides[get_user] = lambda: SimpleNamespace(
            perms=rights, get_id=lambda: "admin", get_name=lambda: "admin"
        )
        client = TestClient(app, follow_redirects=False, raise_server_exceptions=False)
        paths = [path.replace(DELIVERY, "1a" * 32) for method, path in ROUTES if method == "GET" and path != "/"]
        paths = [path for path in paths if not path.startswith(READ_OF_THE_CHAIN)]
        paths += [f"/dag?dag_id={stage}_{NAME}" for stage in ("ingest", "train", "validate_model", "monitor")]
        paths += [f"/run?dag_id=validate_model_{NAME}&run_id=asset__1", f"/restore-points/{OLDER_POINT}"]
        paths += [f"/dag?dag_id={dag}" for dag in ("backup_platform", "retire_models", "replicate_primary_to_haven")]

        def shown(facts: CockpitFacts, ledger: MemoryLedger) -> dict[str, Response]:
            patched.setattr(sources, "newest", lambda *within: facts)
            patched.setattr(sources, "ledger", lambda: ledger)
            patched.setattr(sources, "now", lambda: NOW)
            return {path: client.get(path) for path in paths}

        yield shown


@pytest.mark.airflow
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(losses())
def test_every_page_stands_any_subset_of_the_records(
    known: CockpitFacts,
    show: Callable[[CockpitFacts, MemoryLedger], dict[str, Response]],
    lost: tuple[frozenset[int], int | None],
) -> None:
    ledger = full_ledger.without(LEDGER, lost[0])
    answers = show(full_ledger.facts_of(ledger, known, lost[1]), ledger)
    found = {path: answer.status_code for path, answer in answers.items()}
    assert {path: status for path, status in found.items() if status not in (200, 303, 307, 404)} == {}


@pytest.mark.airflow
def test_with_all_records_no_page_is_missing(
    known: CockpitFacts, show: Callable[[CockpitFacts, MemoryLedger], dict[str, Response]]
) -> None:
    answers = show(full_ledger.facts_of(LEDGER, known), LEDGER)
    found = {path: answer.status_code for path, answer in answers.items()}
    assert {path: status for path, status in found.items() if status not in (200, 303)} == {}


@pytest.mark.airflow
def test_each_part_of_a_page_that_scrolls_has_a_name_of_its_own(
    known: CockpitFacts, show: Callable[[CockpitFacts, MemoryLedger], dict[str, Response]]
) -> None:
    """Of two drills, and of two pipelines that are watched alike: a screen reader lists these parts by their names."""
    full = full_ledger.full()
    for record in LEDGER.find("monitoring", NAME):
        full.ledger.append("monitoring", "second_bookings", record.body)
    facts = full_ledger.facts_of(full.ledger, known)
    assert not isinstance(facts.pipelines, Unknown)
    second = facts.pipelines[NAME].model_copy(update={"name": "second_bookings"})
    facts = replace(facts, pipelines={**facts.pipelines, second.name: second})
    parts = {
        path: re.findall(r'role="region" aria-label="([^"]*)"', answer.text)
        for path, answer in show(facts, full.ledger).items()
    }
    drills = [name for name in parts[f"/restore-points/{POINT}"] if "drill in record" in name]
    assert len(drills) > 1 and sum("second_bookings" in name for name in parts["/monitoring"]) > 2
    assert {path: names for path, names in parts.items() if len(names) != len(set(names))} == {}


@pytest.fixture
def rolled_back() -> MemoryLedger:
    """Version 3 was rolled back to 2, of which neither the training nor the promotion is read; of 1 nothing is."""
    kept = {"rollback", "snapshot", "deliveries", "materialization"}
    return full_ledger.without(LEDGER, [record.seq for record in LEDGER.records if record.kind not in kept])


def test_a_champion_that_only_a_rollback_names_is_told_with_what_is_not_known(
    known: CockpitFacts, rolled_back: MemoryLedger
) -> None:
    facts = full_ledger.facts_of(rolled_back, known)
    state = model_states(facts)[NAME]
    assert state.champion and (state.champion.version, state.champion.standing) == ("2", "champion")
    assert [*models.listing([state], ())][1].split()[:3] == [NAME, "version", "2"]
    rows = [line.split() for line in models.life_lines(state)]
    assert rows[1] == ["3", *["not", "known"] * 3] and rows[2][:5] == ["2", *["not", "known"] * 2]
    (stands,) = pipeline_states(facts, NOW)
    lines = [*pipelines.state_lines(stands, "landing")]
    assert any(line.startswith("Champion: version 2 since") for line in lines)
    assert all(each.users is None for each in of_facts(facts).views)
    assert {line.split()[-1] for line in [*feature_lines.listing(of_facts(facts))][1:]} == {"unknown"}


def test_the_next_step_is_no_training_and_no_delivery_while_a_record_is_missing(known: CockpitFacts) -> None:
    def sentence(*kinds: str) -> str:
        """Return the next step without records of these kinds, and without deliveries that are held back."""
        held = [
            r for r in LEDGER.records if r.kind == "deliveries" and r.body["deliveries"][0]["outcome"] != "accepted"
        ]
        gone = {record.seq for record in (*held, *(r for r in LEDGER.records if r.kind in kinds))}
        (state,) = pipeline_states(full_ledger.facts_of(full_ledger.without(LEDGER, gone), known), NOW)
        return state.next.sentence

    assert sentence("candidate").startswith("The record of the training of version 8 was altered, deleted, or is older")
    assert sentence("snapshot").startswith("Rows were accepted, and no snapshot is on record")
    assert sentence("candidate", *JUDGEMENTS) == "No model was trained on the current snapshot."


@pytest.mark.airflow
def test_the_plan_of_a_rollback_says_what_is_not_known_of_a_version(
    known: CockpitFacts,
    rolled_back: MemoryLedger,
    show: Callable[[CockpitFacts, MemoryLedger], dict[str, Response]],
) -> None:
    found = rollback(NAME, decisions_on(rolled_back, NAME))
    assert found and found.returns is None
    assert (found.champion.version, found.champion.seq, found.champion.at) == ("2", None, None)
    answers = show(full_ledger.facts_of(rolled_back, known), rolled_back)
    paths = (f"/models/{NAME}/roll-back", f"/api/models/{NAME}/roll-back")
    assert [answers[path].status_code for path in paths] == [200, 200]


def test_a_point_that_a_prune_may_have_deleted_is_not_told_as_one_that_is_there(known: CockpitFacts) -> None:
    (ended,) = [r.seq for r in LEDGER.records if r.kind == "prune" and r.body["state"] == "ended"]
    facts = full_ledger.facts_of(full_ledger.without(LEDGER, [ended]), known)
    assert full_ledger.GONE_POINT in points.pruned(facts)
    assert full_ledger.GONE_POINT not in {record.subject for record in points.standing(facts)}
