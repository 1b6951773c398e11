"""Compute where tasks of our DAGs link to: runs in MLflow, and pages of the cockpit about the run. Pure.

Cockpit links are paths below Airflow's own prefix without a host, so they work under every name of Airflow. Their
targets check rights themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

TAG = "rempart"
"""Tag of our DAGs."""
COCKPIT = "rempart"


@dataclass(frozen=True)
class At:
    """A task of a run, what it returned (nothing, if it failed), and where people reach Airflow and MLflow."""

    dag: str
    run: str
    returned: Mapping[str, Any]
    airflow: str
    mlflow: str | None


@dataclass(frozen=True)
class Page:
    """A link by its name in Airflow's UI. `to` gives its address, or nothing where there is none."""

    name: str
    to: Callable[[At], str | None]


def _cockpit(at: At, path: str) -> str:
    return f"{urlsplit(at.airflow).path.rstrip('/')}/{COCKPIT}/{path}"


def model_card(airflow: str, model: str, version: str) -> str:
    """Return the address of the page with a version's model card, from the address of Airflow."""
    return f"{models(airflow)}/{quote(model, safe='')}/{quote(version, safe='')}/card"


def models(airflow: str) -> str:
    """Return the path of the cockpit's page *Models*. `airflow`: where people reach Airflow."""
    return f"{urlsplit(airflow).path.rstrip('/')}/{COCKPIT}/models"


def _of_run(topic: str) -> Callable[[At], str]:
    return lambda at: _cockpit(at, f"run?{urlencode({'dag_id': at.dag, 'run_id': at.run})}#{topic}")


def _point(name: str) -> Callable[[At], str]:
    """Return the restore point that the task returned, or what the run wrote."""

    def to(at: At) -> str:
        point = at.returned.get(name)
        return _cockpit(at, f"restore-points/{quote(str(point), safe='')}") if point else _of_run("point")(at)

    return to


def _mlflow_run(at: At) -> str | None:
    run = at.returned.get("run_id")
    return f"{at.mlflow.rstrip('/')}/#/runs/{quote(str(run), safe='')}" if at.mlflow and run else None


DATA_REPORT = Page("Data report", _of_run("snapshot"))
PLACEMENT = Page("Placement", _of_run("placement"))
MLFLOW_RUN = Page("MLflow run", _mlflow_run)
MODEL_GATE = Page("Model gate", _of_run("gate"))
POINT_WRITTEN = Page("Restore point", _point("id"))
POINT_DRILLED = Page("Restore point", _point("point_id"))
POINT_RESTORED = Page("Restore point", _point("point"))
