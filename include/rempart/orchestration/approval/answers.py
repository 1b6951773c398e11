"""Carry a person's answer from Airflow to the flow that rules on it, and a note of a question to its recipients."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rempart.orchestration import runtime

if TYPE_CHECKING:
    from rempart.flows.approval.decide import Decided


def decided(pipeline: str, question: Mapping[str, Any], answer: Mapping[str, Any]) -> Decided:
    """Decide on a candidate by an answer of `AskPerson`. Raises the errors of `flows.approval.decide.decide`."""
    from rempart.flows.approval.decide import decide
    from rempart.flows.approval.directory import directory
    from rempart.flows.approval.rules import Answer

    platform = runtime.platform()
    known = directory(platform)
    by = known.of_user(answer["user"]) if answer["user"] is not None else None
    given = Answer(answer["approves"] is True, by, answer["reason"], datetime.fromisoformat(answer["at"]))
    spec, number = runtime.model_pipeline(pipeline), question["judgement"]
    return decide(platform, spec, question["version"], given, known, judgement=number, dry_run=False)


def notified(pipeline: str, question: Mapping[str, Any], dag_id: str, run_id: str) -> list[str]:
    """Send a note of a question to its connections, and return their names. Raises the errors of `notify`."""
    from urllib.parse import quote

    from airflow.configuration import conf
    from airflow.sdk.exceptions import AirflowSkipException

    from rempart.flows.approval.notice import notify, question_of

    if not question["waits"]:
        raise AirflowSkipException(str(question["told"]))
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    page = f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/tasks/answer/required_actions"
    return notify(runtime.platform(), pipeline, question_of(question), page)
