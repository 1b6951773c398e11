"""`rempart pipeline run --follow`: the stages as a person sees them, against a scripted Airflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.cli import app, progress, run_follow, run_view
from rempart.cli.run_view import RunState, StageState
from rempart.settings.config import Connection

CONNECTION = Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http")
INGESTED = {
    "snapshot": "abc123",
    "changed": True,
    "deliveries": 1,
    "delivered": 100,
    "accepted": 98,
    "quarantined": 2,
    "total_rows": 98,
}
RESULTS: Mapping[str, Mapping[str, Any]] = {
    "ingest": INGESTED,
    "materialize": {"snapshot": "abc123", "views": 3, "rows_online": 77, "changed": True},
    "train": {"version": "4", "rows_train": 80, "rows_holdout": 18, "snapshot": "abc123"},
    "validate": {"version": "4", "promoted": True, "reasons": ["passed: mae 1 is at most 2"], "champion": "4"},
}


@dataclass
class ScriptedAirflow:
    """An Airflow whose runs end at once. `fails`: the error that a task left, by task."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: RESULTS)
    fails: Mapping[str, list[str] | None] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()
    triggered: list[str] = field(default_factory=list)
    other: bool = False
    """A run of each later stage that somebody else started is newer."""
    refusals: list[httpx.Response | httpx.TransportError] = field(default_factory=list)
    """Answers to the next questions about a run's state, before its state."""
    logins: int = 0
    asked: dict[str, str] = field(default_factory=dict)
    """Run whose state was asked for last, by DAG."""

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/auth/token":
            self.logins += 1
            return httpx.Response(201, json={"access_token": "t"})
        parts = path.removeprefix("/api/v2/dags/").split("/")
        dag = parts[0]
        task = next(name for name, stem in run_follow.DAGS.items() if dag == f"{stem}_p")
        if request.method == "POST":
            self.triggered.append(dag)
            return httpx.Response(200, json=json.loads(request.content))
        if len(parts) == 1:
            return httpx.Response(200, json={"is_paused": dag in self.paused})
        if parts[-1] == "dagRuns":
            newer = [{"dag_run_id": f"other__{dag}"}] if self.other else []
            return httpx.Response(200, json={"dag_runs": [*newer, {"dag_run_id": f"asset__{dag}"}]})
        if parts[-1] == "upstreamAssetEvents":
            stems = list(run_follow.DAGS.values())
            before = self.asked[f"{stems[list(run_follow.DAGS).index(task) - 1]}_p"]
            source = "manual__of_somebody" if parts[-2].startswith("other__") else before
            return httpx.Response(200, json={"asset_events": [{"source_run_id": source}]})
        if parts[-1] == "taskInstances":
            state = "failed" if task in self.fails else "success"
            entries = [{"task_id": task, "state": state}]
            return httpx.Response(200, json={"task_instances": entries, "total_entries": 1})
        if parts[-1] == "return_value":
            return httpx.Response(200, json={"value": dict(self.results[task])})
        if parts[-1] == "rempart_failure":
            left = self.fails[task]
            return httpx.Response(200 if left else 404, json={"value": left})
        if self.refusals:
            if isinstance(refusal := self.refusals.pop(0), httpx.Response):
                return refusal
            raise refusal
        self.asked[dag] = parts[-1]
        state = "failed" if task in self.fails else "success"
        return httpx.Response(200, json={"state": state, "start_date": "2026-01-05T12:00:00+00:00"})

    def api(self) -> AirflowApi:
        made = AirflowApi(CONNECTION)
        made._http = httpx.Client(base_url=made.url, transport=httpx.MockTransport(self.answer))
        return made


def followed(airflow: ScriptedAirflow) -> tuple[RunState, Mapping[str, Mapping[str, Any]], list[str]]:
    told: list[str] = []
    api = airflow.api()
    with run_view.shown(tuple(run_follow.DAGS), told.append) as show:
        state, results = run_follow.follow(api, "p", run_follow.start(api, "p"), show)
    return state, results, told


