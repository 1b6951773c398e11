"""A job with intervals, seen from inside: where the width comes from, and that it is the same after interruptions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from rempart.errors import IntegrityError, TrainingError
from rempart.flows.training.candidates import orders
from rempart.flows.training.explained import measured
from rempart.models import metrics, onnx_format
from rempart.models.encoding import encode, features_of
from rempart.models.intervals import conformal
from rempart.models.isolated_model import IsolatedModel
from rempart.training import datasets, evaluation, experiment, outputs
from rempart.training.attempts.interruption import Interrupted
from rempart.training.protocol import splits
from tests.unit.training import stage
from tests.unit.training.at_step import AtStep
from tests.unit.training.attempts.test_resumption import Job

VALIDATION = {"last": "60d"}


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch):
    def log(tracking, spec, features, metrics, files):
        return experiment.Logged("run", "m-1", {name: hashlib.sha256(body).hexdigest() for name, body in files.items()})

    monkeypatch.setattr(experiment, "log", log)


def trainer(method="conformal", coverage=0.8, **more):
    return {"params": {"max_iter": 20}, "intervals": {"coverage": coverage, "method": method}, **more}


def bounded(body, matrix):
    return onnx_format.run(onnx_format.open_session(body), matrix, "regression", 0, bounds=True)


@pytest.mark.parametrize("method", ["conformal", "scaled"])
def test_the_width_is_that_of_the_model_that_did_not_learn_from_the_validation_part(method):
    validated = Job(stage.pipeline(trainer=trainer(method), validation={**VALIDATION, "refit": False}))
    alone, whole = validated.attempt(), Job(stage.pipeline(trainer=trainer(method), validation=VALIDATION))
    result = whole.attempt()
    rows = datasets.decoded(whole.site.read("lake", whole.spec.dataset.key))
    matrix, price = encode(features_of(stage.pipeline()), rows), rows["price"].to_numpy()
    part = splits.validation(rows, whole.spec.validation).measured
    predicted = bounded(validated.model(), matrix[part])[:, 0]
    width = conformal.measure(price[part], predicted, 0.8, scaled=method == "scaled")
    assert result.validation.interval == alone.validation.interval == width
    made, lower, upper = bounded(whole.model(), matrix).T
    reach = width.factor * (np.maximum(np.abs(made), width.floor) if width.floor else 1.0)
    np.testing.assert_allclose(upper - made, made - lower, rtol=1e-4)
    np.testing.assert_allclose(upper - lower, 2 * reach * np.ones(len(made)), rtol=1e-4)
    assert not np.array_equal(made, bounded(validated.model(), matrix)[:, 0])  # trained again on all rows


def test_the_platform_measures_what_the_intervals_cover_on_rows_that_the_job_never_had():
    job = Job(stage.pipeline(trainer=trainer(), validation=VALIDATION))
    job.attempt()
    held_out = datasets.decoded(job.site.read("lake", datasets.held_out_key("stays_test", job.spec.dataset.held_out)))
    model = IsolatedModel(job.model())
    try:
        found = evaluation.measure(
            job.spec,
            outputs.seen(job.spec)[0],
            lambda matrix: model.run(matrix, "regression", 0),
            held_out,
            stage.pipeline().gate,
            bounded=lambda matrix: model.run(matrix, "regression", 0, bounds=True),
        )
    finally:
        model.close()
    price = metrics.target_values(job.spec.target.feature(), held_out)
    _, lower, upper = bounded(job.model(), encode(outputs.seen(job.spec)[0], held_out)).T
    assert 0.5 < found.metrics["coverage"] == pytest.approx(((lower <= price) & (price <= upper)).mean())
    assert found.metrics["width"] == pytest.approx((upper - lower).mean())


def test_a_back_test_tells_coverage_and_width_of_each_origin():
    job = Job(stage.pipeline(trainer=trainer(), validation={"share": 0.3}, backtest={"origins": 2, "every": "30d"}))
    result = job.attempt()
    covered = [origin.metrics["coverage"] for origin in result.backtest]
    assert result.metrics["backtest_coverage_mean"] == pytest.approx(np.mean(covered)) and min(covered) > 0.4
    assert result.metrics["backtest_width_mean"] > 0


def test_a_job_that_is_interrupted_while_it_trains_again_keeps_the_width():
    made = stage.pipeline(trainer=trainer(), validation=VALIDATION)
    whole, job = Job(made), Job(made)
    wanted = whole.attempt()
    with pytest.raises(Interrupted):
        job.attempt(AtStep(wanted.work.steps - 3))
    again = job.attempt()
    assert job.model() == whole.model() and again.validation == wanted.validation


def test_another_width_is_another_job_and_one_that_was_not_ordered_is_refused():
    plain, asked = (Job(stage.pipeline(trainer=t, validation=VALIDATION)) for t in ({}, trainer()))
    assert plain.spec.dataset == asked.spec.dataset
    scaled = Job(stage.pipeline(trainer=trainer("scaled"), validation=VALIDATION))
    assert len({plain.spec.job_id, asked.spec.job_id, scaled.spec.job_id}) == 3
    honest = asked.attempt()
    measured.verify(asked.site, asked.spec, honest)
    without = honest.validation.model_copy(update={"interval": None})
    with pytest.raises(IntegrityError, match="another way to measure itself"):
        measured.verify(asked.site, asked.spec, honest.model_copy(update={"validation": without}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trainer": trainer()}, "trainer.intervals: their width is measured on the validation part, and the file has"),
        (
            {"task": "classification", "trainer": trainer(), "validation": VALIDATION},
            "trainer.intervals: a classification predicts chances",
        ),
        ({"trainer": trainer(coverage=1.0), "validation": VALIDATION}, "trainer.intervals.coverage"),
        (
            {
                "gate": {
                    "metric": "mae",
                    "limit": 9,
                    "baseline_by": [],
                    "rules": [{"kind": "coverage", "at_least": 0.8}],
                }
            },
            "gate.rules, entry 1: it asks what intervals cover, and the model gives none",
        ),
    ],
)
def test_a_file_whose_intervals_cannot_be_made_is_refused(changes, told):
    with pytest.raises(ValidationError, match=told):
        stage.pipeline(**changes)


def test_a_run_without_the_validation_part_is_refused_before_a_job_starts():
    early = trainer(params={"max_iter": 20, "early_stopping_rounds": 5})
    made = stage.pipeline(trainer=early)
    orders.check(orders.measuring(made, made.trainer.params), stage.table())
    with pytest.raises(TrainingError, match="this run has none"):
        orders.check(orders.measuring(made, {"max_iter": 20}), stage.table())


def test_a_validation_part_of_too_few_rows_is_refused_before_a_job_starts():
    with pytest.raises(TrainingError, match=r"for a coverage of 0.99: the validation part has \d+ rows, and 99 are"):
        Job(stage.pipeline(trainer=trainer(coverage=0.99), validation={"last": "7d"}))
