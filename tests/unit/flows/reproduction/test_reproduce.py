"""A version is trained again from its evidence; what is not the same is told, and what is missing has a reason."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.cli.lifecycle import reproduce as command
from rempart.errors import IntegrityError, ModelRefused, ObjectMissing
from rempart.flows.reproduction import comparison, reproduce
from rempart.flows.shared import retirements
from rempart.flows.shared.platform import Platform
from rempart.flows.training.candidates.record import rows_on_record
from rempart.models import onnx_format
from rempart.models.onnx_format import MODEL_FILE
from rempart.settings import config
from rempart.training import datasets, evaluation, outputs, reproduction
from rempart.training.job import JobSpec
from tests.erasable import secrets_in_memory
from tests.unit.training import stage

PIPELINE = stage.pipeline(
    trainer={"params": {"max_iter": 5}, "seed": 3, "timeout": "3m"},
    gate={"metric": "smape", "limit": 1.0, "baseline_by": ["agent"], "baseline_margin": 0.1},
)


@dataclass
class World:
    """A platform in memory with one recorded version, whose job ran in this process."""

    platform: Platform
    spec: JobSpec
    record: dict[str, Any]

    def recorded(self, **changes: Any) -> None:
        self.platform.ledger.append("candidate", PIPELINE.name, {**self.record, **changes})

    def again(self, version: str = "1") -> comparison.Reproduction:
        return reproduce.reproduce(self.platform, PIPELINE, version)


def predicting(spec: JobSpec, made: outputs.Outputs) -> Callable[[Any], Any]:
    session = onnx_format.open_session(made.files[MODEL_FILE])
    return lambda matrix: onnx_format.run(session, matrix, spec.task, len(spec.target.values))


@pytest.fixture
def world(tmp_path: Path) -> World:
    platform = stage.platform_in_memory(config.load(), secrets_in_memory)
    platform.sites["haven"] = stage.memory_site()
    spec = stage.ordered(platform, PIPELINE, stage.table(300))
    site, place = platform.sites["primary"], spec.dataset
    rows = tmp_path / "rows.parquet"
    rows.write_bytes(site.read(place.bucket, place.key))
    made = reproduction.make(reproduction.ReproductionOrder(spec=spec, rows=str(rows), model=""))
    held_out = datasets.held_out_key(PIPELINE.name, place.held_out)
    rows_held_out = datasets.decoded(site.read(place.bucket, held_out))
    found = evaluation.measure(spec, outputs.seen(spec)[0], predicting(spec, made), rows_held_out, PIPELINE.gate)
    site.write(spec.output.bucket, spec.key("spec.json"), spec.to_json())
    record = {
        "name": PIPELINE.name,
        "version": "1",
        "job_id": spec.job_id,
        "files": {MODEL_FILE: hashlib.sha256(made.files[MODEL_FILE]).hexdigest()},
        "metrics": {**made.metrics, **found.metrics},
        "dataset": {
            "bucket": place.bucket,
            "key": place.key,
            "sha256": place.sha256,
            "held_out": rows_on_record(spec)["held_out"],
        },
    }
    return World(platform, spec, record)


def test_the_same_rows_seed_and_code_give_the_same_model(world: World) -> None:
    world.recorded()
    found = world.again()
    assert found.reproduced and found.identical and found.same_code
    assert {"mae", "rmse", "smape", "train_mae", "train_rmse"} == {figure.name for figure in found.figures}
    (kept,) = world.platform.ledger.find("reproduction", PIPELINE.name)
    assert kept.body["reproduced"] and kept.body["candidate"] == found.record_seq
    assert list(command.lines(found))[-1] == "model.onnx is the same, byte by byte"


def test_a_figure_that_nobody_can_repeat_is_told() -> None:
    compared = comparison.figures({"mae": 21.0, "rmse": 30.0, "f1": 1.0}, {"mae": 20.0, "rmse": 30.00001})
    found = comparison.Reproduction("stays_test", "1", 7, compared, "new", "old", "a", "b", 1.0)
    assert not found.reproduced and not found.same_code
    assert [figure.name for figure in found.figures if not figure.same] == ["f1", "mae"]
    assert list(command.lines(found)) == [
        "model stays_test version 1 (evidence 7) was trained again in 1.0 s; figures on record / now:",
        "  f1                       1 / missing  (DIFFERENT)",
        "  mae                      21 / 20  (DIFFERENT)",
        "  rmse                     30 / 30.00001  (the same)",
        "  its code was old, and is now new: the trainer or a library changed",
        "NOT reproduced: a figure differs by more than the tolerance",
    ]


def test_rows_that_an_erasure_replaced_are_not_trained_again(world: World) -> None:
    world.recorded()
    place = world.record["dataset"]
    gone = {"bucket": place["bucket"], "key": place["key"], "to": None}
    world.platform.ledger.append("erasure", PIPELINE.name, {"state": "done", "successors": [gone]})
    with pytest.raises(ObjectMissing, match="were erased since"):
        world.again()
    assert not world.platform.ledger.find("reproduction", PIPELINE.name)


def test_each_look_at_the_held_out_rows_is_evidence(world: World) -> None:
    world.recorded()
    world.again()
    (opening,) = world.platform.ledger.find("opening", PIPELINE.name)
    told = (opening.body["why"], opening.body["held_out"], opening.body["job_id"], opening.body["versions"])
    assert told == ("reproduction", world.spec.dataset.held_out, world.spec.job_id, ["1"])


def test_a_retired_version_is_not_made_again(world: World) -> None:
    world.recorded()
    world.platform.ledger.append("retirement", PIPELINE.name, retirements.body("1", "began", why="not needed"))
    with pytest.raises(ModelRefused, match="reproduce: version 1 of model stays_test was retired"):
        world.again()
    assert not world.platform.ledger.find("opening", PIPELINE.name)


def test_what_is_missing_or_replaced_is_named(world: World) -> None:
    world.recorded()
    with pytest.raises(ModelRefused, match="no evidence that model stays_test version 2"):
        world.again("2")
    site, order = world.platform.sites["primary"], world.spec.key("spec.json")
    other = world.spec.model_dump(mode="json") | {"job_id": "", "snapshot": "s2", "code_version": "another"}
    site.write(world.spec.output.bucket, order, JobSpec.model_validate(other).to_json())
    with pytest.raises(IntegrityError, match="the order of another job"):
        world.again()
    site.write(world.spec.output.bucket, order, world.spec.to_json())
    place = world.record["dataset"]["held_out"]
    whole = site.read(place["bucket"], place["key"])
    site.write(place["bucket"], place["key"], b"replaced")
    with pytest.raises(ObjectMissing, match=r"no site gives its training set, .*held-out/"):
        world.again()
    world.platform.sites["haven"].write(place["bucket"], place["key"], whole)
    assert world.again().reproduced  # from the replica


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(0, 0.5))
def test_a_figure_is_the_same_both_ways_and_never_if_it_is_not_finite(
    first: float, second: float, tolerance: float
) -> None:
    forward, backward = (
        comparison.RepeatedFigure("mae", *pair, tolerance) for pair in ((first, second), (second, first))
    )
    assert forward.same == backward.same
    assert not forward.same or (math.isfinite(first) and math.isfinite(second))
    assert comparison.RepeatedFigure("mae", first, None, tolerance).same is False
