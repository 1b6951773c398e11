"""The ends of intervals are in every answer: the table of a scoring, the scorer's answers, files, the signature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rempart.flows.prediction import files, scorings
from rempart.flows.prediction import score as flow
from rempart.flows.prediction.champion import Champion
from rempart.flows.serving.answering import AnsweringVersion
from rempart.flows.serving.stored_features import StoredFeatures
from rempart.models.encoding import encode, features_of
from rempart.models.intervals.conformal import Width
from rempart.models.intervals.graph import with_bounds
from rempart.models.predictions import ENDS, PREDICTION
from rempart.serving.scorer import open_inference
from rempart.training import experiment
from rempart.training.trainers import trainers
from tests.unit.flows.prediction import scored_stays
from tests.unit.flows.prediction.scored_stays import NAME, NOW, PIPELINE, stays
from tests.unit.flows.prediction.test_champion import raw
from tests.unit.training import stage
from tests.unit.training.attempts.test_resumption import Job

WIDTH = Width(coverage=0.9, rows=50, factor=7.0)
COLUMNS = [PREDICTION, *ENDS]


@pytest.fixture(scope="module")
def champion() -> Champion:
    table = stage.table(80)
    matrix, truth = encode(features_of(PIPELINE), table), table["price"].to_numpy()
    body = trainers.train("gradient_boosting", matrix, truth, {"max_iter": 3}, 1, "regression", matrix, 0).body
    found = scored_stays.champion_with(with_bounds(body, WIDTH, matrix))
    return replace(found, model=replace(found.model, coverage=0.9))


def test_the_table_of_a_scoring_has_the_ends_beside_the_prediction(champion: Champion, monkeypatch) -> None:
    world = scored_stays.made(monkeypatch)
    monkeypatch.setattr(flow, "champion_of", lambda platform, pipeline: champion)
    world.deliver("one", stays(60))
    world.score(since="2020-01-01", until="2030-01-01")
    found = world.rows()
    assert [name for name in found.column_names if name in COLUMNS] == COLUMNS
    made, lower, upper = (found[name].to_numpy() for name in COLUMNS)
    np.testing.assert_allclose(made - lower, 7.0, rtol=1e-4)
    np.testing.assert_allclose(upper - made, 7.0, rtol=1e-4)
    (scoring,) = world.all()
    assert [scoring.columns[name].type for name in COLUMNS] == ["number"] * 3


def test_a_file_of_predictions_has_the_ends(champion: Champion, tmp_path) -> None:
    batches = [champion.predict(raw(stage.table(20)))]
    assert files.write(batches, tmp_path / "out.csv") == 20
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == ",".join(f'"{name}"' for name in COLUMNS)
    for name in ENDS:
        assert files.key_column(name) == scorings.key_column(name) == f"key_{name}"


def test_the_scorer_answers_with_the_ends_in_both_protocols(champion: Champion) -> None:
    version = AnsweringVersion(champion.model, PIPELINE, StoredFeatures(lambda: None, PIPELINE), lambda: NOW)
    table = raw(stage.table(5))
    rows = [tuple(row[each.name] for each in version.inputs) for row in table.to_pylist()]
    answered = version.answer(rows)
    for output, wanted in zip(answered.outputs, champion.predict(table).to_pylist(), strict=True):
        assert output == pytest.approx(wanted)
    told = open_inference.model(NAME, "7", version.inputs, version.outputs)
    assert [(each["name"], each["datatype"]) for each in told["outputs"]] == [(name, "FP64") for name in COLUMNS]
    ids = [f"{place:032x}" for place in range(5)]
    sent = open_inference.answer(NAME, "7", "", version.sha256, ids, answered.outputs, version.outputs)
    by_name = {each["name"]: each["data"] for each in sent["outputs"]}
    assert list(by_name) == COLUMNS and by_name[ENDS[0]] == [output[ENDS[0]] for output in answered.outputs]


def test_the_signature_in_mlflow_tells_the_ends_of_a_model_that_gives_them() -> None:
    trainer = {"params": {"max_iter": 5}, "intervals": {}}
    asked = Job(stage.pipeline(trainer=trainer, validation={"last": "60d"})).spec
    plain = Job(stage.pipeline(trainer={"params": {"max_iter": 5}})).spec
    assert experiment._signature(asked).outputs.input_names() == COLUMNS
    assert experiment._signature(plain).outputs.input_names() == [PREDICTION]
