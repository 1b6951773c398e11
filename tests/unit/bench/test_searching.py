"""The proofs of searches: the project that they make, the plain script's matrix, and the interval of an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bench import searching
from rempart.settings import pipelines
from rempart.settings.pipelines import with_model


def test_the_project_has_a_valid_pipeline_whose_training_starts_by_hand_alone(tmp_path: Path) -> None:
    searching.project(tmp_path / "home", trials=6, at_once=3)
    found = with_model(pipelines.load(tmp_path / "home" / "include" / "pipelines" / f"{searching.PIPELINE}.yaml"))
    assert found.trainer.use == "lightgbm" and found.trainer.search and found.trainer.search.trials == 6
    assert set(found.trainer.search.params) == set(searching.SPACE) and not found.retrain.on_features
    assert found.validation and found.validation.last == searching.VALIDATED and found.schedules.train is None


def test_an_interval_holds_its_mean_and_is_narrow_where_rows_are_equal() -> None:
    errors = np.abs(np.random.default_rng(1).normal(size=400))
    found = searching.interval(errors)
    assert found.value == pytest.approx(errors.mean()) and found.low < found.value < found.high
    assert searching.interval(np.full(50, 2.5)) == searching.Interval(2.5, 2.5, 2.5)
    assert found == searching.interval(errors), "equal errors, equal interval"


def test_the_scripts_matrix_has_nulls_as_nan_and_categories_as_codes() -> None:
    table = pa.table({"n": pa.array([1, None]), "b": pa.array([True, False]), "c": pa.array(["y", None])})
    made = searching._matrix(table, ["n", "b", "c"], {"c": ["x", "y"]})
    np.testing.assert_array_equal(made, [[1.0, 1.0, 1.0], [np.nan, 0.0, np.nan]])
