"""From a training set to a champion and back, on the stack's real MLflow and site."""

import ast
import contextlib
import dataclasses
import io
import json
import time
from types import SimpleNamespace

import pytest

from rempart.cli.views import model_files
from rempart.errors import ModelRefused, TrainingError
from rempart.flows.monitoring import champion_drift, retrain
from rempart.flows.prediction.champion import champion_of
from rempart.flows.search import choose, freeze, records, trials
from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.train import train_on
from rempart.flows.training.validate import roll_back, validate
from rempart.models import loading, registry
from rempart.models.predictions import figures
from rempart.models.tracking import session
from rempart.monitoring import retraining
from rempart.monitoring.freshness import NewestTimes
from rempart.monitoring.sources import ObservedRows
from rempart.settings import sections
from rempart.settings.champions.retraining import Retraining
from rempart.training import datasets
from tests.model_cards import check_card
from tests.unit.training import stage

pytestmark = pytest.mark.tracking
TABLE = stage.table()
GOOD, BAD = {"max_iter": 60}, {"max_iter": 1}


@pytest.fixture
def fast(scratch):
    """The same, with the job in this process: (platform, pipeline, train)."""
    platform, pipeline = scratch
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)

    def train(params=GOOD, table=TABLE, verdict=None):
        return train_on(platform, pipeline, table, "s1", params=params, backend=backend, verdict=verdict)

    return platform, pipeline, train


def everything_in_mlflow(tracking, pipeline, run_id, folder) -> str:
    """All that MLflow holds of a run and its model, as one text."""
    from mlflow.artifacts import download_artifacts

    with session(tracking) as client:
        run = client.get_run(run_id)
        message = [str(run.to_dictionary())]
        for version in client.search_model_versions(f"name = '{pipeline.name}'"):
            model = client.get_logged_model(version.source.removeprefix("models:/"))
            message += [str(dict(version)), str(model.to_dictionary())]
            download_artifacts(artifact_uri=model.artifact_location, dst_path=str(folder / "model"))
        download_artifacts(artifact_uri=run.info.artifact_uri, dst_path=str(folder / "run"))
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"MLmodel", "model.onnx", "input_example.json", "predicted_vs_actual.png"} <= {file.name for file in files}
    return "\n".join([*message, *(file.read_bytes().decode("latin-1") for file in files)])


def test_a_job_in_a_process_of_its_own_gives_a_candidate_that_predicts_and_leaks_nothing(scratch, tmp_path, caplog):
    platform, pipeline = scratch
    began = time.monotonic()
    result = train_on(platform, pipeline, TABLE, "s1")
    seconds = time.monotonic() - began
    (record,) = [entry.body for entry in platform.ledger.find("candidate", pipeline.name)]
    assert record["version"] == result.version == registry.candidate(platform.tracking(), pipeline.name)
    assert result.metrics["mae"] < 8 and result.rows_train + result.rows_holdout == TABLE.num_rows

    model = loading.load(platform.tracking(), record)
    where = record["dataset"]["held_out"]
    body = platform.active_site("personal").read(where["bucket"], where["key"], sha256=where["sha256"])
    holdout = datasets.decoded(body)
    error = abs(figures(model.predict(holdout)) - holdout["price"].to_numpy()).mean()
    assert error == pytest.approx(result.metrics["mae"])

    held = everything_in_mlflow(platform.tracking(), pipeline, result.run_id, tmp_path)
    logged = caplog.text
    for what in (held, logged, json.dumps(record), json.dumps(dataclasses.asdict(result))):
        assert stage.CANARY not in what
    for name in ("dataset_sha256", "snapshot", "code_version", "classification", "pipeline", "job_id"):
        assert f"rempart.{name}" in held

    caplog.clear()
    began = time.monotonic()
    assert train_on(platform, pipeline, TABLE, "s1").version == result.version
    assert "adopted" in caplog.text
    assert len(platform.ledger.find("candidate", pipeline.name)) == 1
    print(f"first {seconds:.1f} s, adopted {time.monotonic() - began:.1f} s")


