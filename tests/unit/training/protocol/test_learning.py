"""A job with a validation part and back-tests, seen from inside: what its trainer gets, chooses and gives."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from rempart.errors import IntegrityError, TrainingError
from rempart.flows.training.explained import measured
from rempart.training import datasets, experiment
from rempart.training.attempts.interruption import Interrupted
from rempart.training.job import LEARNT, VALIDATED, Split
from rempart.training.protocol import splits
from rempart.training.trainers import gradient_boosting
from rempart.training.trainers.built_in import Validation
from tests.unit.training import stage
from tests.unit.training.at_step import AtStep
from tests.unit.training.attempts.test_resumption import Job, Killed

VALIDATION = {"last": "60d", "gap": "7d"}
EARLY = {"params": {"max_iter": 300, "learning_rate": 0.3, "max_features": 0.5, "early_stopping_rounds": 5}}


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch):
    def log(tracking, spec, features, metrics, files):
        hashes = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
        return experiment.Logged("run", "m-1", hashes)

    monkeypatch.setattr(experiment, "log", log)


SPY = """
import json, pathlib
from sklearn.linear_model import LinearRegression
import numpy as np

def fit(inputs, target, params, seed, validation=None):
    told = {"fit": sorted(map(float, target)), "fitted_on": len(inputs)}
    told["validation"] = None if validation is None else sorted(map(float, validation.target))
    with pathlib.Path(__file__).with_suffix(".log").open("a") as log:
        log.write(json.dumps(told | {"params": params}) + "\\n")
    if validation is not None:
        validation.choose(chosen=np.int64(7))
    return LinearRegression().fit(np.nan_to_num(inputs), target)
"""


@pytest.fixture
def spied(tmp_path, monkeypatch):
    """A trainer of the user's that notes what it was given, and what it noted."""
    (tmp_path / "include" / "trainers").mkdir(parents=True)
    (tmp_path / "include" / "trainers" / "spy.py").write_text(SPY)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))

    def noted():
        return [json.loads(line) for line in (tmp_path / "include/trainers/spy.log").read_text().splitlines()]

    return noted


def spy(**changes):
    return stage.pipeline(trainer={"use": "include/trainers/spy.py:fit"}, **changes)


def complete_rows():
    """Rows without nulls, since the spy's model takes none."""
    table = stage.table()
    return table.set_column(
        table.column_names.index("stay__nights"), "stay__nights", table["stay__nights"].fill_null(0)
    )


def prices(job, key):
    return sorted(map(float, datasets.decoded(job.site.read("lake", key))["price"].to_pylist()))


def test_a_trainer_sees_no_held_out_row_and_fits_on_no_validation_row_before_the_refit(spied):
    job = Job(spy(validation=VALIDATION), complete_rows())
    result = job.attempt()
    learn = prices(job, job.spec.dataset.key)
    held_out = prices(job, datasets.held_out_key(job.spec.pipeline, job.spec.dataset.held_out))
    first, second = spied()
    assert not set(held_out) & {*first["fit"], *first["validation"], *second["fit"]}
    assert not set(first["fit"]) & set(first["validation"])
    rows = datasets.decoded(job.site.read("lake", job.spec.dataset.key))
    parts = splits.validation(rows, job.spec.validation)  # the platform splits as the job did
    price = rows["price"].to_numpy()
    assert first["fit"] == sorted(price[parts.fit]) and first["validation"] == sorted(price[parts.measured])
    assert second == {"fit": learn, "fitted_on": len(learn), "validation": None, "params": {"chosen": 7}}
    assert result.rows == len(learn) and result.validation.chosen == {"chosen": 7}
    assert (result.validation.rows_fit, result.validation.rows) == (len(first["fit"]), len(first["validation"]))
    assert len(first["fit"]) + len(first["validation"]) < len(learn)  # the gap


