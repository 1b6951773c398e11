"""A second pipeline, a classification: whether a delivery is late. On the islands, a model knows nothing of it."""

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rempart.settings.pipeline import ModelPipeline
from rempart.web import rendering
from rempart.web.read_models.gate.rules import rules
from rempart.web.wording import Texts

REGIONS = ("north", "south", "islands")
OTHER_RULES = ("limit", "beats_baseline", "calibration", "size", "latency", "stability", "excluded_features")
"""Rules of the gate besides that of the subgroups."""


def pipeline(name: str = "deliveries_test", ratio: float = 1.5) -> ModelPipeline:
    """The pipeline: PR AUC, calibration and subgroups decide."""
    return ModelPipeline.model_validate(
        {
            "name": name,
            "classification": "personal",
            "source": {"prefix": f"{name}/"},
            "key": ["delivery_id"],
            "moments": {"sent": {"column": "sent_on"}, "arrived": {"column": "arrived_on"}},
            "partition_by": "sent_on",
            "schema": {
                "delivery_id": {"type": "integer", "known": "sent"},
                "distance": {"type": "number", "known": "sent"},
                "load": {"type": "number", "known": "sent"},
                "region": {"type": "category", "known": "sent", "values": list(REGIONS)},
                "driver": {"type": "string", "known": "sent"},
                "sent_on": {"type": "date", "known": "sent"},
                "arrived_on": {"type": "date", "known": "arrived"},
                "late": {"type": "boolean", "known": "arrived"},
            },
            "features": {
                "delivery": {"kind": "row", "at": "sent", "columns": ["distance", "load"]},
            },
            "prediction": {"target": "late", "task": "classification", "at": "sent"},
            "holdout": {"column": "sent_on", "last": "90d"},
            "trainer": {"params": {"max_iter": 40}, "timeout": "3m"},
            "gate": {
                "metric": "pr_auc",
                "limit": 0.5,
                "baseline_by": [],
                "confidence": 0.95,
                "cost": {"false_positive": 1, "false_negative": 4},
                "rules": [
                    {"kind": "limit", "metric": "cost", "limit": 1.0},
                    {"kind": "calibration", "limit": 0.1},
                    {"kind": "subgroups", "columns": ["region"], "min_rows": 50, "ratio": ratio, "metric": "log_loss"},
                    {"kind": "size", "limit_mb": 5},
                    {"kind": "latency", "limit_ms": 60_000},
                    {"kind": "stability", "limit": 0.2},
                    {"kind": "excluded_features", "columns": ["driver", "region"]},
                ],
            },
        }
    )


def table(rows: int = 3000, seed: int = 4) -> pa.Table:
    """A training set as `features.training_set.point_in_time` gives it. On the islands, chance decides: no feature."""
    random = np.random.default_rng(seed)
    distance, load = random.random(rows) * 100, random.random(rows)
    region = random.choice(3, rows, p=[0.5, 0.4, 0.1])
    certain = distance + 40 * load > 75
    wrong = random.random(rows) < np.where(region == 2, 0.5, 0.04)
    days = np.sort(random.integers(0, 300, rows))
    sent = [datetime.date(2026, 1, 1) + datetime.timedelta(days=int(day)) for day in days]
    return pa.table(
        {
            "delivery_id": pa.array(range(rows), pa.int64()),
            "event_timestamp": pa.array([datetime.datetime(d.year, d.month, d.day, tzinfo=datetime.UTC) for d in sent]),
            "late": pa.array(certain ^ wrong),
            "sent_on": pa.array(sent, pa.date32()),
            "region": pa.array([REGIONS[place] for place in region]),
            "delivery__distance": pa.array(distance),
            "delivery__load": pa.array(load),
        }
    )


def page(body: Mapping[str, Any]) -> str:
    """The rules of a judgement as the page *Model gate* shows them."""
    made: Any = rendering._templates().get_template("gate.html").module
    return str(made.rules(rules(body), Texts("en"), 7))
