"""A job with costs of two classes: where its threshold comes from, and who answers and judges by it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from rempart.errors import IntegrityError
from rempart.flows.training.candidates import orders
from rempart.flows.training.explained import measured
from rempart.models import loading, onnx_format
from rempart.models.encoding import encode, features_of
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.isolated_model import IsolatedModel
from rempart.settings.pipeline import Gate, Validation
from rempart.training import datasets, evaluation, experiment, outputs
from rempart.training.job import Costs
from rempart.training.protocol import splits
from tests.unit.training import late
from tests.unit.training.attempts.test_resumption import Job

VALIDATION = {"share": 0.2}
ROWS = late.table(1200)


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch):
    def log(tracking, spec, features, metrics, files):
        return experiment.Logged("run", "m-1", {name: hashlib.sha256(body).hexdigest() for name, body in files.items()})

    monkeypatch.setattr(experiment, "log", log)


def deliveries(validation=VALIDATION, gate=None):
    made = late.pipeline()
    part = Validation.model_validate(validation) if validation else None
    return made.model_copy(update={"validation": part, "gate": Gate.model_validate(gate) if gate else made.gate})


def test_the_threshold_costs_least_on_the_validation_part_and_the_version_answers_by_it():
    pipeline = deliveries(validation={**VALIDATION, "refit": False})
    job = Job(pipeline, ROWS)
    assert job.spec.costs == Costs(positive=1, false_positive=1, false_negative=4)
    result = job.attempt()
    point = result.validation.operating
    rows = datasets.decoded(job.site.read("lake", job.spec.dataset.key))
    rows = rows.filter(splits.validation(rows, job.spec.validation).measured)
    matrix, is_late = encode(features_of(pipeline), rows), np.array(rows["late"].to_pylist())
    chance = onnx_format.run(onnx_format.open_session(job.model()), matrix, "classification", 2)[:, 1]

    def cost(threshold):
        taken = chance >= threshold
        return ((taken & ~is_late) + 4 * (~taken & is_late)).sum()

    assert point.positive == 1 and cost(point.threshold) == min(map(cost, np.linspace(0, 1, 500)))
    record = {"validation": result.validation.model_dump()}
    assert loading.operating_of(record) == point and loading.operating_of({"validation": None}) is None
    target, body = job.spec.target.feature(), IsolatedModel(job.model())
    seen = outputs.seen(job.spec)[0]
    model = loading.LoadedModel("m", "1", "classification", target, seen, (), "", body, operating=point)
    assert model.predict(rows)["prediction"].to_pylist() == [
        "true" if each >= point.threshold else "false" for each in chance
    ]
    found = evaluation.measure(job.spec, seen, model.figures, rows, pipeline.gate, operating=point)
    assert found.metrics["cost"] == pytest.approx(cost(point.threshold) / len(is_late))
    model.close()


def test_a_job_keeps_the_threshold_of_the_model_that_did_not_learn_from_the_part():
    alone = Job(deliveries(validation={**VALIDATION, "refit": False}), ROWS).attempt()
    job = Job(deliveries(), ROWS)
    again = job.attempt()
    assert again.validation.operating == alone.validation.operating
    measured.verify(job.site, job.spec, again)
    for lie in (None, OperatingPoint(positive=0, threshold=0.5)):
        told = again.validation.model_copy(update={"operating": lie})
        with pytest.raises(IntegrityError, match="another way to measure itself"):
            measured.verify(job.site, job.spec, again.model_copy(update={"validation": told}))


def test_nothing_is_chosen_without_costs_or_without_rows_to_choose_on():
    plain = {"metric": "pr_auc", "limit": 0.5, "baseline_by": []}
    assert orders.measuring(deliveries(gate=plain), {}).costs is None
    assert orders.measuring(deliveries(validation=None), {}).costs is None
    other = deliveries(gate={**plain, "positive": "false", "cost": {"false_positive": 2, "false_negative": 3}})
    assert orders.measuring(other, {}).costs == Costs(positive=0, false_positive=2, false_negative=3)
