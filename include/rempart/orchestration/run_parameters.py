"""Refuse a run with a parameter that its DAG does not have, with parameters that contradict each other, or with a
decision that its caller may not take.

Airflow checks the values of declared parameters one by one and silently accepts others, so a misspelt `dry_run` would
be lost.
Every way to request a run (REST, UI, CLI, backfill, another DAG) ends in one function of Airflow, which is wrapped here
for the DAGs of this project. The REST API answers 400, and 403 to a caller without the right.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import wraps
from typing import Any

from rempart.ingestion.acceptance import contradiction
from rempart.orchestration.pages import TAG
from rempart.settings import access, config

DECISIONS = ("accept_quarantined", "accept_loss")
"""Parameters with which a person answers for rows or for a loss: not a program that starts ingestions."""


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


def undecided(conf: Mapping[str, Any], held: Collection[access.Capability]) -> str | None:
    """Return the message about a decision that a caller with these capabilities may not take, or None. Pure."""
    asked = [name for name in DECISIONS if conf.get(name)]
    if not asked or "operate" in held:
        return None
    holders = ", ".join(name for name in access.ROLES if "operate" in access.role(name).capabilities)
    return (
        f"{' and '.join(asked)} is a decision of a person: nothing was started. It needs the right 'operate', which "
        f"these roles have: {holders}. Ask such a person to look at the delivery or the loss, and to decide."
    )


def _capabilities(name: str | None, session: Any) -> frozenset[access.Capability]:
    """Return what the Airflow user with this name may do; empty for an unknown name."""
    if config.load().access.auth_manager != "fab":
        return access.role("admin").capabilities  # the only user of the simple auth manager
    from airflow.providers.fab.auth_manager.models import User
    from sqlalchemy import select

    return access.capabilities(session.scalar(select(User).where(User.username == name)))


def install() -> None:
    """Wrap Airflow's `create_dagrun` in this process. A second call changes nothing."""
    from airflow.exceptions import ParamValidationError
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.utils.types import DagRunTriggeredByType

    create = SerializedDAG.create_dagrun
    people = (DagRunTriggeredByType.REST_API, DagRunTriggeredByType.UI)
    if getattr(create, "refuses_unknown_parameters", False):
        return

    @wraps(create)
    def create_dagrun(self: Any, *args: Any, conf: Any = None, **more: Any) -> Any:
        if conf and TAG in self.tags and (message := unknown(conf, self.params)):
            raise ParamValidationError(message)
        if conf and TAG in self.tags and "accept_quarantined" in self.params and (message := contradictory(conf)):
            raise ParamValidationError(message)
        if conf and TAG in self.tags and more.get("triggered_by") in people and any(map(conf.get, DECISIONS)):
            held = _capabilities(more.get("triggering_user_name"), more["session"])
            if message := undecided(conf, held):
                from fastapi import HTTPException

                raise HTTPException(403, message)
        return create(self, *args, conf=conf, **more)

    create_dagrun.refuses_unknown_parameters = True  # type: ignore[attr-defined] # a mark of our own
    SerializedDAG.create_dagrun = create_dagrun  # type: ignore[method-assign] # there is no hook for this
