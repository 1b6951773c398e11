"""What Airflow's tasks make of a question, of an answer, and of a result that waits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.switchovers import in_memory

pytestmark = pytest.mark.airflow
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARIE = {"id": "5", "name": "marie"}


class Instance:
    id = "0190-ti"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was written for Airflow's page, and what the flow was asked to decide."""
    from rempart.flows.approval import ask, decide, directory
    from rempart.flows.approval.rules import Person
    from rempart.orchestration import runtime

    seen: dict[str, Any] = {"question": ask.Question("3", True, "it waits", 17, 90.0, "Version 3?", "- passed")}
    people = directory.Directory((Person(5, ("operator",)),), {"marie": 5})

    def decided(desk: Any, version: str, answer: Any, known: Any, **more: Any) -> Any:
        seen.update(version=version, answer=answer, **more)
        return decide.Decided(version, False, "promoted", True, False, version, None, "it is the champion")

    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **more: seen.update(more)
    )
    monkeypatch.setattr(runtime, "platform", in_memory)
    monkeypatch.setattr(runtime, "model_pipeline", lambda name: None)
    monkeypatch.setattr(ask, "ask", lambda desk, version: seen["question"])
    monkeypatch.setattr(directory, "directory", lambda users: people)
    monkeypatch.setattr(decide.Desk, "decide", decided)
    return seen


def asks() -> Any:
    from rempart.orchestration.approval.operators import AskPerson

    return AskPerson(task_id="decide", pipeline="m", within=timedelta(hours=48))


def answered(chosen: str, user: dict[str, str] | None) -> dict[str, Any]:
    given = {"reason": "even over the seasons" if user else ""}
    told = {"chosen_options": [chosen], "params_input": given, "responded_at": AT, "responded_by_user": user}
    result: dict[str, Any] = asks().execute_complete({}, {**told, "timedout": user is None}, version="3", judgement=17)
    return result


def test_a_question_waits_for_the_time_that_is_left_and_is_rejected_by_default(world: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import TaskAwaitingInput

    with pytest.raises(TaskAwaitingInput) as parked:
        asks().execute({"task_instance": Instance(), "params": {"version": "3"}})
    assert parked.value.timeout == timedelta(seconds=90)
    assert parked.value.kwargs == {"version": "3", "judgement": 17}
    assert world["body"].startswith("- passed") and "/rempart/models)" in world["body"]
    assert "/rempart/models/m/3/card)" in world["body"]
    assert world["subject"] == "Version 3?" and world["defaults"] == ["Reject"] and not world["assigned_users"]
    assert world["options"] == ["Approve", "Reject"] and world["params"]["reason"]["schema"]["type"] == "string"


def test_nothing_is_asked_if_nothing_waits(world: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    world["question"] = replace(world["question"], waits=False, told="it does not wait")
    with pytest.raises(AirflowSkipException, match="it does not wait"):
        asks().execute({"task_instance": Instance(), "params": {"version": "3"}})
    assert "subject" not in world


def test_an_answer_is_that_of_the_user_whom_airflow_logged_in_and_no_xcom_names_anybody(world: dict[str, Any]) -> None:
    result = answered("Approve", MARIE)
    answer = world["answer"]
    assert (answer.approves, answer.by.number, answer.at) == (True, 5, AT) and answer.reason == "even over the seasons"
    assert (world["version"], world["judgement"], world["dry_run"]) == ("3", 17, False)
    assert result["promoted"] and "marie" not in str(result) and "seasons" not in str(result)
    answered("Reject", MARIE)
    assert world["answer"].approves is False
    answered("Approve", {"id": "9", "name": "marie"})
    assert world["answer"].by.roles == ()


def test_time_that_is_over_is_nobodys_answer(world: dict[str, Any]) -> None:
    answered("Reject", None)
    assert world["answer"].by is None and world["answer"].approves is False
    with pytest.raises(ValueError, match="not in"):
        answered("Maybe", MARIE)


def test_a_run_that_asks_is_started_once_for_a_judgement_and_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowSkipException

    from rempart.orchestration.approval import operators

    started, others = [], [0]
    context: Any = {"ti": SimpleNamespace(get_dr_count=lambda dag_id, states: others[0])}
    monkeypatch.setattr(
        operators.TriggerDagRunOperator,
        "execute",
        lambda self, context: started.append((self.trigger_run_id, self.conf)),
    )

    def start(**result: Any) -> None:
        given = {"awaits": True, "version": "3", "judgement": 17, "answers": 1, **result}
        operators.StartApproval(task_id="ask_again", trigger_dag_id="approve_model_x", result=given).execute(context)

    start()
    start(answers=2)
    with pytest.raises(AirflowSkipException):
        start(awaits=False)
    others[0] = operators.MOST_OPEN + 1
    with pytest.raises(AirflowException, match="Version 3 was not asked about: 1,001 questions of approve_model_x are"):
        start(answers=3)
    assert started == [("approval__17__1", {"version": "3"}), ("approval__17__2", {"version": "3"})]