def test_a_parameter_that_the_trainer_does_not_know_fails_before_a_job_starts(scratch):
    platform, pipeline = scratch
    with pytest.raises(TrainingError, match="no parameter 'depth'"):
        train_on(platform, pipeline, TABLE, "s1", params={"depth": 3})


def test_a_custom_trainer_goes_the_same_way(scratch):
    platform, pipeline = scratch
    trainer = {"use": "include/trainers/ridge.py:fit", "params": {"alpha": 1.0}}
    ridge = stage.pipeline(pipeline.name, trainer=trainer)
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)
    result = train_on(platform, ridge, TABLE, "s1", backend=backend)
    assert result.metrics["mae"] < 8
    assert validate(platform, ridge).promoted


def test_a_classification_goes_the_same_way(scratch):
    platform, pipeline = scratch
    seasons = stage.pipeline(pipeline.name, task="classification")
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)
    result = train_on(platform, seasons, TABLE, "s1", backend=backend)
    assert result.metrics["accuracy"] > 0.7
    judged = validate(platform, seasons)
    assert judged.promoted and judged.baselines["log_loss"] > judged.metrics["log_loss"]


def test_a_search_is_a_run_with_a_child_for_each_trial_and_gives_a_candidate_that_the_gate_judges(scratch):
    platform, plain = scratch
    ranges = {"max_leaf_nodes": {"low": 4, "high": 31}, "learning_rate": {"low": 0.05, "high": 0.5, "log": True}}
    trainer = {"params": {"max_iter": 40}, "search": {"params": ranges, "trials": 4, "at_once": 2}}
    searched = stage.pipeline(plain.name, trainer=trainer, validation={"last": "60d"})
    backend, asked = stage.InProcess(platform.active_site("personal"), platform.connections), []
    begun = freeze.freeze_rows(platform, searched, TABLE, "s1")
    assert freeze.freeze_rows(platform, searched, TABLE, "s1").parent == begun.parent
    for generation in (1, 2):
        asked += (more := trials.ask(platform, searched, begun, asked, generation))
        ran = [trials.run(platform, searched, begun, each, backend) for each in more]
        assert all(trial.state == "complete" for trial in ran)
    chosen = choose.choose(platform, searched, begun, asked)
    result = choose.train_found(platform, searched, begun, chosen.params, backend)
    assert validate(platform, searched).promoted
    (found,) = records.searches(platform.ledger, searched.name)
    with session(platform.tracking()) as client:
        experiment = client.get_experiment_by_name(searched.name).experiment_id
        runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{begun.parent}'")
        parent, candidate = client.get_run(begun.parent), client.get_run(result.run_id)
    assert {run.info.run_id for run in runs} == {trial.run for trial in found.trials} and len(runs) == 4
    assert parent.info.status == "FINISHED" and parent.data.metrics["validation_mae"] == found.best_trial().value
    assert candidate.data.params["max_leaf_nodes"] == str(chosen.params["max_leaf_nodes"])
    openings = [record.body["why"] for record in platform.ledger.find("opening", searched.name)]
    assert openings == ["gate", "registration"]  # of the candidate; no trial opened the held-out rows


def check_prediction(platform, pipeline, version):
    """The champion predicts raw rows as the gate did, and MLflow tells a user how."""
    from mlflow.models import get_model_info

    columns = ("lead", "nights", "breakfast", "room")
    rows = TABLE.select(["arrival", *(f"stay__{name}" for name in columns)]).rename_columns(["arrival", *columns])
    found = champion_of(platform, pipeline)
    assert found.model.version == version and found.model.sha256 == found.model.sha256.lower()
    assert found.predict(rows).equals(found.model.predict(TABLE))
    with session(platform.tracking()) as client:
        told = client.get_model_version(pipeline.name, version)
        described = get_model_info(f"models:/{pipeline.name}@champion")
    assert described.signature.inputs.input_names() == ["lead", "nights", "breakfast", "room", "arrival"]
    assert described.signature.inputs.required_input_names() == ["lead", "breakfast", "room", "arrival"]
    assert described.signature.outputs.input_names() == ["prediction"]
    assert list(described.flavors) == ["onnx"]
    code = told.description.partition("```python\n")[2].partition("```")[0]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr("rempart.flows.shared.platform.open_platform", lambda: platform)
        patch.setattr("rempart.settings.pipelines.named", lambda name: {pipeline.name: pipeline}[name])
        exec(code, {})  # noqa: S102 - our own text
    (row,) = ast.literal_eval(printed.getvalue())
    assert row["prediction"] > 0


