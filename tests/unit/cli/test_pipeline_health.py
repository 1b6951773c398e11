"""How each pipeline stands, as `rempart status` tells it: champion and its objects, newest run, quarantine."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from rempart.airflow_api import AirflowApi
from rempart.cli import run_follow
from rempart.cli.monitoring import pipeline_health
from rempart.cli.monitoring.pipeline_health import NewestRun, PipelineHealth
from rempart.cli.views import model_files, snapshot_objects
from rempart.cli.views.snapshot_objects import SnapshotObjects
from rempart.deployment.servers import scorer_server
from rempart.errors import ModelRefused, SiteError, TrackingRefused, TrackingUnavailable
from rempart.flows.prediction.champion import version_of
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates import stored_objects
from rempart.flows.training.candidates.stored_objects import ChampionObjects
from rempart.models import loading, removal
from rempart.settings.config import Connection
from rempart.settings.pipelines import named
from rempart.web import facts
from rempart.web.read_models.pipeline_states import PipelineState, pipeline_states
from tests import switchovers
from tests.cockpit import NOW, Watched
from tests.unit.cli.test_models_view import MODEL, candidate

BODY = b"model"
DIGEST = hashlib.sha256(BODY).hexdigest()
OUTPUT, IN_MLFLOW = "training/j1/model.onnx", "mlflow/1/models/m-1/artifacts/model.onnx"
ALL = ChampionObjects("primary", 2)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = switchovers.in_memory()
    record = {"name": "rentals", "version": "1", "model_id": "m-1", "run_id": "r-1", "classification": "internal"}
    made.ledger.append("candidate", "rentals", record | {"outputs": {OUTPUT: DIGEST}, "files": {"model.onnx": DIGEST}})
    for key in (OUTPUT, IN_MLFLOW):
        made.sites["primary"].write("artifacts", key, BODY)
    monkeypatch.setattr(Platform, "tracking", lambda self: None)
    monkeypatch.setattr(removal, "folders", lambda *_: ("1/models/m-1/artifacts/", "1/r-1/artifacts/"))
    return made


def look(platform: Platform, version: str = "1") -> ChampionObjects:
    return stored_objects.look(platform, {"rentals": version})["rentals"]


def test_the_objects_of_a_champion_are_looked_for_without_evidence(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = platform.ledger.page(limit=1)
    assert look(platform) == ALL and ALL.is_whole
    platform.sites["primary"].delete("artifacts", OUTPUT)
    platform.sites["primary"].write("artifacts", IN_MLFLOW, b"other")
    assert look(platform) == replace(ALL, missing=(OUTPUT,), different=(IN_MLFLOW,))
    monkeypatch.setattr(removal, "folders", lambda *_: ("1/r-1/artifacts/",))
    assert look(platform) == replace(ALL, missing=("MLflow's entry of logged model m-1", OUTPUT))
    assert platform.ledger.page(limit=1) == before


def test_what_cannot_be_looked_for_is_unknown_and_never_good(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no evidence names its files" in str(look(platform, "2").silent)

    def silent(*_: object) -> None:
        raise TrackingUnavailable("no answer", "x")

    monkeypatch.setattr(removal, "folders", silent)
    assert look(platform) == ChampionObjects(silent="no answer") and not look(platform).is_whole


def airflow(*runs: dict[str, Any], page: int = 100) -> AirflowApi:
    """An Airflow with these runs, the newest first, of which it gives so many at once."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        assert request.url.path == "/api/v2/dags/~/dagRuns/list"
        asked = json.loads(request.content)
        found = [run for run in runs if run["dag_id"] in asked["dag_ids"]]
        return httpx.Response(
            200, json={"dag_runs": found[: min(page, asked["page_limit"])], "total_entries": len(found)}
        )

    api = AirflowApi(Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http"))
    api._http = httpx.Client(base_url=api.url, transport=httpx.MockTransport(answer))
    return api


def run(dag_id: str, state: str, minute: int) -> dict[str, Any]:
    return {"dag_id": dag_id, "state": state, "start_date": f"2026-03-01T12:{minute:02d}:00Z"}


@pytest.mark.parametrize("page", [100, 2])
def test_the_newest_run_of_a_pipeline_is_found_and_one_that_failed_comes_first(page: int) -> None:
    runs = [
        run("ingest_a", "success", 40),
        run("ingest_a", "failed", 39),
        run("validate_model_b", "success", 30),
        run("ingest_b", "success", 20),
        run("train_a", "failed", 10),
    ]
    found = pipeline_health.newest_runs(airflow(*runs, page=page), dict.fromkeys("abc", tuple(run_follow.DAGS)))
    at = {minute: datetime(2026, 3, 1, 12, minute, tzinfo=UTC) for minute in (10, 30)}
    assert found == {"a": NewestRun("train", "failed", at[10]), "b": NewestRun("validate", "success", at[30])}
    assert pipeline_health.newest_runs(airflow(), {}) == {}


def test_a_run_of_a_stage_that_the_pipeline_has_no_more_is_not_told() -> None:
    """The pipeline had a model. Airflow keeps the run of a DAG that is gone as it was, which is for ever `running`."""
    without = replace(state(), target=None)
    runs = (run("materialize_features_a", "running", 40), run("ingest_a", "success", 39))
    found = pipeline_health.newest_runs(airflow(*runs), {"a": pipeline_health._stages(without)})
    assert found == {"a": NewestRun("ingest", "success", datetime(2026, 3, 1, 12, 39, tzinfo=UTC))}
    assert "materialize" in pipeline_health._stages(state())


def state() -> PipelineState:
    watched = Watched()
    watched.delivery()
    candidate(watched, "1", snapshot="s1")
    watched.promotion("1")
    return next(found for found in pipeline_states(watched.facts(), NOW) if found.name == MODEL)


def test_status_tells_champion_objects_newest_run_and_quarantine() -> None:
    good = PipelineHealth(state(), ALL, NewestRun("validate", "success", NOW))
    head, row = pipeline_health.lines([good])
    assert [row[head.index(column) :].split("  ")[0] for column in pipeline_health.HEAD] == [
        MODEL,
        "version 1 since 2026-03-01 12:00 UTC",
        "all 2 at primary",
        "validate success 2026-03-01 12:00 UTC",
        "3 rows",
    ]
    assert not good.is_red and pipeline_health.as_json([good])[0]["objects"] == ALL


def test_a_snapshot_whose_objects_are_lost_is_red_and_the_last_line_has_the_command() -> None:
    good = PipelineHealth(state(), ALL, NewestRun("validate", "success", NOW), SnapshotObjects("primary", 4))
    assert not good.is_red and not list(pipeline_health.ending([good]))
    lost = replace(good, snapshot=SnapshotObjects("primary", 4, ("snapshots/x/current.json",)))
    assert lost.is_red and pipeline_health.as_json([lost])[0]["snapshot"]["missing"] == ("snapshots/x/current.json",)
    assert any(
        "MISSING at site 'primary': 1 of the snapshot's objects" in line for line in pipeline_health.lines([lost])
    )
    assert list(pipeline_health.ending([lost])) == [
        f"LOST: objects of the snapshot of {MODEL}. Bring them back: rempart restore --only dataset:{MODEL}"
    ]
    unknown = replace(good, snapshot=SnapshotObjects(silent="no answer within 9 s"))
    assert unknown.is_red and any("UNKNOWN: whether the snapshot" in line for line in pipeline_health.lines([unknown]))


def test_snapshots_are_looked_at_one_by_one_and_one_that_is_silent_hides_no_other() -> None:
    def objects_of(name: str, snapshot: str) -> SnapshotObjects:
        if snapshot == "s1":
            raise SiteError("list lake: refused", "Look.")
        return SnapshotObjects("primary", 4)

    found = pipeline_health._objects_of_snapshots(objects_of, {"a": "s1", "b": "s2"}, {})
    assert found == {"a": SnapshotObjects(silent="list lake: refused"), "b": SnapshotObjects("primary", 4)}


def test_status_names_the_command_for_what_is_wrong() -> None:
    found = state()
    lost = PipelineHealth(found, replace(ALL, missing=(OUTPUT,)), NewestRun("train", "failed", NOW))
    _, row, missing, failed = pipeline_health.lines([lost])
    assert lost.is_red and "1 MISSING of 2" in row and "train FAILED" in row
    assert OUTPUT in missing and "rempart restore --only bucket:artifacts" in missing
    assert f"rempart pipeline run {MODEL} --follow" in failed
    silent = PipelineHealth(replace(found, held_back=1), ChampionObjects(silent="no answer"), "Airflow is away")
    told = list(pipeline_health.lines([silent]))
    assert silent.is_red and "unknown" in told[1]
    assert [line for line in told if "UNKNOWN" in line and ("no answer" in line or "Airflow is away" in line)] == told[
        2:4
    ]
    assert told[4].endswith(f"rempart quarantine show {MODEL}")
    assert "rempart pipeline new" in next(pipeline_health.lines([]))


def test_status_ends_with_what_is_lost_and_the_one_command() -> None:
    good, lost = PipelineHealth(state(), ALL, None), PipelineHealth(state(), replace(ALL, missing=(OUTPUT,)), None)
    answers = "scorer: the champion of 1 pipeline answers"
    assert not list(pipeline_health.ending([good])) and pipeline_health.of_scorer(answers, [good]) == answers
    last = list(pipeline_health.ending([good, lost]))[-1]
    assert last.startswith(f"LOST: objects of champions at site 'primary': 1 of 2 of {MODEL}.")
    assert last.endswith("rempart restore --only bucket:artifacts")
    told = pipeline_health.of_scorer(answers, [good, lost])
    assert "from memory only" in told and told.endswith(f"{MODEL})")
    away = f"{scorer_server.NOT_READY}: no answer"
    assert pipeline_health.of_scorer(away, [lost]) == away
    altered = replace(lost, objects=replace(ALL, different=(OUTPUT, IN_MLFLOW)))
    assert "ALTERED" in list(pipeline_health.ending([altered]))[-1]
    silent = replace(lost, objects=ChampionObjects(silent="no answer"))
    assert list(pipeline_health.ending([silent]))[-1].startswith(
        f"UNKNOWN: whether the champion can be loaded of: {MODEL}"
    )


@pytest.mark.parametrize("error", [TrackingRefused("read: refused (404)", "x"), TrackingUnavailable("no answer", "x")])
def test_one_cause_is_named_why_mlflow_gives_no_file(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, error: TrackingRefused | TrackingUnavailable
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("rempart.flows.prediction.champion.load", refuse)
    with pytest.raises(type(error), match="all 2 objects of the version are at site 'primary'"):
        version_of(platform, "rentals", "1")
    platform.sites["primary"].delete("artifacts", IN_MLFLOW)
    lost = "1 of its 2 objects are missing at site 'primary', such as mlflow/1/"
    with pytest.raises(ModelRefused, match=lost) as refused:
        version_of(platform, "rentals", "1")
    assert "rempart restore --only bucket:artifacts" in refused.value.hint
    monkeypatch.setattr(loading, "verify", refuse)
    assert lost in str(model_files.look(lambda: platform, "rentals", "1").fault)
    monkeypatch.setattr(removal, "folders", refuse)  # nobody knows: MLflow's own error stands
    with pytest.raises(type(error)) as unknown:
        version_of(platform, "rentals", "1")
    assert unknown.value is error


def test_a_champion_is_known_however_many_models_were_promoted_since(platform: Platform) -> None:
    platform.ledger.append("promotion", MODEL, {"version": "1", "previous": None})
    for number in range(facts.NEWEST["promotion"]):
        platform.ledger.append("promotion", "rentals", {"version": str(number + 1), "previous": None})
    found, unknown = pipeline_health.look(platform)
    (health,) = (each for each in found if each.state.name == MODEL)
    assert health.state.champion and health.state.champion.version == "1" and not unknown


def test_a_source_that_does_not_answer_is_told_and_is_no_empty_platform() -> None:
    assert list(pipeline_health.lines([], {"pipelines": "no folder"})) == ["UNKNOWN: pipelines: no folder"]
    away = PipelineHealth(state(), ALL, "Airflow is away")
    assert pipeline_health.as_json([away])[0]["newest_run_unknown"] == "Airflow is away"


def test_champions_that_were_looked_at_in_time_stay_known_beside_a_silent_one(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, silent, first = MODEL, "later", named(MODEL)
    both = {known: first, silent: first.model_copy(update={"name": silent})}
    monkeypatch.setattr(facts, "load_all", lambda: both)
    for name in (known, silent):
        platform.ledger.append("promotion", name, {"version": "1", "previous": None})
        platform.ledger.append("candidate", name, {"name": name, "version": "1"})
    end = threading.Event()
    monkeypatch.setattr(
        stored_objects, "_objects_of", lambda record, *_: ALL if record["name"] == known or end.wait(30) else None
    )
    found, _ = pipeline_health.look(platform, 0.0)
    end.set()
    of = {health.state.name: health.objects for health in found}
    assert of[known] == ALL and "no answer within" in str(of[silent])


def test_a_snapshot_that_an_erasure_replaces_during_the_look_is_not_lost_and_one_that_stays_is(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "load_all", lambda: {MODEL: named(MODEL)})
    body, there = {"previous": None, "site": "primary", "bucket": "lake", "rows": 1}, {"s1"}
    platform.ledger.append("snapshot", MODEL, {**body, "snapshot": "s1"})

    def erase() -> None:
        platform.ledger.append("snapshot", MODEL, {**body, "snapshot": "s2", "replaced": "s1"})
        there.symmetric_difference_update({"s1", "s2"})

    def objects_of(_: object, __: object, snapshot: str) -> SnapshotObjects:
        if meanwhile:
            meanwhile.pop()()
        return SnapshotObjects("primary", 4, () if snapshot in there else (f"{snapshot}.json",))

    meanwhile = [erase]
    monkeypatch.setattr(snapshot_objects, "objects_of", objects_of)
    (health,), _ = pipeline_health.look(platform)
    assert health.snapshot == SnapshotObjects("primary", 4) and not health.is_red
    there.clear()
    (health,), _ = pipeline_health.look(platform)
    assert health.snapshot and health.snapshot.missing == ("s2.json",) and health.is_red


def test_a_champion_whose_pipeline_is_removed_during_the_look_is_not_lost(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "load_all", lambda: {MODEL: named(MODEL)})
    platform.ledger.append("promotion", MODEL, {"version": "1", "previous": None})

    def removed(own: Platform, champions: dict[str, str], found: dict[str, ChampionObjects]) -> Any:
        if champions:
            own.ledger.append("removal", MODEL, {"id": "r", "what": "remove", "state": "began"})
        return {name: replace(ALL, missing=(OUTPUT,)) for name in champions}

    monkeypatch.setattr(stored_objects, "look", removed)
    (health,), _ = pipeline_health.look(platform)
    assert health.objects is None and not health.is_red
