"""A small dataset of stays with a known price rule, its pipeline, and a platform to train on."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from urllib3.util import Retry

from rempart.flows.shared.platform import Platform
from rempart.flows.training.train import train_on
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings.config import Config
from rempart.settings.pipeline import ModelPipeline
from rempart.training.entrypoint import World, run_job
from rempart.training.job import JobResult, JobSpec
from tests.memory_site import MemorySite

CANARY = "CANARY-agent-7f3a"
"""A personal value: it stands in the string column of the training set, and may appear nowhere but in the lake."""


def pipeline(name="stays_test", task="regression", **changes) -> ModelPipeline:
    return ModelPipeline.model_validate(definition(name, task) | changes)


def definition(name="stays_test", task="regression") -> dict[str, Any]:
    """What the pipeline's file says."""
    target = {"regression": "price", "classification": "season"}[task]
    gate = {"metric": "mae", "limit": 12} if task == "regression" else {"metric": "log_loss", "limit": 0.7}
    return {
        "name": name,
        "classification": "personal",
        "source": {"prefix": f"{name}/"},
        "key": ["stay_id"],
        "moments": {"booking": {"column": "arrival", "minus_days": "lead"}, "arrival": {"column": "arrival"}},
        "partition_by": "arrival",
        "schema": {
            "stay_id": {"type": "integer", "known": "booking"},
            "lead": {"type": "integer", "known": "booking"},
            "nights": {"type": "integer", "known": "booking", "nullable": True},
            "breakfast": {"type": "boolean", "known": "booking"},
            "room": {"type": "category", "known": "booking", "values": ["plain", "sea", "suite"]},
            "season": {"type": "category", "known": "booking", "values": ["cheap", "fair", "dear"]},
            "agent": {"type": "string", "known": "booking"},
            "arrival": {"type": "date", "known": "booking"},
            "price": {"type": "number", "known": "booking"},
        },
        "features": {
            "stay": {
                "kind": "row",
                "at": "booking",
                "columns": ["lead", "nights", "breakfast", "room", "agent"],
                "calendar": {"arrival": ["month"]},
            }
        },
        "prediction": {"target": target, "task": task, "at": "booking"},
        "holdout": {"column": "arrival", "last": "60d"},
        "trainer": {"params": {"max_iter": 60}, "timeout": "3m"},
        "gate": {**gate, "baseline_by": ["agent"], "baseline_margin": 0.1},
    }


def table(rows=600, seed=1) -> pa.Table:
    """A training set as `features.training_set.point_in_time` gives it, sorted by key."""
    random = np.random.default_rng(seed)
    lead, room = random.integers(0, 100, rows), random.integers(0, 3, rows)
    nights = [
        None if missing else int(n)
        for n, missing in zip(random.integers(1, 9, rows), random.random(rows) < 0.1, strict=True)
    ]
    arrival = [
        datetime.date(2026, 1, 1) + datetime.timedelta(days=int(d)) for d in np.sort(random.integers(0, 300, rows))
    ]
    breakfast = random.random(rows) < 0.5
    price = 60 + 40.0 * room + 0.3 * lead + 10 * breakfast + random.normal(0, 3, rows)
    season = np.digitize(price, [90, 130])
    return pa.table(
        {
            "stay_id": pa.array(range(rows), pa.int64()),
            "event_timestamp": pa.array(
                [datetime.datetime(d.year, d.month, d.day, tzinfo=datetime.UTC) for d in arrival]
            ),
            "price": pa.array(price, pa.float64()),
            "season": pa.array([("cheap", "fair", "dear")[i] for i in season]),
            "arrival": pa.array(arrival, pa.date32()),
            "agent": pa.array([CANARY if i % 50 == 0 else f"agent-{i % 4}" for i in range(rows)]),
            "stay__lead": pa.array(lead, pa.int64()),
            "stay__nights": pa.array(nights, pa.int64()),
            "stay__breakfast": pa.array(breakfast, pa.bool_()),
            "stay__room": pa.array([("plain", "sea", "suite")[i] for i in room]),
            "stay__arrival_month": pa.array([d.month for d in arrival], pa.int64()),
        }
    )


class InProcess:
    """A backend that runs the job here, on a site that is no server."""

    def __init__(self, site, connections) -> None:
        self.lines: list[str] = []
        self.world = World(lambda _: site, connections, self._note, lambda _: None)

    def _note(self, stage, **facts) -> None:
        self.lines.append(f"{stage} {facts}")

    def run(self, spec: JobSpec) -> JobResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Retry, "sleep", lambda *_: None)  # MLflow's client waits before it asks again
            return run_job(spec, self.world)


class Captured(Exception):
    """The order that a backend was given."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec.job_id)
        self.spec = spec


class Captures:
    """A backend that only takes orders."""

    def run(self, spec: JobSpec) -> JobResult:
        raise Captured(spec)


def ordered(platform: Platform, made: ModelPipeline, rows: pa.Table) -> JobSpec:
    """The order for a job on these rows, whose training set is stored; nothing runs."""
    try:
        train_on(platform, made, rows, "s1", backend=Captures())
    except Captured as captured:
        return captured.spec
    raise AssertionError("no job was ordered")


def memory_site() -> MemorySite:
    site = MemorySite("primary")
    for bucket in ("landing", "lake", "artifacts", "backups"):
        site.ensure_bucket(bucket, versioned=True)
    return site


def platform_in_memory(config: Config, connections) -> Platform:
    """Sites and ledger in memory; MLflow is whatever the connections say."""
    sites = {"primary": memory_site()}
    return Platform(config, connections, sites=sites, ledger_=MemoryLedger(), continuity_=MemoryContinuity())


def project_file(name: str) -> Path:
    return Path(__file__).parents[3] / name
