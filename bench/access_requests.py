"""Requests to the platform's servers: without credentials, as a job, as viewer and as operator. Pure data."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.access_attacks import PAGE, Attack
from tests.cockpit_routes import ROUTES, expected

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
"""What a page may send to another site without asking that site first."""

COCKPIT = {(method, f"/rempart{path}", None): right for (method, path), right in ROUTES.items()}
"""Every route of the cockpit, and the right that it needs."""
AIRFLOW_PLAIN = ("/", "/api/v2/version", "/api/v2/monitor/health", "/auth/login", "/openapi.json")
"""Pages that everybody may see: they hold nothing of the platform's."""
AIRFLOW: Sequence[tuple[str, str, Any]] = (
    ("GET", "/api/v2/dags", None),
    ("GET", "/api/v2/connections", None),
    ("GET", "/api/v2/variables", None),
    ("GET", "/api/v2/dags/~/dagRuns", None),
    ("GET", "/ui/dags", None),
    *COCKPIT,
    ("POST", "/api/v2/dags/backup_platform/dagRuns", {"logical_date": None}),
    ("POST", "/api/v2/variables", {"key": "intruder", "value": "x"}),
    ("PATCH", "/api/v2/dags/backup_platform", {"is_paused": True}),
    ("DELETE", "/api/v2/dags/backup_platform", None),
    ("GET", "/execution/connections/s3_primary", None),
    ("GET", "/execution/variables/x", None),
    ("POST", "/auth/token", {"username": "admin", "password": "admin"}),
)
PAGE_WRITES: Sequence[tuple[str, str, Any]] = (
    ("POST", "/api/v2/dags/backup_platform/dagRuns", None),
    ("POST", "/api/v2/dags/backup_platform/dagRuns", {"logical_date": None}),
    ("POST", "/api/v2/variables", {"key": "intruder", "value": "x"}),
    *(request for request in COCKPIT if request[0] == "POST"),
    ("POST", "/api/v2/assets/1/materialize", None),
)
"""Writes that a page sends with the cookie of a person who is logged in."""
PEOPLE: Sequence[tuple[str, str, Any]] = (
    ("DELETE", "/api/v2/dags/backup_platform", None),
    ("GET", "/api/v2/connections", None),
    ("POST", "/api/v2/connections", {"connection_id": "x", "conn_type": "http"}),
    ("GET", "/api/v2/variables", None),
    ("POST", "/api/v2/variables", {"key": "intruder", "value": "x"}),
    ("GET", "/api/v2/config", None),
    ("POST", "/api/v2/pools", {"name": "x", "slots": 1}),
    ("GET", "/auth/fab/v1/users", None),
    ("GET", "/execution/connections/s3_primary", None),
)
"""Requests that neither the role viewer nor the role operator may send with success."""
VIEWER: Sequence[tuple[str, str, Any]] = (
    *PEOPLE,
    *(request for request, right in COCKPIT.items() if not expected("viewer", right)),
    ("POST", "/api/v2/dags/backup_platform/dagRuns", {"logical_date": None}),
    ("PATCH", "/api/v2/dags/backup_platform", {"is_paused": True}),
    ("POST", "/api/v2/backfills", {"dag_id": "backup_platform", "from_date": "2026-01-01", "to_date": "2026-01-02"}),
)
OPERATOR: Sequence[tuple[str, str, Any]] = (
    *PEOPLE,
    *(request for request, right in COCKPIT.items() if not expected("operator", right)),
    ("POST", "/api/v2/dags/fail_over/dagRuns", {"logical_date": None}),
    ("POST", "/api/v2/dags/fail_back/dagRuns", {"logical_date": None}),
)
"""Requests that the role may not send. `rempart.settings.access` says which it may; tests/integration/test_people.py
asks."""