def test_a_backup_is_followed_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(api: AirflowApi, dag_id: str, task_id: str, conf: object, tell: Callable[[str], object]) -> dict[str, str]:
        for tasks in ("back_up waiting, prune waiting", "skipped, because another run has the lease"):
            tell(tasks)
        tell("back_up running, prune waiting")
        return {"id": "p1"}

    monkeypatch.setattr(AirflowApi, "run", run)
    monkeypatch.setattr("rempart.settings.config.environment_connections", lambda name: CONNECTION)
    answer = CliRunner().invoke(app, ["backup", "now"], catch_exceptions=False)
    assert answer.output.splitlines()[1:] == [
        "waits for Airflow's scheduler",
        "skipped, because another run has the lease",
        "task back_up runs",
        "restore point p1",
    ]


def test_a_run_that_somebody_else_started_is_not_taken_for_ours() -> None:
    airflow = ScriptedAirflow(other=True)
    state, _, _ = followed(airflow)
    assert not state.failed
    assert airflow.asked["train_p"] == "asset__train_p" and airflow.asked["validate_model_p"].startswith("asset__")


def test_the_first_line_comes_before_airflow_answers_and_an_interrupt_then_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(api: AirflowApi, pipeline: str, key: str | None, stages: tuple[str, ...]) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_follow, "start", interrupted)
    monkeypatch.setattr("rempart.settings.config.environment_connections", lambda name: CONNECTION)
    answer = CliRunner().invoke(app, ["pipeline", "run", "hotel_bookings", "--follow"])
    first, last = answer.output.splitlines()
    assert first.startswith("Starting ingest_hotel_bookings in Airflow")
    assert answer.exit_code == 130 and last.endswith("/dags/ingest_hotel_bookings")
    assert last.startswith("Airflow did not confirm a start yet")


def test_lines_that_nobody_decided_are_told_before_the_run_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_follow, "start", lambda api, pipeline, key, stages: "r1")
    monkeypatch.setattr("rempart.settings.config.environment_connections", lambda name: CONNECTION)
    monkeypatch.setattr("rempart.ingestion.draft.reminder", lambda text: "3 lines are still marked CHECK.")
    lines = CliRunner().invoke(app, ["pipeline", "run", "hotel_bookings"]).output.splitlines()
    assert lines[1] == "3 lines are still marked CHECK." and lines[2].startswith("started ingest_hotel_bookings")


def test_an_airflow_that_restarts_is_asked_again_and_an_expired_token_is_replaced() -> None:
    refused = [httpx.ConnectError("refused"), httpx.Response(502, text="starting"), httpx.Response(401, json={})]
    airflow, waited = ScriptedAirflow(refusals=list(refused)), list[float]()
    told: list[str] = []
    api = airflow.api()
    state, _ = run_follow.follow(
        api, "p", "r", lambda state, changed: told.append(changed.words), lambda: sum(waited), waited.append
    )
    assert not state.failed and [stage.condition for stage in state.stages] == ["done"] * 4
    assert len(waited) == 2 and airflow.logins == 2
    assert told.count("Airflow does not answer; it is asked again") == 1


def test_an_airflow_that_stays_silent_is_no_failed_stage() -> None:
    airflow, waited = ScriptedAirflow(refusals=[httpx.ConnectError("refused")] * 1000), list[float]()
    shown: list[StageState] = []
    with pytest.raises(AirflowApiError, match="no answer") as silent:
        run_follow.follow(
            airflow.api(), "p", "r", lambda state, changed: shown.append(changed), lambda: sum(waited), waited.append
        )
    assert not isinstance(silent.value, run_follow.StageFailed) and "rempart up" in silent.value.hint
    assert {stage.condition for stage in shown} == {"running"} and 100 < sum(waited) < 200


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=["a"])])
def test_another_program_at_airflows_port_is_told(answer: httpx.Response) -> None:
    with pytest.raises(AirflowApiError, match="not one of Airflow's"):
        run_follow.follow(ScriptedAirflow(refusals=[answer]).api(), "p", "r", lambda state, changed: None)


