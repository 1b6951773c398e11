"""Define roles: what each may do in Airflow, and on Rempart's own pages. Pure.

One table defines both. `rempart up` writes it into the tables of Airflow's FAB auth manager
(rempart.deployment.access.roles); routes under /rempart call `capabilities(user)` with either auth manager.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

Capability = Literal["read", "read_data", "read_evidence", "ingest", "operate", "fail_over"]
"""On Rempart's pages: the state of the platform; rows, values and reports made of data; the ledger and what proves it;
start the ingestion of a pipeline; start what is safe to repeat (pipelines, backups, drills); move the platform to
another site.
"""
Permission = tuple[str, str]
"""An action and the resource that it is done to, by the names that FAB's tables have."""
RoleName = Literal["viewer", "auditor", "caller", "operator", "admin"]
ROLES: tuple[RoleName, ...] = get_args(RoleName)

RESERVED = frozenset({"fail_over", "fail_back"})
"""DAGs whose runs move the platform. In Airflow only roles with this right may start, clear or change them."""

LANDING_WATCH = "airflow_landing_watch"
"""Connection of the landing watch to Airflow's API: its user may start the ingestion of pipelines, and nothing else."""
LANDING_WATCH_USER = "landing-watch"
INGESTS = "ingest_"
"""Begins the name of each DAG that ingests a pipeline."""

_ACTIONS = {"r": "can_read", "c": "can_create", "e": "can_edit", "d": "can_delete", "m": "menu_access"}
_ASKED: dict[Capability, Permission] = {
    "read": ("can_read", "Rempart"),
    "read_data": ("can_read", "Rempart Data"),
    "read_evidence": ("can_read", "Rempart Evidence"),
    "ingest": ("can_create", "Rempart Ingestion"),
    "operate": ("can_edit", "Rempart"),
    "fail_over": ("can_edit", "Rempart Failover"),
}

RIGHTS: dict[str, tuple[str, str, str, str, str]] = {
    # of viewer, auditor, caller, operator, admin: (r)ead, (c)reate, (e)dit, (d)elete, shown in the (m)enu
    "DAGs": ("rm", "rm", "re", "rem", "redm"),
    "DAG Code": ("r", "r", "", "r", "r"),
    "DAG Dependencies": ("rm", "rm", "", "rm", "rm"),
    "DAG Runs": ("rm", "rm", "rc", "rcem", "rcedm"),
    "DAG Versions": ("r", "r", "", "r", "r"),
    "DAG Warnings": ("r", "r", "", "r", "r"),
    "Task Instances": ("rm", "rm", "", "rcem", "rcedm"),
    "Task Logs": ("r", "", "", "r", "r"),
    "XComs": ("rm", "", "", "rm", "rcedm"),
    "HITL Detail": ("rm", "r", "", "rem", "rem"),  # the list of DAGs is made of it, too
    "Assets": ("rm", "rm", "", "rcm", "rcedm"),
    "Asset Aliases": ("r", "r", "", "r", "r"),
    "Backfills": ("r", "r", "", "rce", "rced"),
    "Pools": ("rm", "", "", "rm", "rcedm"),
    "Jobs": ("rm", "rm", "", "rm", "rm"),
    "ImportError": ("r", "r", "", "r", "r"),
    "Cluster Activity": ("rm", "rm", "", "rm", "rm"),
    "Audit Logs": ("", "rm", "", "", "rm"),
    "Connections": ("", "", "", "", "rcedm"),
    "Variables": ("", "", "", "", "rcedm"),
    "Configurations": ("", "", "", "", "rm"),
    "Plugins": ("r", "r", "", "r", "rm"),  # Airflow's navigation asks for it: without it nobody finds the cockpit there
    "Providers": ("", "", "", "", "rm"),
    "Triggers": ("", "", "", "", "rm"),
    "Admin": ("", "", "", "m", "m"),
    "Browse": ("m", "m", "", "m", "m"),
    "Documentation": ("m", "m", "", "m", "m"),
    "Docs": ("m", "m", "", "m", "m"),
    "Website": ("r", "r", "", "r", "r"),
    "My Password": ("re", "re", "re", "re", "re"),
    "My Profile": ("r", "r", "", "r", "r"),
    "Rempart": ("r", "r", "", "re", "re"),
    "Rempart Data": ("r", "", "", "r", "r"),
    "Rempart Evidence": ("r", "r", "", "r", "r"),
    "Rempart Ingestion": ("", "", "c", "c", "c"),
    "Rempart Failover": ("", "", "", "", "e"),
}
"""What each role may do, by resource.

No role has FAB's pages of users and roles: `rempart users` changes users, and the ledger records who did.
"""

_SIMPLE: dict[str, RoleName] = {"viewer": "viewer", "user": "operator", "op": "operator", "admin": "admin"}
"""Roles of Airflow's simple auth manager, each with our nearest role."""


@dataclass(frozen=True)
class Role:
    """A role: what it is for, its permissions in FAB's tables, and its capabilities on Rempart's pages."""

    name: RoleName
    meaning: str
    permissions: frozenset[Permission]
    capabilities: frozenset[Capability]


_MEANINGS: dict[RoleName, str] = {
    "viewer": "reads DAGs, runs, logs and results; changes nothing",
    "auditor": "reads DAGs, runs, Airflow's audit log and the evidence, but no data; changes nothing",
    "caller": "a program: starts the ingestion of pipelines, and reads the state of runs; nothing else",
    "operator": (
        "as viewer; also starts, clears and pauses DAGs and answers tasks that wait for a person; no failover"
    ),
    "admin": "as operator; also changes connections, variables and pools, and moves the platform to another site",
}


def granted(permissions: Collection[Permission]) -> frozenset[Capability]:
    """Return the capabilities that correspond to permissions in FAB's tables."""
    return frozenset(capability for capability, asked in _ASKED.items() if asked in permissions)


def role(name: RoleName) -> Role:
    """Return a role from the table."""
    column = ROLES.index(name)
    permissions = frozenset(
        (_ACTIONS[letter], resource) for resource, rights in RIGHTS.items() for letter in rights[column]
    )
    return Role(name, _MEANINGS[name], permissions, granted(permissions))


def capabilities(user: object) -> frozenset[Capability]:
    """Return what the user of a request may do on Rempart's pages; empty for other auth managers.

    `user` comes from Airflow's `get_user`: FAB's has `perms`, the simple auth manager's has `role`.
    """
    if (permissions := getattr(user, "perms", None)) is not None:
        return granted(permissions)
    name = getattr(user, "role", None)
    known = _SIMPLE.get(name.lower()) if isinstance(name, str) else None
    return role(known).capabilities if known else frozenset()


def needed(dag_id: str | None, *, starts: bool = False) -> Capability:
    """Return the right needed to change a DAG or its runs, or to start a run if it `starts` one.

    None: the request names no DAG, so any is possible.
    """
    if dag_id is None or dag_id in RESERVED:
        return "fail_over"
    return "ingest" if starts and dag_id.startswith(INGESTS) else "operate"