MLFLOW_PLAIN = ("/health", "/version")
MLFLOW: Sequence[tuple[str, str, Any]] = (
    ("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1}),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=1", None),
    ("GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1", None),
    ("GET", "/", None),
    ("POST", "/api/2.0/mlflow/experiments/create", {"name": "intruder"}),
    ("POST", "/api/2.0/mlflow/users/create", {"username": "intruder", "password": "intruder-password"}),
    ("GET", "/signup", None),
    ("POST", "/graphql", {"query": "{__typename}"}),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=", None),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/intruder", None),
    ("POST", "/ajax-api/3.0/mlflow/traces/search", {}),
    ("POST", "/v1/traces", None),
    ("GET", "/gateway/", None),
    ("POST", "/api/3.0/jobs/search", {}),
    ("GET", "/get-artifact?path=x&run_uuid=x", None),
    ("GET", "/model-versions/get-artifact?path=x&name=x&version=1", None),
)


def of_job(experiment: str, other: str, other_run: str, model: str, mark: str) -> Sequence[tuple[str, str, Any]]:
    """What the MLflow user of a job's attempt must not do; `experiment` is its own, the others are not.

    Names of what it would make hold `mark`.
    """
    v2, v3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
    return (
        ("POST", f"{v2}/experiments/create", {"name": f"{mark}-i1", "artifact_location": "s3://backups/restore-points"}),
        ("POST", f"{v2}/experiments/create", {"name": f"{mark}-i2", "artifact_location": "file:///tmp/dags"}),
        ("POST", "/ajax-api/2.0/mlflow/experiments/create", {"name": f"{mark}-i3", "artifact_location": "file:///tmp/dags"}),
        ("GET", f"{v2}/experiments/get?experiment_id={other}", None),
        ("POST", f"{v2}/runs/search", {"experiment_ids": [other]}),
        ("POST", f"{v2}/runs/create", {"experiment_id": other}),
        ("GET", f"{v2}/runs/get?run_id={other_run}", None),
        ("POST", f"{v2}/runs/log-metric", {"run_id": other_run, "key": "x", "value": 1.0, "timestamp": 1}),
        ("POST", f"{v2}/runs/log-batch", {"run_id": other_run, "metrics": []}),
        ("POST", f"{v2}/runs/update", {"run_id": other_run, "status": "FAILED"}),
        ("POST", f"{v2}/logged-models", {"experiment_id": other, "name": "x"}),
        ("GET", f"{v2}/artifacts/list?run_id={other_run}", None),
        ("GET", f"/get-artifact?path=secret.txt&run_uuid={other_run}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts?path={other}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/{other}/{other_run}/artifacts/secret.txt", None),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{other}/{other_run}/artifacts/secret.txt", None),
        ("DELETE", f"/api/2.0/mlflow-artifacts/artifacts/{other}/{other_run}/artifacts/secret.txt", None),
        ("POST", f"{v2}/registered-models/create", {"name": f"{mark}-intruder"}),
        ("POST", f"{v2}/model-versions/create", {"name": model, "source": "s3://backups/restore-points"}),
        ("POST", f"{v2}/model-versions/create", {"name": f"{mark}-intruder", "source": f"runs:/{other_run}/model"}),
        ("POST", f"{v2}/registered-models/alias", {"name": model, "alias": "champion", "version": "1"}),
        ("GET", f"{v2}/registered-models/get?name={model}", None),
        ("DELETE", f"{v2}/registered-models/delete", {"name": model}),
        ("POST", f"{v2}/experiments/delete", {"experiment_id": experiment}),
        ("POST", f"{v2}/experiments/update", {"experiment_id": other, "new_name": f"{mark}-new"}),
        ("POST", f"{v2}/users/create", {"username": f"{mark}-u", "password": "intruder-password"}),
        ("PATCH", f"{v2}/users/update-admin", {"username": f"{mark}-u", "is_admin": True}),
        ("POST", f"{v3}/users/permissions/grant", {"username": f"{mark}-u", "resource_type": "experiment",
                                                   "resource_id": other, "permission": "MANAGE"}),
        ("POST", "/graphql", {"query": "{mlflowGetExperiment(input:{experimentId:\"0\"}){experiment{name}}}"}),
        ("POST", "/v1/traces", None),
    )  # fmt: skip