def test_the_gate_promotes_refuses_and_is_readable_in_mlflow(fast, tmp_path):
    platform, pipeline, train = fast
    first = train()
    judged = validate(platform, pipeline)
    made = check_card(platform, pipeline, first, "champion", tmp_path, stage.CANARY)
    assert made.explanations.importance[0].feature == "stay__room"
    assert made.features[0].definition and "passed: mae" in made.judgement.reasons[0]
    assert judged.promoted and judged.champion == first.version and judged.previous is None
    check_prediction(platform, pipeline, first.version)
    again = validate(platform, pipeline)
    assert again.promoted and again.reasons[0].startswith("unchanged since 20")
    assert len(platform.ledger.find("promotion", pipeline.name)) == 1

    verdict = platform.ledger.append("monitoring", pipeline.name, {"outcome": "red", "version": first.version}).seq
    again = pipeline.model_copy(update={"retrain": Retraining(on_drift=True)})
    assert retrain.decide(platform, again, started_by=["drift"]).verdict == verdict
    bad = train(BAD, verdict=verdict)
    retrain.trained(platform, pipeline.name, verdict, bad.version)
    refused = validate(platform, pipeline)
    assert check_card(platform, pipeline, bad, "refused", tmp_path, stage.CANARY).judgement.kind == "refusal"
    assert not refused.promoted and refused.version == bad.version and refused.champion == first.version
    rules = pipeline.monitoring.model_copy(update={"least_rows": 30, "domain_classifier": "off"})
    now = platform.clock()
    rows = SimpleNamespace(name="rows", read=lambda: ObservedRows(TABLE, "s1", NewestTimes(now, now, now)))
    watched = champion_drift.watch(platform, pipeline.model_copy(update={"monitoring": rules}), rows)
    compared = platform.ledger.find("monitoring", pipeline.name)[0].body["challenger"]
    assert (compared["version"], compared["standing"], compared["better"]) == (bad.version, "refused", "champion")
    assert watched.version == first.version and compared["rows"] == watched.window.rows > 30
    chain = [platform.ledger.find(kind, pipeline.name)[0].body for kind in ("retraining", "candidate", "refusal")]
    assert [(body["verdict"], body["version"]) for body in chain] == [(verdict, bad.version)] * 3
    assert validate(platform, pipeline) == refused
    assert len(platform.ledger.find("refusal", pipeline.name)) == 1
    assert (again := train(BAD, verdict=verdict)).version == bad.version and bad.run_id in again.reused  # after a kill
    assert len(platform.ledger.find("candidate", pipeline.name)) == 2
    later = platform.ledger.append("monitoring", pipeline.name, {"outcome": "red", "version": first.version}).seq
    platform.ledger.append("retraining", pipeline.name, retraining.body(later, first.version))
    retrain.trained(platform, pipeline.name, later, train(BAD, verdict=later).version)
    validate(platform, pipeline)  # an equal job gives the version again: the gate's record names the newest alarm
    assert [refusal.body["verdict"] for refusal in platform.ledger.find("refusal", pipeline.name)] == [later, verdict]
    with session(platform.tracking()) as client:
        version = client.get_model_version(pipeline.name, bad.version)
        assert version.tags["rempart.verdict"] == str(verdict)
        assert version.tags["gate"] == "refused" and "the limit" in version.tags["gate_reasons"]
        assert version.tags["stage"] == "candidate" and "Refused by the gate" in version.description
        assert client.get_model_version(pipeline.name, first.version).tags["stage"] == "champion"


