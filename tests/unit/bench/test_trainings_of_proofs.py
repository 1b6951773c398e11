"""The parameters that proofs and the demo send to the training fit the trainer of the pipeline that they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import prove_operator_loss, slow_training
from rempart.cli.demo.demo_run import BAD_PARAMS
from rempart.flows.training import check_pipeline
from rempart.settings import config, pipelines


@pytest.mark.parametrize("linked", [True, False])
def test_a_project_of_a_proof_has_a_slow_trainer_and_this_project_keeps_its_own(tmp_path: Path, linked: bool) -> None:
    root = config.project_root()
    before = (root / "include/pipelines/hotel_bookings.yaml").read_text(encoding="utf-8")
    if linked:
        (tmp_path / "include").symlink_to(root / "include")
    else:
        (tmp_path / "include").mkdir()
    slow_training.declare(tmp_path)
    slow = pipelines.with_model(pipelines.load(tmp_path / "include/pipelines/hotel_bookings.yaml"))
    assert slow.trainer.use == "gradient_boosting"
    for params in (BAD_PARAMS, prove_operator_loss.LONG, {"max_iter": 3000, "l2_regularization": 1e-9}):
        check_pipeline.check_trainer(slow, params)
    assert not linked or (tmp_path / "include/rempart").is_dir()
    assert (root / "include/pipelines/hotel_bookings.yaml").read_text(encoding="utf-8") == before


def test_the_shipped_trainer_takes_the_parameters_of_the_demo() -> None:
    shipped = pipelines.with_model(pipelines.named("hotel_bookings"))
    for params in (BAD_PARAMS, {"num_iterations": 60, "lambda_l2": 1e-9}):
        check_pipeline.check_trainer(shipped, params)
