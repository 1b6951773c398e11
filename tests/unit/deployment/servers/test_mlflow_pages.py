"""Links of tasks to MLflow: its address for people, or no link."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rempart.deployment.setup import environment, paths
from rempart.settings import config
from rempart.settings.sections import External

ROOT = Path(__file__).resolve().parents[4]
GIVEN = {"REMPART_MLFLOW_URL": "https://mlflow.example.eu"}


def test_it_is_where_the_stack_or_the_team_has_it_unless_it_is_said() -> None:
    stack = paths.Stack(ROOT, ROOT / "var", config.load(ROOT / "rempart.yaml"), offset=100)
    assert environment.mlflow_pages(stack, {}) == {"REMPART_MLFLOW_URL": "http://127.0.0.1:15100"}
    assert environment.mlflow_pages(stack, GIVEN) == GIVEN
    external = External(url="https://mlflow.team.eu", connection="mlflow")
    services = {
        **stack.config.services,
        "mlflow": stack.config.services["mlflow"].model_copy(update={"external": external}),
    }
    theirs = replace(stack, config=stack.config.model_copy(update={"services": services}))
    assert environment.mlflow_pages(theirs, {}) == {"REMPART_MLFLOW_URL": "https://mlflow.team.eu"}


def test_a_name_that_only_containers_know_is_no_link() -> None:
    stack = paths.Stack(ROOT, ROOT / "var", config.load(ROOT / "rempart.yaml"), containers=True)
    assert environment.mlflow_pages(stack, {}) == {}
    assert environment.mlflow_pages(stack, {"REMPART_MLFLOW_URL": ""}) == {}