def test_a_rollback_gives_the_alias_back_and_the_version_is_not_promoted_again_by_itself(fast):
    platform, pipeline, train = fast
    first = train().version
    validate(platform, pipeline)
    with pytest.raises(TrainingError, match="no earlier champion"):
        roll_back(platform, pipeline)
    second = train({"max_iter": 80}).version
    assert validate(platform, pipeline).promoted

    planned = roll_back(platform, pipeline)
    assert planned.dry_run and not planned.done and planned.champion == first
    assert registry.champion(platform.tracking(), pipeline.name) == second
    done = roll_back(platform, pipeline, dry_run=False)
    assert done.done and registry.champion(platform.tracking(), pipeline.name) == first
    with session(platform.tracking()) as client:
        assert client.get_model_version(pipeline.name, second).tags["stage"] == "former champion"

    again = validate(platform, pipeline)
    assert not again.promoted and "was rolled back" in again.reasons[-1]
    assert validate(platform, pipeline, second).promoted


@pytest.mark.full
def test_a_rollback_of_a_plan_moves_nothing_once_another_is_champion_and_is_done_once(fast):
    platform, pipeline, train = fast
    versions = []
    for trees in (60, 80, 100):
        versions.append(train({"max_iter": trees}).version)
        assert validate(platform, pipeline).promoted
    with pytest.raises(
        ModelRefused, match=f"back from version {versions[1]}, but the champion is now version {versions[2]}"
    ):
        roll_back(platform, pipeline, dry_run=False, replaces=versions[1])
    assert registry.champion(platform.tracking(), pipeline.name) == versions[2]
    assert not platform.ledger.find("rollback", pipeline.name)
    for _ in range(2):  # the second time, it is found done
        done = roll_back(platform, pipeline, dry_run=False, replaces=versions[2])
        assert (done.done, done.champion, done.replaces) == (True, versions[1], versions[2])
        assert registry.champion(platform.tracking(), pipeline.name) == versions[1]
    assert len(platform.ledger.find("rollback", pipeline.name)) == 1
    # an alias that somebody moved by hand makes no champion
    registry.promote(platform.tracking(), pipeline.name, versions[2], versions[1], ())
    done = roll_back(platform, pipeline, dry_run=False, replaces=versions[1])
    assert (done.done, done.champion, done.replaces) == (True, versions[0], versions[1])
    assert registry.champion(platform.tracking(), pipeline.name) == versions[0]


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.fault("X1")
@pytest.mark.parametrize("moment", ["before the alias moved", pytest.param("after it", marks=pytest.mark.full)])
def test_a_promotion_killed_half_way_is_finished_by_the_next_run(fast, monkeypatch, moment):
    platform, pipeline, train = fast
    version = train().version

    real = registry.promote

    def killed(*arguments):
        if moment == "after it":
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(registry, "promote", killed)
        validate(platform, pipeline)
    assert validate(platform, pipeline).promoted
    assert registry.champion(platform.tracking(), pipeline.name) == version
    assert len(platform.ledger.find("promotion", pipeline.name)) == 1


@pytest.mark.full
@pytest.mark.fault("X1")
def test_a_rollback_killed_half_way_is_finished_not_repeated(fast, monkeypatch):
    platform, pipeline, train = fast
    versions = []
    for iterations in (60, 80, 100):
        versions.append(train({"max_iter": iterations}).version)
        assert validate(platform, pipeline).promoted

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(registry, "promote", killed)
        roll_back(platform, pipeline, dry_run=False)
    assert registry.champion(platform.tracking(), pipeline.name) == versions[2]
    roll_back(platform, pipeline, dry_run=False)
    assert registry.champion(platform.tracking(), pipeline.name) == versions[1]
    assert len(platform.ledger.find("rollback", pipeline.name)) == 1


