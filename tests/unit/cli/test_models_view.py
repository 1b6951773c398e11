"""Models on the command line: standing of versions, figures, bounds and differences, from the ledger's records."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.cli import app, json_documents
from rempart.cli.views import facts, model_files, models, names
from rempart.errors import ModelRefused, PipelineError, TrainingError
from rempart.flows.training import roll_back_to, validate
from rempart.flows.training.champions import decisions_on
from rempart.flows.training.roll_back_to import RollbackStep, steps_to, unfinished
from rempart.settings import pipelines
from rempart.settings.pipeline import Pipeline
from rempart.web.read_models.model_versions import ModelState, model_page, model_states
from rempart.web.read_models.versions.comparison import compared
from tests.cockpit import GATE, Watched

MODEL = "hotel_bookings"


def candidate(watched: Watched, version: str, mae: float = 23.3, **body: Any) -> int:
    held_out = {"sha256": version * 63 + "0", "examples": version * 63 + "1"}
    dataset = {"sha256": version * 64, "held_out": held_out, "rows_train": 12_000, "rows_holdout": 3_000}
    trainer = {"use": "gradient_boosting", "params": {"max_iter": 200}, "seed": 0}
    found = {"version": version, "dataset": dataset, "snapshot": f"s{version}", "trainer": trainer, "run_id": "r"}
    found |= {"features": [{"name": "own__nights"}, {"name": "own__adults"}], "code_version": "c1"}
    return watched.record("candidate", MODEL, found | {"metrics": {"rmse": 40.0, "mae": mae}} | body)


def refusal(watched: Watched, version: str, mae: float) -> int:
    reasons = ["passed: mae 1 is at most 2", f"refused: mae {mae} is above 25 (the limit)"]
    body = {"version": version, "metrics": {"mae": mae}, "baselines": {"mae": 39.9}, "reasons": reasons, "gate": GATE}
    return watched.record("refusal", MODEL, body | {"champion_metrics": {"mae": 22.4}})


def state(watched: Watched) -> ModelState:
    return model_states(watched.facts())[MODEL]


@pytest.fixture
def watched() -> Watched:
    """Version 1 was champion, 2 is; 3 was refused; 4 waits for the gate."""
    made = Watched()
    candidate(made, "1")
    made.promotion("1", 24.0)
    candidate(made, "2")
    written = {"dag": "validate_model_hotel_bookings", "run": "asset__1", "task": "validate"}
    made.promotion("2", 22.4, previous="1", champion_metrics={"mae": 24.0}, written_by=written)
    other = {"use": "gradient_boosting", "params": {"max_iter": 1}, "seed": 0}
    candidate(made, "3", 41.0, trainer=other, features=[{"name": "own__nights"}])
    refusal(made, "3", 41.0)
    candidate(made, "4")
    return made


def test_each_version_has_the_standing_that_the_decisions_gave_it(watched: Watched) -> None:
    found = state(watched)
    assert [(version.version, version.standing) for version in found.versions] == [
        ("4", "not judged"),
        ("3", "refused"),
        ("2", "champion"),
        ("1", "champion before"),
    ]
    watched.record("rollback", MODEL, {"champion": "1", "replaces": "2", "alias_was": "2"})
    after = state(watched)
    assert after.champion and after.champion.version == "1"
    assert next(v for v in after.versions if v.version == "2").standing == "rolled back"


def test_a_rollback_changes_since_when_the_champion_is_champion() -> None:
    watched = Watched()
    watched.record("promotion", MODEL, {"version": "1"}, timedelta(days=3))
    watched.record("promotion", MODEL, {"version": "2"}, timedelta(days=2))
    before = state(watched).champion_since
    watched.record("rollback", MODEL, {"champion": "1", "replaces": "2"}, timedelta(hours=1))
    after = state(watched).champion_since
    assert before and after and after - before == timedelta(days=1, hours=23)


def test_the_list_tells_champion_figures_and_why_the_newest_was_refused(watched: Watched) -> None:
    lines = list(models.listing([state(watched)], ["energy_use"]))
    assert lines[1].startswith("hotel_bookings  version 2") and "mae 22.4" in lines[1]
    assert lines[1].rstrip().endswith("version 4  not judged")
    assert lines[2].split() == ["energy_use", "none", "none"]
    refusal(watched, "4", 30.0)
    assert "refused: mae 30.0 is above 25 (the limit)" in list(models.listing([state(watched)], []))[1]


def test_a_pipeline_that_ends_at_its_snapshot_is_no_model_that_is_missing() -> None:
    model = pipelines.named(MODEL)
    rows = Pipeline.model_validate(model.model_dump(include=set(Pipeline.model_fields) - {"schedules"}))
    files = {"a": model, "b": rows, "c": PipelineError("read c", "correct it"), "d": model}
    assert models.without_model(files, {"d"}) == ["a", "c"]


def test_show_names_training_decision_who_and_evidence(watched: Watched) -> None:
    told = "\n".join(models.state_lines(state(watched)))
    assert told.startswith("hotel_bookings: champion version 2, since 2026-03-01 12:00 UTC")
    assert "promoted 2026-03-01 12:00 UTC by validate_model_hotel_bookings, run asset__1, evidence 5" in told
    assert "12,000 rows to learn from, 3,000 held out" in told and "gradient_boosting(max_iter=200), seed 0" in told
    assert "refused by the gate" in told and "by a command on this machine" in told


def shown(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["model", "show", MODEL, *words])
    return done.exit_code, done.output


def test_one_version_is_shown_alone_with_the_place_that_tells_where_it_errs(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "gather", watched.facts)
    monkeypatch.setattr(model_files, "look", lambda *_: model_files.ModelFiles())
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", "http://admin:secret@127.0.0.1:1")
    code, told = shown("3")
    assert code == 0 and told.startswith("Version 3: refused") and "mae 41" in told
    assert "Version 2" not in told and "Version 1:" not in told
    page, command = told.strip().split("\n")[-2:]
    assert page.startswith("Where version 3 errs") and f"127.0.0.1:1/rempart/models/{MODEL}/3/card" in page
    assert command.endswith(f"rempart model card {MODEL} 3")
    assert [each["version"] for each in json.loads(shown("3", "--json")[1])["versions"]] == ["3"]
    assert "Where version 4" not in shown("4")[1], "nobody judged it, so it has no card"
    everything = shown()[1]
    assert "Version 1: champion before" in everything and "Where version 3 errs" in everything
    code, told = shown("9")
    assert code == 2 and "there is no version of model hotel_bookings '9'" in told


def test_show_tells_what_was_measured_before_the_hold_out_and_how_often_it_was_opened(watched: Watched) -> None:
    held_out, examples, job = "5" * 63 + "0", "5" * 63 + "1", "job-5"
    origins = [{"begins": f"2016-0{m}-01", "rows_fit": 9, "rows": 5, "metrics": {"mae": 20.0 + m}} for m in (2, 3)]
    validation = {"rows_fit": 900, "rows": 100, "begins": "2016-05-01", "chosen": {"max_iter": 143}, "refit": True}
    figures = {"mae": 23.0, "validation_mae": 23.25, "backtest_mae_mean": 22.5, "backtest_mae_spread": 0.7071}
    candidate(watched, "5", job_id=job, metrics=figures, validation=validation, backtest=origins)
    for number, why, versions in ((1, "registration", []), (2, "gate", ["5", "2"])):
        opening = {"held_out": held_out, "opening": number, "why": why, "job_id": job, "versions": versions}
        watched.record("opening", MODEL, opening | {"examples": examples})
    told = "\n".join(models.version_lines(state(watched).versions[0], "mae"))
    assert "mae 23.25 on 100 rows from 2016-05-01; chose max_iter=143; trained again on all rows" in told
    assert "mae 22.5 on average, spread 0.7071; from 2016-02-01 22, 2016-03-01 23" in told
    assert "opened 2 times for versions 2, 5: 1 to measure a new version, 1 to judge one at the gate" in told
    assert "backtest_mae" not in told.splitlines()[1]
    page = model_page(watched.facts(), watched.facts().at)
    assert page.states[0].versions[0].opened == 2
    candidate(watched, "6", metrics=figures, validation=validation | {"begins": "2026-03-09T03:00:00+01:00"})
    timed = "\n".join(models.version_lines(state(watched).versions[0], "mae"))
    assert "on 100 rows from 2026-03-09 02:00 UTC; chose" in timed


def test_the_life_of_each_version_is_told_in_a_row(watched: Watched) -> None:
    watched.record("retirement", MODEL, {"version": "1", "state": "began", "why": "unused for long enough"})
    rows = {line.split()[0]: line for line in models.life_lines(state(watched))}
    assert rows["VERSION"].split() == ["VERSION", "TRAINED", "GATE", "SERVED", "DRIFT", "RETIRED"]
    assert "since 2026-03-01" in rows["2"] and rows["4"].split()[2:4] == ["not", "judged"]
    assert " to 2026-03-01 (" in rows["1"] and rows["1"].rstrip().endswith(", in part")
    assert "refused 2026-" in rows["3"] and "never" in rows["3"]
    told = "\n".join(models.state_lines(state(watched)))
    assert "Version 1: retired" in told and "NOT ALL of its files are deleted yet" in told
    watched.record("retirement", MODEL, {"version": "1", "state": "ended"})
    assert "unused for long enough; its files are deleted" in "\n".join(models.state_lines(state(watched)))
    page = model_page(watched.facts(), watched.facts().at)
    assert [version.standing for version in page.states[0].versions][-1] == "retired"


def test_verdicts_on_drift_are_told_beside_their_version(watched: Watched) -> None:
    watched.record("monitoring", MODEL, {"version": "2", "outcome": "red", "reasons": ["nights is higher"]})
    rows = {line.split()[0]: line for line in models.life_lines(state(watched))}
    assert " red" in rows["2"] and " red" not in rows["1"]


def test_a_comparison_shows_figures_bounds_parameters_and_features(watched: Watched) -> None:
    found = state(watched)
    second, third = names.version(found, "2"), names.version(found, "3")
    lines = list(models.comparison_lines(compared(MODEL, second, third), "mae"))
    cells = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert cells["mae"] == ["22.4", "41", "+18.6"]
    assert cells["limit"] == ["25", "kept", "25", "BROKEN"]
    assert cells["champion"] == ["24.48", "kept", "22.85", "BROKEN"]
    assert cells["max_iter"] == ["200", "1"]
    assert "Only version 2 reads: own__adults" in lines
    assert "The figures are of different held-out rows." in lines


def test_a_comparison_shows_importances_side_by_side(watched: Watched) -> None:
    found = state(watched)
    second, third = names.version(found, "2"), names.version(found, "3")
    known = ({"own__adults": 3.5, "own__lead": 1.0}, {"own__lead": 1.25})
    lines = list(models.comparison_lines(compared(MODEL, second, third, known), "mae"))
    start = lines.index(next(line for line in lines if line.startswith("IMPORTANCE")))
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["own__adults", "3.5", "-"],
        ["own__lead", "1", "1.25"],
    ]


def test_a_version_is_the_same_as_itself(watched: Watched) -> None:
    found = names.version(state(watched), "1")
    lines = list(models.comparison_lines(compared(MODEL, found, found), "mae"))
    assert "Trainer, parameters, training set and code are the same." in lines
    assert "Both read the same features." in lines


def test_a_document_holds_times_as_text(watched: Watched) -> None:
    assert '"champion_since": "2026-03-01T12:00:00+00:00"' in json_documents.document(state(watched))


def test_a_way_back_goes_by_each_champion_between(watched: Watched) -> None:
    watched.promotion("5", previous="2")
    decisions = decisions_on(watched.ledger, MODEL)
    assert steps_to(decisions, MODEL, None) == (RollbackStep("2", "5"),)
    assert steps_to(decisions, MODEL, "2") == (RollbackStep("2", "5"),)
    assert steps_to(decisions, MODEL, "1") == (RollbackStep("2", "5"), RollbackStep("1", "2"))


def test_a_rollback_that_was_interrupted_before_the_alias_moved_is_finished_and_not_repeated() -> None:
    watched = Watched()
    for version in ("1", "2", "3"):
        watched.promotion(version)
    watched.ledger.append("rollback", MODEL, {"champion": "2", "replaces": "3", "alias_was": "3"})
    decisions = decisions_on(watched.ledger, MODEL)
    assert unfinished(decisions, "3") == RollbackStep("2", "3")
    assert unfinished(decisions, "2") is None
    assert unfinished(decisions[:-1], "2") is None, "an alias that was moved after a promotion is no rollback"


def test_the_files_of_every_version_on_the_way_back_are_compared_before_anything_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched()
    for version in ("1", "2", "3"):
        candidate(watched, version)
        watched.promotion(version)
    platform: Any = SimpleNamespace(ledger=watched.ledger, tracking=lambda: None)
    pipeline: Any = SimpleNamespace(name=MODEL)

    def load(tracking: None, record: Any) -> None:
        if record["version"] == "1":
            raise ModelRefused("other files", "Train again.")

    monkeypatch.setattr(roll_back_to.registry, "champion", lambda tracking, name: "3")
    monkeypatch.setattr(validate, "roll_back", lambda *given, **named: None)
    monkeypatch.setattr(validate, "candidate_record", lambda ledger, name, version: {"version": version})
    monkeypatch.setattr(validate.loading, "load", load)
    assert roll_back_to.plan(platform, pipeline, "2") == (RollbackStep("2", "3"),)
    with pytest.raises(ModelRefused, match="other files"):
        roll_back_to.plan(platform, pipeline, "1")


def test_there_is_no_way_to_a_version_that_never_was_champion_nor_to_the_champion(watched: Watched) -> None:
    decisions = decisions_on(watched.ledger, MODEL)
    with pytest.raises(TrainingError, match="cannot return to version 3: it can return to 1"):
        steps_to(decisions, MODEL, "3")
    with pytest.raises(TrainingError, match="is the champion already"):
        steps_to(decisions, MODEL, "2")
    with pytest.raises(TrainingError, match="no earlier champion"):
        steps_to(decisions[:1], MODEL, None)


def test_a_version_promoted_twice_is_reached_by_the_shortest_way() -> None:
    watched = Watched()
    for version in ("1", "2", "1", "3"):
        watched.promotion(version)
    decisions = decisions_on(watched.ledger, MODEL)
    assert steps_to(decisions, MODEL, "1") == (RollbackStep("1", "3"),)


def test_a_back_test_tells_the_usual_metric_before_a_gate_has_judged_and_not_the_coverage_of_intervals() -> None:
    watched = Watched()
    figures = {"coverage": 0.9, "mae": 20.0, "rmse": 30.0}
    candidate(watched, "1", backtest=[{"begins": "2016-02-01", "rows_fit": 9, "rows": 5, "metrics": figures}])
    version = state(watched).versions[0]
    assert version.tried(None)[0] == "mae" and version.tried("rmse")[0] == "rmse"
