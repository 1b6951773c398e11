"""Ask a person in Airflow about a candidate: the task that waits, and the task that starts the DAG with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException

APPROVE, REJECT = "Approve", "Reject"
REASON = "reason"


class AskPerson(HITLOperator):
    """Wait until somebody approves or rejects the candidate that another task asks about; rejected without an answer.

    `question`: that task's result (`flows.approval.ask.Question` as JSON); nothing is asked if nothing waits. The time
    comes from the question, because it counts from the judgement in the ledger. Returns the answer without a name: the
    user's id is what Airflow logged in, not what somebody typed. Who may answer is ruled on afterwards, so that an
    answer without right is evidence, too.
    """

    template_fields = ("subject", "body", "question")

    def __init__(self, *, question: Any, within: timedelta, **kwargs: Any) -> None:
        told = "Why, in 10 characters or more. It goes into the evidence: write no names."
        reason = Param("", told, source="task", type="string", maxLength=1000)
        kwargs["params"] = {REASON: reason}  # in place of the DAG's, which Airflow put there
        super().__init__(
            subject="",
            body="",
            options=[APPROVE, REJECT],
            defaults=[REJECT],
            response_timeout=within,
            **kwargs,
        )
        self.question = question

    def execute(self, context: Any) -> Any:
        """Ask, and give the worker back until there is an answer. Raises AirflowSkipException if nothing waits."""
        question: Mapping[str, Any] = self.question
        if not question["waits"]:
            raise AirflowSkipException(str(question["told"]))
        self.subject, self.body = str(question["subject"]), str(question["body"])
        self.response_timeout = timedelta(seconds=max(float(question["seconds"]), 1.0))
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer as JSON: what was chosen, the user's id (None: the time was over), the reason, and when."""
        if "error" in event:
            self.process_trigger_event_error(event)
        chosen = list(event["chosen_options"])
        self.validate_chosen_options(chosen)
        user = event["responded_by_user"]
        return {
            "approves": chosen == [APPROVE],
            "user": str(user["id"]) if user and not event.get("timedout") else None,
            "reason": str((event["params_input"] or {}).get(REASON) or ""),
            "at": event["responded_at"].isoformat(),
        }


class StartApproval(TriggerDagRunOperator):
    """Start the DAG that asks about a candidate, if another task's result says that it waits; else skip.

    `result`: with `awaits`, `version`, `judgement` and `answers`. A repeated task asks once, because a run is named by
    the judgement and the number of answers to it.
    """

    template_fields = ("trigger_dag_id", "trigger_run_id", "conf", "result")

    def __init__(self, *, result: Any, **kwargs: Any) -> None:
        super().__init__(
            logical_date=None,
            skip_when_already_exists=True,
            fail_when_dag_is_paused=True,
            openlineage_inject_parent_info=False,
            **kwargs,
        )
        self.result = result

    def execute(self, context: Any) -> Any:
        result: Mapping[str, Any] = self.result
        if not result["awaits"]:
            raise AirflowSkipException("No candidate waits for a person")
        self.conf = {"version": str(result["version"])}
        self.trigger_run_id = f"approval__{result['judgement']}__{result['answers']}"
        return super().execute(context)
