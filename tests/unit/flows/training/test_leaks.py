"""A copy of the target among the features is told when its training is ordered, before anything is trained."""

from __future__ import annotations

import logging

import pytest

from rempart.flows.training.candidates import leaks
from rempart.flows.training.labelled import split
from rempart.flows.training.train import target_feature
from rempart.settings import config
from rempart.settings.config import Connection
from tests.unit.training import stage

PIPELINE = stage.pipeline()
COPIED = stage.table().set_column(
    stage.table().column_names.index("stay__lead"), "stay__lead", stage.table()["price"]
)  # declared known at the booking


def test_a_copy_of_the_target_is_told_in_the_log_of_the_order(caplog: pytest.LogCaptureFixture) -> None:
    loaded = config.load(config.project_root() / "rempart.yaml")
    platform = stage.platform_in_memory(loaded, lambda name: Connection(name, "aws"))
    with caplog.at_level(logging.WARNING):
        stage.ordered(platform, PIPELINE, stage.table())
        assert not caplog.text
        stage.ordered(platform, PIPELINE, COPIED)
    assert "stay__lead alone tells 100.0 % of price: the gate will refuse this model" in caplog.text


def test_what_a_person_allows_or_the_trainer_leaves_out_is_not_told() -> None:
    target, learn = target_feature(PIPELINE), split(PIPELINE, COPIED).learn
    ((name, share),) = leaks.suspects(PIPELINE, target, {}, learn)
    assert name == "stay__lead" and share > 0.999
    gate = {**stage.definition()["gate"], "rules": [{"kind": "leakage", "allow": [name]}]}
    assert leaks.suspects(stage.pipeline(gate=gate), target, {}, learn) == ()
    assert leaks.suspects(PIPELINE, target, {"leave_out": "stay__lead"}, learn) == ()


def test_a_trailing_feature_may_follow_the_target_closely() -> None:
    views = stage.definition()["features"]
    trailing = {"kind": "trailing", "by": ["agent"], "days": [7], "mean": ["price"]}
    pipeline = stage.pipeline(features={**views, "earlier": trailing})
    (name,) = (each for each in pipeline.model_inputs() if each.startswith("earlier__") and "mean" in each)
    others = [each for each in pipeline.model_inputs() if each.startswith("earlier__") and each != name]
    learn = split(PIPELINE, stage.table()).learn.append_column(name, split(PIPELINE, stage.table()).learn["price"])
    for other in others:
        learn = learn.append_column(other, learn["stay__lead"])
    assert leaks.suspects(pipeline, target_feature(pipeline), {}, learn) == ()