def test_each_stage_is_told_with_its_seconds_and_its_result_in_words() -> None:
    airflow = ScriptedAirflow()
    state, results, told = followed(airflow)
    assert [stage.condition for stage in state.stages] == ["done"] * 4 and not state.failed
    done = [line for line in told if "done in" in line]
    assert [line.split()[2] for line in done] == ["ingest", "materialize", "train", "validate"]
    assert "100 rows delivered, 98 accepted, 2 refused in this run" in done[0]
    assert (
        "77 rows online, one for each key or group in each of 3 views" in done[1] and "Version 4 was trained" in done[2]
    )
    assert "Version 4 is the champion: mae 1 is at most 2" in done[3]
    assert airflow.triggered == ["ingest_p"], "assets start the rest"
    last = run_follow.conclusion("p", results, 7)
    assert last == [
        (
            "rows refused in this run: 2; rows of all deliveries that wait in quarantine now: 7. "
            "See them: rempart quarantine show p"
        ),
        "Version 4 is champion: rempart model show p",
    ]


def test_the_end_of_a_run_tells_of_rows_that_wait_although_it_refused_none_and_guesses_no_figure() -> None:
    _, results, _ = followed(ScriptedAirflow(RESULTS | {"ingest": INGESTED | {"quarantined": 0}}))
    refused_none = run_follow.conclusion("p", results, 3)[0]
    assert refused_none.startswith(
        "rows refused in this run: 0; rows of all deliveries that wait in quarantine now: 3."
    )
    assert "quarantine" not in run_follow.conclusion("p", results, 0)[0]
    assert "wait in quarantine now: unknown" in run_follow.conclusion("p", {"ingest": INGESTED})[0]


def test_without_new_rows_the_next_stage_is_started_by_hand_because_no_asset_changed() -> None:
    airflow = ScriptedAirflow(RESULTS | {"ingest": INGESTED | {"changed": False}})
    state, _, _ = followed(airflow)
    assert airflow.triggered == ["ingest_p", "materialize_features_p"] and not state.failed


def test_before_the_first_delivery_no_stage_follows_and_the_command_for_it_is_told() -> None:
    nothing = INGESTED | {"changed": False, "snapshot": None, "deliveries": 0, "quarantined": 0}
    state, results, told = followed(ScriptedAirflow({"ingest": nothing}))
    assert [stage.condition for stage in state.stages] == ["done", "not run", "not run", "not run"]
    assert sum("not run: there is no snapshot yet" in line for line in told) == 3
    assert "rempart pipeline deliver p FILE" in run_follow.conclusion("p", results)[0]


def test_a_refused_candidate_is_no_failure() -> None:
    refused = {"version": "5", "promoted": False, "reasons": ["refused: mae 9 is above 2"], "champion": "4"}
    state, results, told = followed(ScriptedAirflow(RESULTS | {"validate": refused}))
    assert not state.failed and "mae 9 is above 2" in told[-1]
    then, why, stays, last = run_follow.conclusion("p", results)[-4:]
    assert then.startswith("Change features, trainer or gate in the pipeline file")
    assert why == "The gate refused version 5: mae 9 is above 2"
    assert stays == "The champion stays version 4. All reasons: rempart model show p 5"
    assert last == "Where it errs: rempart model card p 5 (the cockpit's page Models has it, too)"


def test_the_last_lines_of_a_refusal_have_its_first_reason_and_whether_there_is_a_champion() -> None:
    reasons = ["passed: r2 1 is at least 0", "refused: mae 9 is above 2", "refused: its size is not known"]
    judged = {"version": "1", "promoted": False, "reasons": reasons, "champion": None}
    *_, why, stays, _card = run_follow.conclusion("p", {**RESULTS, "validate": judged})
    assert why.startswith("The gate refused version 1: mae 9 is above 2 (and 1 more reason)")
    assert stays == "There is still no champion. All reasons: rempart model show p 1"