def requests(
    endpoint: str,
    who: str,
    where: Mapping[str, Any],
    wanted: Sequence[tuple[str, str, Any]],
    headers: Mapping[str, str] | None = None,
    plain: Sequence[str] = (),
    *,
    strict: bool = False,
) -> list[Attack]:
    """The requests as attacks, each with these headers; those of `plain` give nothing away."""
    found = [replace(_request(endpoint, who, where, request, headers or {}), strict=strict) for request in wanted]
    for path in plain:
        order = {**where, "how": "http", "path": path, "headers": dict(headers or {})}
        found.append(Attack(endpoint, who, f"GET {path}", order, plain=True))
    return found


def _request(
    endpoint: str, who: str, where: Mapping[str, Any], wanted: tuple[str, str, Any], headers: Mapping[str, str]
) -> Attack:
    method, path, body = wanted
    kind = {} if body is None or "Content-Type" in headers else JSON
    order = {**where, "how": "http", "method": method, "path": path, "headers": {**kind, **headers}}
    if body is not None:
        order["body"] = json.dumps(body)
    return Attack(endpoint, who, f"{method} {path}", order)


def page(cookies: Mapping[str, str] | None = None, *, same_site: bool = False) -> dict[str, str]:
    """What a browser sends for a page: of another site, or at another port of the same host, which is the same site."""
    found = {**PAGE, **TEXT}
    if same_site:
        found |= {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}
    if cookies:
        found["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return found


def basic(login: str, password: str) -> dict[str, str]:
    """The header of HTTP's basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()}


def postgresql(where: Mapping[str, Any], who: str) -> list[Attack]:
    """Sessions without a password, as each role that there may be."""
    roles = ("postgres", "rempart_admin", "airflow", "mlflow", "ledger", "backup", "feast")
    return [
        Attack("postgresql", who, f"role {role}", {**where, "how": "postgresql", "role": role, "database": "postgres"})
        for role in roles
    ]


def redis(where: Mapping[str, Any], who: str) -> list[Attack]:
    """Valkey's commands without a password, and with a wrong one."""
    lines = ("PING", "KEYS *", "FLUSHALL", "AUTH airflow wrong", "AUTH wrong")
    return [
        Attack("broker", who, line, {**where, "how": "raw", "bytes": f"{line}\r\n".encode().hex(), "refusal": "-"})
        for line in lines
    ]


MONITORING: Sequence[tuple[str, str, Any]] = (
    ("GET", "/api/v1/query?query=up", None),
    ("GET", "/metrics", None),
    ("POST", "/api/v1/import", None),
    ("POST", "/opentelemetry/v1/metrics", None),
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]=up", None),
    ("GET", "/debug/pprof/", None),
    ("GET", "/flags", None),
    ("GET", "/vmui/", None),
)
SCORER_PLAIN = ("/v2/health/live", "/v2/health/ready")
SCORER: Sequence[tuple[str, str, Any]] = (
    ("POST", "/predict/hotel_bookings", {"keys": [{"booking_id": 100001}]}),
    ("POST", "/v2/models/hotel_bookings/infer", {"inputs": []}),
    ("GET", "/v2", None),
    ("GET", "/v2/models/hotel_bookings", None),
    ("GET", "/v2/models/hotel_bookings/ready", None),
    ("GET", "/metrics", None),
    ("GET", "/docs", None),
    ("GET", "/openapi.json", None),
)
"""Requests to the scorer without a key. SCORER_PLAIN: addresses that everybody may ask, which name no pipeline."""
PROXY: Sequence[tuple[str, str, Any]] = (
    ("CONNECT", "denied.invalid:443", None),
    ("GET", "http://denied.invalid/", None),
    ("GET", "http://egress:13128/squid-internal-mgr/info", None),
    ("CONNECT", "127.0.0.1:22", None),
)
