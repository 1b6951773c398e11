"""Write the note of a DAG run when it ends: the result, in one to three lines.

Airflow calls this in the scheduler, in the transaction in which the run's state changes. So everything is one short
piece of that transaction under a savepoint with its own time limit: an error is undone to the savepoint and logged, and
the run's state changes all the same. In the worker, a failed task stores its message for the note. The plugin loads
this module in each of Airflow's processes, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

from rempart.orchestration import run_notes
from rempart.orchestration.pages import TAG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

hookimpl = HookimplMarker("airflow")
logger = logging.getLogger(__name__)
PATIENCE = "2s"
"""For each statement: the scheduler waits no longer for a note."""
BACKGROUND = frozenset({"backup", "evidence", "replicate", "sites"})
"""Tags of DAGs that nobody waits for: copies, proofs and probes, many of which are due when a platform starts."""
NICE = 5
"""Their priority: about a third of the processor time that a pipeline's task beside them gets."""
_MANY = 100  # rows; more than a run of ours has


class RunListener:
    """The listener that the plugin registers."""

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        _told(dag_run, msg)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        _told(dag_run, msg)

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
        """Let the tasks of pipelines go first: lower the priority of a background task, in its own process."""
        tags = getattr(getattr(getattr(task_instance, "task", None), "dag", None), "tags", ())
        if TAG in tags and not BACKGROUND.isdisjoint(tags):
            with suppress(OSError):
                lower = max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
                os.setpriority(os.PRIO_PROCESS, 0, lower)

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
        """Store an error of ours for the note, in the worker. Other errors may quote data and are not stored."""
        try:
            from rempart.errors import RempartError

            task = getattr(task_instance, "task", None)
            tags = getattr(getattr(task, "dag", None), "tags", ())
            if isinstance(error, RempartError) and TAG in tags:
                task_instance.xcom_push(run_notes.FAILURE, [error.what[:1000], error.hint[:1000]])
        except Exception:
            logger.warning("The error message of a failed task was not stored for its run's note", exc_info=True)


def _told(dag_run: Any, msg: str) -> None:
    if "manually" in msg:  # who sets a state by hand is in the middle of changing the run, its note perhaps among it
        return
    try:
        from sqlalchemy.orm import object_session

        session = object_session(dag_run)
        if session is None or session.get_bind().dialect.name != "postgresql" or TAG not in dag_run.get_dag().tags:
            return
        # a savepoint of the connection, not of the session: the scheduler forbids the session to commit here
        connection = session.connection()
        with connection.begin_nested():
            write(connection, dag_run.id)
    except Exception:
        logger.warning("The note of run %s of %s was not written", dag_run.run_id, dag_run.dag_id, exc_info=True)


def write(connection: Connection, run: int) -> None:
    """Write the note of an ended run, unless a person wrote one. `run` is its number in Airflow."""
    from airflow.models.dagrun import DagRunNote
    from sqlalchemy import func, text
    from sqlalchemy.dialects.postgresql import insert

    connection.execute(text(f"SET LOCAL statement_timeout = '{PATIENCE}'"))
    note = run_notes.note(*_found(connection, run))
    if note is not None:
        table: Any = DagRunNote.__table__
        row = insert(table).values(
            dag_run_id=run, content=note, user_id=None, created_at=func.now(), updated_at=func.now()
        )
        ours = table.c.user_id.is_(None) & table.c.content.startswith(run_notes.MARK, autoescape=True)
        kept = row.on_conflict_do_update(
            index_elements=["dag_run_id"], set_={"content": note, "updated_at": func.now()}, where=ours
        )
        connection.execute(kept)
    connection.execute(text("SET LOCAL statement_timeout TO DEFAULT"))


def _found(connection: Connection, run: int) -> tuple[Mapping[str, Any], Mapping[str, Sequence[str]]]:
    """Return the results of the run's tasks, and the messages of the failed tasks."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    xcom, task = XComModel.__table__, TaskInstance.__table__
    noted_tasks = xcom.c.task_id.in_(run_notes.TASKS) | xcom.c.task_id.startswith("verify_", autoescape=True)
    wanted = (xcom.c.key == "return_value") & noted_tasks | (xcom.c.key == run_notes.FAILURE)
    rows = connection.execute(
        select(xcom.c.task_id, xcom.c.key, xcom.c.value).where(xcom.c.dag_run_id == run, wanted).limit(_MANY)
    ).all()
    values = {(name, key): json.loads(value) if isinstance(value, str) else value for name, key, value in rows}
    run_of = select(DagRun.dag_id, DagRun.run_id).where(DagRun.id == run).subquery()
    of_run = (task.c.dag_id == run_of.c.dag_id) & (task.c.run_id == run_of.c.run_id) & (task.c.state == "failed")
    failed = connection.execute(select(task.c.task_id).where(of_run).distinct().limit(_MANY)).scalars()
    return (
        {name: value for (name, key), value in values.items() if key == "return_value"},
        {name: _words(values.get((name, run_notes.FAILURE))) for name in failed},
    )


def _words(kept: Any) -> Sequence[str]:
    return [word for word in kept if isinstance(word, str)] if isinstance(kept, list) else []