def test_a_version_that_waits_for_a_person_is_not_called_refused() -> None:
    judged = {"version": "5", "promoted": False, "reasons": ["passed: mae 1 is at most 2"], "champion": "4"}
    lines = run_follow.conclusion("p", {**RESULTS, "validate": {**judged, "awaits": True}})
    assert lines[-2:] == [
        "Version 5 passed the gate, which asks for a person's approval.",
        "Whose, or the answer: rempart model show p",
    ]


def test_a_failed_stage_ends_with_the_error_and_the_remedy_of_its_task() -> None:
    told: list[str] = []
    airflow = ScriptedAirflow(fails={"train": ["the job ran out of memory", "Use fewer rows."]})
    api = airflow.api()
    with pytest.raises(run_follow.StageFailed) as failed, run_view.shown(tuple(run_follow.DAGS), told.append) as show:
        run_follow.follow(api, "p", "r", show)
    assert failed.value.what == "train_p, task train: the job ran out of memory"
    assert failed.value.hint.startswith("Use fewer rows. Log: http://127.0.0.1:1/dags/train_p/runs/")
    assert "train" in told[-1] and "FAILED after" in told[-1] and "out of memory" in told[-1]


def test_a_killed_task_leaves_no_words_and_the_log_is_named() -> None:
    with pytest.raises(run_follow.StageFailed, match="task ingest: it failed and left no message") as failed:
        run_follow.follow(ScriptedAirflow(fails={"ingest": None}).api(), "p", "r", lambda state, changed: None)
    assert failed.value.hint.startswith("Log: http://")


def test_nothing_is_started_while_a_dag_is_paused() -> None:
    airflow = ScriptedAirflow(paused=frozenset({"train_p"}))
    with pytest.raises(AirflowApiError, match="run train_p: the DAG is paused") as refused:
        run_follow.start(airflow.api(), "p")
    assert airflow.triggered == [] and "/dags/train_p" in refused.value.hint


def test_a_line_names_the_time_since_the_start_and_the_time_of_the_stage() -> None:
    stage = StageState("train", "done", began=110.0, ended=131.4, words="Version 4 was trained.")
    state = RunState("p", 100.0, (StageState("ingest"), stage))
    assert run_view.line(state, stage, 131.4) == "  31.4 s  train        done in 21 s: Version 4 was trained."


def test_a_line_that_is_written_again_names_the_time_of_the_stage_so_far() -> None:
    stage = StageState("train", "running", began=110.0, words="task train runs")
    state = RunState("p", 100.0, (StageState("ingest"), stage))
    assert run_view.line(state, stage, 119.0) == "  19.0 s  train        task train runs"
    assert run_view.line(state, stage, 185.0) == "  85.0 s  train        task train runs, 1 min 15 s so far"


def test_a_change_keeps_the_other_stages() -> None:
    state = RunState("p", 0.0, (StageState("ingest"), StageState("train")))
    after = state.with_stage(StageState("train", "failed"))
    assert after.failed and not state.failed and after.stages[0] is state.stages[0]


def test_plain_lines_have_no_control_characters() -> None:
    told: list[str] = []
    stage = StageState("ingest", "running", began=0.0)
    with run_view.shown(["ingest"], told.append, lambda: 1.0) as show:
        show(RunState("p", 0.0, (stage,)), stage)
    assert told == ["   1.0 s  ingest       running"]


def test_a_terminal_gets_a_table_that_ends_with_every_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "is_live", lambda stream, environment: True)
    stage = StageState("ingest", "done", began=0.0, ended=3.0, words="98 accepted")
    left = StageState("train", "not run", words="there is no snapshot yet")
    with run_view.shown(["ingest", "train"], print) as show:
        show(RunState("p", 0.0, (stage, left)), stage)
        show(RunState("p", 0.0, (stage, left)), left)
    told = capsys.readouterr().out
    assert "✓" in told and "98 accepted" in told and "not run: there is no snapshot yet" in told
