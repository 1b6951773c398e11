"""A job on its way through the pools: its record has the waiting time, and the next plan shows it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from rempart.flows.training import check_pipeline, job_credentials, pod_job, train
from rempart.flows.training.candidates import orders
from rempart.flows.training.job_credentials import Granted
from rempart.settings.config import environment_connections, load
from rempart.training.kubernetes.verdict import Ending
from tests import pods
from tests.clusters import REGION
from tests.unit.training import stage

NODE = {"metadata": {"name": "n1", "labels": {REGION: "par"}}, "spec": {"providerID": "cloud-a://par/n1"}}
METADATA = {"name": "train-1", "namespace": "training-gpu-a", "uid": "u", "labels": {}}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": METADATA}


class Clock:
    """The platform's time, which a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def platform(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setattr(job_credentials, "grant", lambda *_: Granted({}, "none"))
    monkeypatch.setattr(job_credentials, "release", lambda *_: None)
    made = stage.platform_in_memory(load(pods.project(tmp_path) / "rempart.yaml"), environment_connections)
    return dataclasses.replace(made, clock=clock)


def waits(platform: Platform, seed: int, caplog: pytest.LogCaptureFixture) -> tuple[pod_job.Ordered, list[str]]:
    """An order, and what its plan says of waiting."""
    pipeline = stage.pipeline()
    caplog.clear()
    trainer = pipeline.trainer.model_copy(update={"seed": seed})
    pipeline = pipeline.model_copy(update={"trainer": trainer})
    spec = train.order(platform, pipeline, stage.table(), "s1", params={})
    found = pod_job.place(platform, pipeline, spec)
    return found, [line.strip() for line in caplog.messages if line.strip().startswith("wait ")]


def test_a_placement_on_record_says_how_long_the_job_waited_and_the_next_plan_tells_it(
    platform: Platform, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "wait unknown: no job that it took is recorded"
    ordered, told = waits(platform, 1, caplog)
    assert told == [unknown, unknown]
    job = pod_job.ordered_job(platform, stage.pipeline(), ordered.bucket, ordered.key)
    option = job.plan.option("gpu-a")
    assert option and job.begin(1, option, {})
    clock.now += timedelta(minutes=40)
    job.admit(1, option, POD, NODE)
    clock.now += timedelta(minutes=5)
    job.admit(1, option, POD, NODE)  # again, by a task that was cleared: it waited no longer for that
    job.end(1, Ending("succeeded", "exit status 0"), POD)
    (placed,) = platform.ledger.find("placement")
    assert placed.body["ran"]["waited"] == 2400.0
    _, told = waits(platform, 2, caplog)
    assert told == ["wait about 40 min by the last job", unknown]


@pytest.mark.parametrize(
    ("trainer", "processes"),
    [
        ({"use": "tabular_network", "gpus": 2}, 2),
        ({"use": "tabular_network", "gpus": 2, "nodes": 3}, 2),
        ({"use": "tabular_network", "gpus": 0}, 1),
        ({"use": "tabular_network"}, 1),
        ({"use": "xgboost", "gpus": 2}, 1),
    ],
)
def test_a_trainer_that_shares_its_work_runs_a_process_for_each_gpu(
    platform: Platform, trainer: dict[str, Any], processes: int
) -> None:
    assert orders.processes(platform.config, stage.pipeline(trainer=trainer)) == processes


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"use": "xgboost", "gpus": 2}, "trainer.gpus is 2, but xgboost uses 1 GPU"),
        ({"use": "gradient_boosting", "gpus": 1}, "trainer.gpus is 1, but gradient_boosting uses no GPU"),
        ({"use": "xgboost", "gpus": 1}, ""),
        ({"use": "tabular_network", "gpus": 4}, ""),
        ({"use": "gradient_boosting"}, ""),
    ],
)
def test_gpus_that_a_trainer_leaves_idle_are_told_before_they_cost(trainer: dict[str, Any], told: str) -> None:
    warned = [warning for warning in check_pipeline.warnings(stage.pipeline(trainer=trainer)) if "gpus" in warning]
    assert [warning.partition(":")[0] for warning in warned] == ([told] if told else [])
