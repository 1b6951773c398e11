"""Measure what conformal intervals cover over time on the hotel bookings: rolling origins, and the hold-out.

make bench BENCH=intervals                 # gradient_boosting and lightgbm, both methods
make bench BENCH=intervals ARGS=lightgbm   # one trainer

The rows and their features are those of the demo's pipeline, and the trainings those of a job's back-test: each of 24
origins learns from the days before it, measures the width on the newest six weeks of them, and is measured on the week
after it, since the demo trains each week. The hold-out, the three months after all of these, is measured once.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rempart.features import in_memory
from rempart.flows.training import labelled, try_pipeline
from rempart.flows.training.candidates import orders
from rempart.flows.training.train import target_feature
from rempart.models import metrics, onnx_format
from rempart.models.encoding import encode, features_of
from rempart.models.intervals.figures import covered
from rempart.settings import config, pipelines
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import read_yaml
from rempart.training.job import FeatureSpec, TrainerSpec
from rempart.training.protocol import learning
from rempart.training.trainers import trainers

NAME, COVERAGE = "hotel_bookings", 0.9
PARAMS: dict[str, dict[str, Any]] = {
    "gradient_boosting": {"max_iter": 200, "learning_rate": 0.05, "max_leaf_nodes": 15},
    "lightgbm": {"num_iterations": 200, "learning_rate": 0.05, "num_leaves": 15},
}
LEFT_OUT = "*_trend__*_mean_*"
VALIDATION: dict[str, Any] = {"last": "42d"}
BACKTEST: dict[str, Any] = {"origins": 24, "every": "7d"}


def pipeline(use: str, method: str) -> ModelPipeline:
    """Return the demo's pipeline with another trainer, intervals and a back-test."""
    given = read_yaml(pipelines.pipelines_dir() / f"{NAME}.yaml")
    params = {**PARAMS[use], "leave_out": LEFT_OUT}
    trainer = {"use": use, "params": params, "seed": 7, "intervals": {"coverage": COVERAGE, "method": method}}
    return ModelPipeline.model_validate({**given, "trainer": trainer, "validation": VALIDATION, "backtest": BACKTEST})


def training_set(made: ModelPipeline) -> pa.Table:
    """Return the point-in-time training set of the shipped file, without a stack."""
    with tempfile.TemporaryDirectory(prefix="rempart-bench-") as folder:
        _, parts = try_pipeline.judged(made, try_pipeline.shipped(NAME), Path(folder), 1 << 40)
        rows = pa.concat_tables(map(pq.read_table, parts))
    return in_memory.build(made, rows, None, {})[0]


def measured(made: ModelPipeline, table: pa.Table) -> dict[str, Any]:
    """Return what the intervals cover at each origin and on the hold-out."""
    rows, how = labelled.split(made, table), orders.measuring(made, made.trainer.params)
    orders.check(how, rows.learn)
    seen, params = trainers.left_out(features_of(made), made.trainer.params)
    target = target_feature(made)
    order: Any = SimpleNamespace(
        task="regression",
        target=FeatureSpec.of(target),
        trainer=TrainerSpec.of(made.trainer, params),
        validation=how.validation,
        backtest=how.backtest,
        costs=None,
    )

    def tell(*_: Any, **__: Any) -> None:
        return

    learn = learning.Rows(rows.learn, encode(seen, rows.learn), metrics.target_values(target, rows.learn), params, seen)
    origins, means = learning.backtested(order, learn, tell)
    model = learning.learn(order, learn, learn.inputs[:1000], None, tell).model
    session, truth = onnx_format.open_session(model.body), metrics.target_values(target, rows.held_out)
    predicted, *ends = onnx_format.run(session, encode(seen, rows.held_out), "regression", 0, bounds=True).T
    held_out = {**metrics.score("regression", truth, predicted), **covered(truth, *ends)}
    return {
        "origins": {origin.begins: origin.metrics for origin in origins},
        "mean": means,
        "hold-out": held_out,
        "rows": [rows.learn.num_rows, rows.held_out.num_rows],
    }


def main(*uses: str) -> None:
    table, found = None, {}
    for use in uses or tuple(PARAMS):
        for method in ("conformal", "scaled"):
            made = pipeline(use, method)
            table = training_set(made) if table is None else table
            shown = found[f"{use} {method}"] = measured(made, table)
            print(
                f"{use}, {method}: {shown['mean']['backtest_coverage_mean']:.1%} covered on average over "
                f"{len(shown['origins'])} origins (spread {shown['mean']['backtest_coverage_spread']:.1%}), "
                f"{shown['mean']['backtest_width_mean']:.1f} wide; hold-out {shown['hold-out']['coverage']:.1%}, "
                f"{shown['hold-out']['width']:.1f} wide, mae {shown['hold-out']['mae']:.2f}"
            )
            print("  " + ", ".join(f"{day} {each['coverage']:.1%}" for day, each in shown["origins"].items()))
    folder = config.var_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "intervals.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"written: {folder / 'intervals.json'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
