"""Manage MLflow users that exist for one attempt of a job and may only log to one experiment.

They are MLflow's own users (its basic-auth app). The platform's user, an administrator there, makes and removes them. A
verified password stays valid for `auth_cache_ttl_seconds` after its user is removed.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rempart.models.tracking import session
from rempart.settings.config import Connection

if TYPE_CHECKING:
    from mlflow import MlflowClient

JOB = "job-"
"""Prefix of the names of a job's users. MLflow's server lets such a user do only what a job does."""
_USERS = "/api/2.0/mlflow/users"
_GRANT = "/api/3.0/mlflow/users/permissions/grant"


def create(tracking: Connection, prefix: str, experiment: str) -> Connection:
    """Make a user whose name begins with `prefix` and who may log to one experiment. Return a connection.

    A missing experiment is made. Raises TrackingUnavailable, TrackingRefused (also if the server has no users),
    ValueError for a prefix that does not begin with JOB, because such a user would be a person's.
    """
    if not prefix.startswith(JOB):
        raise ValueError(f"the name of a job's user must begin with {JOB}")
    name, password = f"{prefix}{secrets.token_hex(4)}", secrets.token_urlsafe(32)
    with session(tracking, f"make the user {prefix}...") as client:
        experiment_id = _experiment(client, experiment)
        _ask(tracking, "POST", f"{_USERS}/create", {"username": name, "password": password})
        wanted = {"username": name, "resource_type": "experiment", "resource_id": experiment_id, "permission": "EDIT"}
        _ask(tracking, "POST", _GRANT, wanted)
    return replace(tracking, login=name, password=password)


def remove(tracking: Connection, prefix: str) -> list[str]:
    """Remove every user whose name begins with `prefix`; their names. Raises TrackingUnavailable, TrackingRefused."""
    with session(tracking, f"remove the users {prefix}..."):
        names = [user["username"] for user in _ask(tracking, "GET", f"{_USERS}/list", None)["users"]]
        gone = [name for name in names if name.startswith(prefix)]
        for name in gone:
            _ask(tracking, "DELETE", f"{_USERS}/delete", {"username": name})
    return gone


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _ask(tracking: Connection, method: str, path: str, body: dict[str, str] | None) -> Any:
    """Send one request in a session, which holds the credentials."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    creds = get_default_host_creds(tracking.http_url())  # type: ignore[no-untyped-call] # MLflow has no types there
    answer = http_request(creds, path, method, **({"json": body} if body else {}))  # type: ignore[no-untyped-call]
    answer = verify_rest_response(answer, path)
    return answer.json() if answer.content else {}