def test_without_a_refit_the_model_that_was_validated_is_the_candidate(spied):
    result = Job(spy(validation={**VALIDATION, "refit": False}), complete_rows()).attempt()
    (only,) = spied()
    assert result.rows == only["fitted_on"] == result.validation.rows_fit and not result.validation.refit


def test_the_figures_of_validation_are_of_the_model_that_did_not_learn_from_it():
    figures = Job(stage.pipeline(validation=VALIDATION)).attempt().metrics
    again = Job(stage.pipeline(validation={**VALIDATION, "refit": False})).attempt().metrics
    assert {name for name in figures if name.startswith(VALIDATED)} == {"validation_mae", "validation_rmse"}
    assert figures["validation_mae"] == again["validation_mae"] > figures[f"{LEARNT}mae"]


def test_a_pipeline_without_validation_gives_no_such_figure():
    result = Job(stage.pipeline()).attempt()
    assert result.validation is None and not any(name.startswith(VALIDATED) for name in result.metrics)


def test_early_stopping_alone_validates_on_the_newest_share():
    job = Job(stage.pipeline(trainer=EARLY))
    assert job.spec.validation == Split(column="arrival", share=0.15)
    assert 1 <= job.attempt().validation.chosen["max_iter"] < 300


@pytest.fixture(params=["regression", "classification"])
def early(request):
    return stage.pipeline(task=request.param, trainer=EARLY, validation=VALIDATION)


def test_early_stopping_is_the_same_after_every_interruption(early):
    whole = Job(early)
    wanted = whole.attempt()
    chosen = wanted.validation.chosen["max_iter"]
    stopped = wanted.work.steps - chosen  # the first training's steps; the second has as many as were chosen
    assert 1 <= chosen <= stopped < 300 and stopped - chosen in (0, 5)
    for moment in (2, stopped, stopped + 1, stopped + chosen - 1):
        job = Job(early)
        with pytest.raises(Interrupted):
            job.attempt(AtStep(moment))
        again = job.attempt()
        assert job.model() == whole.model()
        assert (again.metrics, again.validation) == (wanted.metrics, wanted.validation)
        assert again.work.resumed_from == moment and again.work.steps == wanted.work.steps


def test_a_job_killed_between_the_two_trainings_gives_the_same_model(early):
    whole, job = Job(early), Job(early)
    wanted = whole.attempt()
    with pytest.raises(Killed):
        job.attempt(every=0.0, killed_at=wanted.work.steps - wanted.validation.chosen["max_iter"] + 1)
    again = job.attempt(every=0.0)
    assert job.model() == whole.model() and again.validation == wanted.validation


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_the_chosen_number_of_iterations_is_the_best_of_the_validation_part(task):
    random = np.random.default_rng(3)
    inputs = random.normal(size=(600, 3)).astype(np.float32)
    target = inputs[:, 0] + random.normal(0, 1, 600)
    if task == "classification":
        target = np.digitize(target, [-0.5, 0.5]).astype(float)
    fit, held = slice(0, 400), slice(400, None)
    params = {"max_iter": 200, "learning_rate": 0.2, "early_stopping_rounds": 8}
    given = Validation(inputs[held], target[held])
    model = gradient_boosting.fit(inputs[fit], target[fit], params, 1, task, 3, None, given)
    best = given.chosen["max_iter"]
    losses = []
    for number in range(1, best + 9):
        whole = gradient_boosting.fit(inputs[fit], target[fit], {**params, "max_iter": number}, 1, task, 3)
        if task == "regression":
            losses.append(((whole.predict(inputs[held]) - target[held]) ** 2).mean())
        else:
            chances = whole.predict_proba(inputs[held])
            losses.append(-np.log(chances[np.arange(200), target[held].astype(int)]).mean())
        if number == best:
            assert (whole.predict(inputs[held]) == model.predict(inputs[held])).all()
    assert int(np.argmin(losses)) + 1 == best


