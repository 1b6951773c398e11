"""Refuse a run with a parameter that its DAG does not have, or with parameters that contradict each other.

Airflow checks the values of declared parameters one by one and silently accepts others, so a misspelt `dry_run` would
be lost.
Every way to request a run (REST, UI, CLI, backfill, another DAG) ends in one function of Airflow, which is wrapped here
for the DAGs of this project. The REST API answers 400.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import wraps
from typing import Any

from rempart.ingestion.acceptance import contradiction
from rempart.orchestration.pages import TAG


def unknown(conf: Iterable[str], declared: Iterable[str]) -> str | None:
    """Return the message about undeclared parameters, or None. Pure."""
    known = sorted(declared)
    strange = sorted(str(name)[:60] for name in set(conf) - set(known))
    if not strange:
        return None
    named = ", ".join(f"'{name}'" for name in strange[:5])
    return (
        f"Unknown run parameter{'s' if len(strange) > 1 else ''} {named}: nothing was started. Remove it, or "
        f"correct its spelling. Parameters of this DAG: {', '.join(known) or 'none'}."
    )


def contradictory(conf: Mapping[str, Any]) -> str | None:
    """Return the message about parameters of an ingestion that contradict each other, or None. Pure."""
    accept, accept_loss = bool(conf.get("accept_quarantined")), conf.get("accept_loss")
    refused = contradiction(conf.get("again"), accept=accept, accept_loss=accept_loss)
    return ". ".join(refused) if refused else None


def install() -> None:
    """Wrap Airflow's `create_dagrun` in this process. A second call changes nothing."""
    from airflow.exceptions import ParamValidationError
    from airflow.serialization.definitions.dag import SerializedDAG

    create = SerializedDAG.create_dagrun
    if getattr(create, "refuses_unknown_parameters", False):
        return

    @wraps(create)
    def create_dagrun(self: Any, *args: Any, conf: Any = None, **more: Any) -> Any:
        if conf and TAG in self.tags and (message := unknown(conf, self.params)):
            raise ParamValidationError(message)
        if conf and TAG in self.tags and "accept_quarantined" in self.params and (message := contradictory(conf)):
            raise ParamValidationError(message)
        return create(self, *args, conf=conf, **more)

    create_dagrun.refuses_unknown_parameters = True  # type: ignore[attr-defined] # a mark of our own
    SerializedDAG.create_dagrun = create_dagrun  # type: ignore[method-assign] # there is no hook for this
