"""What Airflow's tasks make of a question, of an answer, and of a result that waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytestmark = pytest.mark.airflow
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUESTION = {"waits": True, "told": "it waits", "subject": "Version 3?", "body": "- passed", "seconds": 90.0}


class Instance:
    id = "0190-ti"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was written for Airflow's page."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **more: seen.update(more)
    )
    return seen


def question(**more: Any) -> Any:
    from rempart.orchestration.approval.operators import AskPerson

    return AskPerson(task_id="answer", question={**QUESTION, **more}, within=timedelta(hours=48))


def event(chosen: str, user: dict[str, str] | None, **more: Any) -> dict[str, Any]:
    given = {"reason": "even over the seasons"} if user else {"reason": ""}
    told = {"chosen_options": [chosen], "params_input": given, "responded_at": AT, "responded_by_user": user}
    return {**told, "timedout": user is None, **more}


def test_a_question_waits_for_the_time_that_is_left_and_is_rejected_by_default(asked: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import TaskAwaitingInput

    with pytest.raises(TaskAwaitingInput) as parked:
        question().execute({"task_instance": Instance()})
    assert parked.value.timeout == timedelta(seconds=90)
    assert asked["subject"] == "Version 3?" and asked["defaults"] == ["Reject"] and not asked["assigned_users"]
    assert asked["options"] == ["Approve", "Reject"] and asked["params"]["reason"]["schema"]["type"] == "string"


def test_nothing_is_asked_if_nothing_waits(asked: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match="it does not wait"):
        question(waits=False, told="it does not wait").execute({"task_instance": Instance()})
    assert not asked


def test_an_answer_names_the_user_by_the_id_that_airflow_logged_in_and_by_no_name() -> None:
    answered = question().execute_complete({}, event("Approve", {"id": "5", "name": "marie"}))
    assert answered == {"approves": True, "user": "5", "reason": "even over the seasons", "at": AT.isoformat()}
    assert question().execute_complete({}, event("Reject", {"id": "5", "name": "marie"}))["approves"] is False
    assert "marie" not in str(answered)


def test_time_that_is_over_is_nobodys_answer() -> None:
    over = question().execute_complete({}, event("Reject", None))
    assert over["user"] is None and over["approves"] is False
    with pytest.raises(ValueError, match="not in"):
        question().execute_complete({}, event("Maybe", {"id": "5", "name": "marie"}))


def test_a_run_that_asks_is_started_once_for_a_judgement_and_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from rempart.orchestration.approval import operators

    started = []
    monkeypatch.setattr(
        operators.TriggerDagRunOperator,
        "execute",
        lambda self, context: started.append((self.trigger_run_id, self.conf)),
    )

    def start(**result: Any) -> None:
        given = {"awaits": True, "version": "3", "judgement": 17, "answers": 1, **result}
        operators.StartApproval(task_id="ask_again", trigger_dag_id="approve_model_x", result=given).execute({})

    start()
    start(answers=2)
    with pytest.raises(AirflowSkipException):
        start(awaits=False)
    assert started == [("approval__17__1", {"version": "3"}), ("approval__17__2", {"version": "3"})]