def test_a_look_at_a_champion_whose_files_are_lost_names_one_and_the_remedy(fast):
    platform, pipeline, train = fast
    version = train().version
    assert model_files.look(lambda: platform, pipeline.name, version, 120) == model_files.ModelFiles()
    record = candidate_record(platform.ledger, pipeline.name, version)
    site, bucket = platform.active_site("internal"), sections.Buckets().artifacts  # MLflow's, not the test's own
    keys = [info.key for info in site.list(bucket) if record["model_id"] in info.key]
    assert keys
    for key in keys:
        site.delete(bucket, key)
    found = model_files.look(lambda: platform, pipeline.name, version, 120)
    assert found.fault and "' is missing" in found.fault
    assert "rempart restore --only bucket:artifacts" in "".join(model_files.lines(found))


def test_a_version_without_evidence_is_not_opened(fast):
    platform, pipeline, train = fast
    version = train().version
    platform.ledger.records.clear()
    with pytest.raises(ModelRefused, match=f"no evidence that model .* version {version} was trained here"):
        validate(platform, pipeline)


def test_a_pipeline_without_a_candidate_says_what_to_run(scratch):
    platform, pipeline = scratch
    with pytest.raises(TrainingError, match="has no candidate"):
        validate(platform, pipeline)


@pytest.mark.parametrize(
    "how",
    [
        "another definition",
        pytest.param("another target", marks=pytest.mark.full),
        pytest.param("a feature that is gone", marks=pytest.mark.full),
    ],
)
def test_a_candidate_that_cannot_be_compared_is_promoted_only_by_naming_its_version(scratch, how):
    platform, pipeline = scratch
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)

    def train(of, table):
        return train_on(platform, of, table, "s1", params=GOOD, backend=backend).version

    first = train(pipeline, TABLE)
    assert validate(platform, pipeline).promoted
    if how == "another definition":
        schema = pipeline.model_dump(by_alias=True, exclude_unset=True)["schema"]
        schema["nights"]["type"] = "number"
        other, table = stage.pipeline(pipeline.name, schema=schema), TABLE
    elif how == "another target":
        other, table = stage.pipeline(pipeline.name, task="classification"), TABLE
    else:
        stay = {"kind": "row", "at": "booking", "columns": ["lead", "breakfast", "room", "agent"]}
        stay |= {"calendar": {"arrival": ["month"]}}
        other, table = stage.pipeline(pipeline.name, features={"stay": stay}), TABLE.drop_columns(["stay__nights"])
    second = train(other, table)
    refused = validate(platform, other)
    assert not refused.promoted and (refused.version, refused.champion) == (second, first)
    why = {
        "another definition": "reads feature 'stay__nights' by another definition than the training set",
        "another target": "predicts another target",
        "a feature that is gone": "reads feature 'stay__nights', which the training set no longer has",
    }[how]
    assert why in refused.reasons[-1] and f"validate version {second} by naming it" in refused.reasons[-1]
    assert registry.champion(platform.tracking(), pipeline.name) == first
    (told,) = platform.ledger.find("refusal", pipeline.name)
    assert told.body["champion_metrics"] is None and why in told.body["reasons"][-1]

    named = validate(platform, other, second)
    assert named.promoted and (named.champion, named.previous) == (second, first)
    assert registry.champion(platform.tracking(), pipeline.name) == second
    promotion = platform.ledger.find("promotion", pipeline.name, limit=1)[0]
    assert promotion.body["champion_metrics"] is None and promotion.body["version"] == second


@pytest.mark.full
def test_a_bad_candidate_that_cannot_be_compared_is_refused_although_a_person_names_it(scratch):
    platform, pipeline = scratch
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)
    train_on(platform, pipeline, TABLE, "s1", params=GOOD, backend=backend)
    assert validate(platform, pipeline).promoted
    other = stage.pipeline(pipeline.name, task="classification")
    bad = train_on(platform, other, TABLE, "s1", params=BAD, backend=backend).version
    assert not validate(platform, other, bad).promoted
