"""Ask a person in Airflow about a candidate: the task that waits and decides, and the task that starts its DAG."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowException, AirflowSkipException, TaskAwaitingInput

from rempart.orchestration import pages, runtime

if TYPE_CHECKING:
    from rempart.flows.approval.decide import Desk

APPROVE, REJECT = "Approve", "Reject"
REASON = "reason"
MOST_OPEN = 1_000
"""Most open questions about one model. A run that asks holds no worker; Airflow would let a further one wait unseen."""


class AskPerson(HITLOperator):
    """Ask about the candidate that the run names, wait for an answer or the end of its time, and decide by it.

    The time that is left counts from the judgement in the ledger. Airflow says who answered: what somebody typed does
    not. Who may decide is ruled on after the answer, so that an answer without right is evidence, too.

    Question, answer and decision are one task. Between tasks they would lie in XComs, which admins may change: an
    author could make an answer somebody else's. Airflow keeps a response and what the task was parked with, and lets
    nobody change them.
    """

    def __init__(self, *, pipeline: str, within: timedelta, **kwargs: Any) -> None:
        told = "Why, in 10 characters or more. It goes into the evidence: write no names."
        kwargs["params"] = {REASON: Param("", told, source="task", type="string", maxLength=1000)}  # not the DAG's
        super().__init__(
            subject="", body="", options=[APPROVE, REJECT], defaults=[REJECT], response_timeout=within, **kwargs
        )
        self.pipeline = pipeline

    def execute(self, context: Any) -> Any:
        """Ask, and give the worker back until there is an answer. Raises AirflowSkipException if nothing waits."""
        from rempart.flows.approval.ask import ask

        version = str(context["params"]["version"])
        question = ask(self._desk(), version)
        if not question.waits:
            raise AirflowSkipException(question.told)
        card = pages.model_card(_airflow(), self.pipeline, version)
        links = f"[Model card]({card}) · [Page *Models*]({pages.models(_airflow())})"
        self.subject, self.body = question.subject, f"{question.body}\n\n{links}"
        self.response_timeout = timedelta(seconds=max(question.seconds, 1.0))
        try:
            return super().execute(context)
        except TaskAwaitingInput as parked:
            parked.kwargs = {"version": version, "judgement": question.judgement}  # what the person sees
            raise

    def execute_complete(  # type: ignore[override] # with what the task was parked with
        self, context: Any, event: dict[str, Any], *, version: str, judgement: int
    ) -> dict[str, Any]:
        """Decide by the answer. Returns the decision as JSON, without a name or the reason."""
        from rempart.flows.approval.directory import directory
        from rempart.flows.approval.rules import Reply
        from rempart.flows.governance.people import users_of

        if "error" in event:
            self.process_trigger_event_error(event)
        chosen, user = list(event["chosen_options"]), event["responded_by_user"]
        self.validate_chosen_options(chosen)
        desk = self._desk()
        known = directory(users_of(desk.platform))
        by = None if user is None or event.get("timedout") else known.of_user(str(user["id"]))
        answered: datetime = event["responded_at"]
        reason = str((event["params_input"] or {}).get(REASON) or "")
        reply = Reply(chosen == [APPROVE], by, reason, answered)
        return runtime.as_json(desk.decide(version, reply, known, judgement=judgement, dry_run=False))

    def _desk(self) -> Desk:
        from rempart.flows.approval.decide import Desk

        return Desk(runtime.platform(), runtime.model_pipeline(self.pipeline))


class StartApproval(TriggerDagRunOperator):
    """Start the DAG that asks about a candidate, if another task's result says that it waits; else skip.

    `result`: with `awaits`, `version`, `judgement` and `answers`. A repeated task asks once, because a run is named by
    the judgement and the number of answers to it. Fails, and is tried again, while `MOST_OPEN` questions are open: the
    candidate's time goes on, so nobody may believe that it was asked about.
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
        if (running := context["ti"].get_dr_count(self.trigger_dag_id, states=["running"])) > MOST_OPEN:
            raise AirflowException(
                f"Version {result['version']} was not asked about: {running:,} questions of {self.trigger_dag_id} are "
                "open. Answer some under Required Actions, then clear this task; or decide by `rempart model approve`."
            )
        self.conf = {"version": str(result["version"])}
        self.trigger_run_id = f"approval__{result['judgement']}__{result['answers']}"
        return super().execute(context)


def notified(pipeline: str, version: str, dag_id: str, run_id: str) -> list[str]:
    """Send a note that a candidate waits, and return the names of the connections that it was sent to.

    Raises AirflowSkipException if it does not wait, and the errors of `flows.approval.notice.notify`.
    """
    from urllib.parse import quote

    from rempart.flows.approval.ask import ask
    from rempart.flows.approval.decide import Desk
    from rempart.flows.approval.notice import notify

    desk = Desk(runtime.platform(), runtime.model_pipeline(pipeline))
    question = ask(desk, version)
    if not question.waits:
        raise AirflowSkipException(question.told)
    page = f"{_airflow().rstrip('/')}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/tasks/decide/required_actions"
    return notify(desk.platform.connections, desk.platform.clock(), pipeline, question, page)


def _airflow() -> str:
    """Return where people reach Airflow."""
    from airflow.configuration import conf

    return conf.get("api", "base_url", fallback="") or ""