def test_a_class_that_only_the_validation_part_has_is_named():
    random = np.random.default_rng(3)
    inputs, target = random.normal(size=(60, 2)).astype(np.float32), np.repeat([0.0, 1.0, 2.0], 20)
    given = Validation(inputs[40:], target[40:])
    with pytest.raises(TrainingError, match="a class of the validation part has no row to fit on"):
        params = {"max_iter": 5, "early_stopping_rounds": 2}
        gradient_boosting.fit(inputs[:40], target[:40], params, 1, "classification", 3, None, given)


def test_a_back_test_trains_from_days_of_the_past_and_tells_mean_and_spread(spied):
    job = Job(spy(backtest={"origins": 3, "every": "30d", "gap": "5d"}), complete_rows())
    result = job.attempt()
    held_out = prices(job, datasets.held_out_key(job.spec.pipeline, job.spec.dataset.held_out))
    final, *past = spied()
    assert len(past) == 3 and not any(set(held_out) & set(each["fit"]) for each in past)
    assert [each["fitted_on"] for each in past] == [origin.rows_fit for origin in result.backtest]
    assert [origin.begins for origin in result.backtest] == sorted(origin.begins for origin in result.backtest)
    assert past[0]["fitted_on"] < past[-1]["fitted_on"] < final["fitted_on"]
    figures = [origin.metrics["mae"] for origin in result.backtest]
    assert result.metrics["backtest_mae_mean"] == pytest.approx(np.mean(figures))
    assert result.metrics["backtest_mae_spread"] == pytest.approx(np.std(figures, ddof=1))
    stored = json.loads(job.site.read("artifacts", job.spec.key("backtest.json")))
    assert [origin["metrics"]["mae"] for origin in stored] == figures
    assert job.site.read("artifacts", job.spec.key("backtest.png")).startswith(b"\x89PNG")


def test_a_back_test_with_validation_chooses_anew_at_each_origin(spied):
    Job(spy(backtest={"origins": 2, "every": "30d"}, validation={"share": 0.2}), complete_rows()).attempt()
    assert [each["validation"] is None for each in spied()] == [False, True] * 3


def test_what_was_measured_is_found_again_by_an_attempt_that_only_logs():
    job = Job(stage.pipeline(trainer=EARLY, backtest={"origins": 2, "every": "30d"}))
    first = job.attempt()
    job.site.delete("artifacts", job.spec.key("result.json"))
    again = job.attempt()
    assert (again.validation, again.backtest, again.metrics) == (first.validation, first.backtest, first.metrics)


def test_a_result_that_tells_of_other_rows_than_its_order_is_not_registered():
    job = Job(stage.pipeline(validation={**VALIDATION, "refit": False}, backtest={"origins": 2, "every": "30d"}))
    honest = job.attempt()
    measured.verify(job.site, job.spec, honest)
    told = honest.validation
    for lie in (
        {"rows": honest.rows + 1},
        {"validation": None},
        {"validation": told.model_copy(update={"refit": True})},
        {"validation": told.model_copy(update={"rows": job.spec.dataset.rows})},
        {"backtest": honest.backtest[:1]},
    ):
        with pytest.raises(IntegrityError, match="tells of other rows, or another way to measure itself"):
            measured.verify(job.site, job.spec, honest.model_copy(update=lie))


def test_parts_without_rows_are_refused_before_a_job_starts():
    with pytest.raises(TrainingError, match=r"The validation part from .* leaves 0 rows to fit on"):
        Job(stage.pipeline(validation={"last": "900d"}))
    with pytest.raises(TrainingError, match="The back-test from"):
        Job(stage.pipeline(backtest={"origins": 20, "every": "30d"}))


def test_another_way_to_validate_is_another_job():
    plain, early = Job(stage.pipeline()).spec, Job(stage.pipeline(validation=VALIDATION)).spec
    assert plain.dataset == early.dataset and plain.job_id != early.job_id
