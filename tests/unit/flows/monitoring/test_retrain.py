"""From a red verdict to a training and what came of it, on a ledger: what starts, what does not, and what is told."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.cli import run_follow
from rempart.errors import PipelineError
from rempart.flows.monitoring import retrain
from rempart.flows.training import check_pipeline
from rempart.ledger.attributed import AttributedLedger, Writer
from rempart.ledger.memory import MemoryLedger
from rempart.monitoring import retraining
from rempart.monitoring.retraining import TrainingDecision
from rempart.orchestration import run_notes
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import named, with_model
from tests.cockpit import NOW

SHIPPED = with_model(named("hotel_bookings"))
NAME = SHIPPED.name


def learning(**keys: Any) -> ModelPipeline:
    """The shipped pipeline with another section `retrain`; `holdout` and `gate` may be given, too."""
    others = {name: keys.pop(name) for name in ("holdout", "gate") if name in keys}
    rules = {"on_drift": True, "on_features": False} | keys
    given = SHIPPED.model_dump(mode="json", by_alias=True, include={"gate"})
    again = type(SHIPPED.retrain).model_validate(rules)
    holdout = type(SHIPPED.holdout).model_validate(
        {"column": "arrival_date", "last": "90d"} | others.get("holdout", {})
    )
    gate = type(SHIPPED.gate).model_validate(given["gate"] | others.get("gate", {}))
    return SHIPPED.model_copy(update={"retrain": again, "holdout": holdout, "gate": gate})


class World:
    """A ledger, and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW
        self.ledger = MemoryLedger(clock=lambda: self.now)
        self.platform: Any = SimpleNamespace(ledger=self.ledger, clock=lambda: self.now, writer=None)

    def in_run(self, run: str | None) -> None:
        """Let the next calls be those of a task of a DAG run."""
        self.platform.writer = writer = Writer(f"train_{NAME}", run, "decide_training") if run else None
        self.platform.ledger = AttributedLedger(self.ledger, writer) if writer else self.ledger

    def promoted(self, version: str) -> None:
        self.ledger.append("promotion", NAME, {"version": version, "previous": None, "reasons": []})

    def verdict(self, outcome: str = "red", version: str = "3") -> int:
        return self.ledger.append("monitoring", NAME, {"outcome": outcome, "version": version}).seq

    def decide(self, *started_by: str, pipeline: ModelPipeline | None = None) -> TrainingDecision:
        return retrain.decide(self.platform, pipeline or learning(), started_by=started_by)

    def records(self) -> list[dict[str, Any]]:
        return [dict(record.body) for record in self.ledger.find("retraining", NAME)]


def test_the_world_moves_and_the_champion_learns_again() -> None:
    world = World()
    assert world.decide("features").train  # no champion yet
    world.promoted("3")
    declined = world.decide("features")
    assert declined == TrainingDecision(False, "version 3 is champion, and `retrain.on_features` is off")
    assert not world.decide("drift").train and not world.records()
    seq = world.verdict()
    decision = world.decide("drift")
    assert decision == TrainingDecision(True, f"verdict {seq} on version 3 is red", seq)
    assert world.decide("drift") == decision  # a cleared task
    assert world.records() == [{"verdict": seq, "champion": "3", "version": None}]
    retrain.trained(world.platform, NAME, seq, "4")
    retrain.trained(world.platform, NAME, seq, "4")
    assert world.records()[0] == {"verdict": seq, "champion": "3", "version": "4"} and len(world.records()) == 2
    world.ledger.append("refusal", NAME, {"version": "4", "reasons": ["refused: mae 26 is above 25"], "verdict": seq})

    world.now += timedelta(days=1)
    world.verdict()
    again = world.decide("drift")
    assert not again.train and "the cool-down ends on 2026-03-08" in again.why
    assert run_notes.note({"decide_training": vars(again)}, {}) == f"Rempart: Nothing was trained: {again.why}."
    found = retraining.not_better(
        world.ledger.find("retraining"), world.ledger.find("refusal"), world.ledger.find("monitoring")
    )
    assert found is not None and found.reasons == ("refused: mae 26 is above 25",)

    world.now += timedelta(days=7)
    later = world.verdict()
    assert world.decide("drift", "features").verdict == later
    note = run_notes.note({"decide_training": vars(world.decide("drift"))}, {})
    assert note == f"Rempart: Training was started by drift: verdict {later} on version 3 is red."


def test_a_task_that_was_killed_after_its_record_goes_on_although_a_newer_verdict_came() -> None:
    world = World()
    world.promoted("3")
    seq = world.verdict()
    first, other = (f"asset_triggered__2026-03-01T12:00:0{n}.000001+00:00_ab12cd34" for n in range(2))
    world.in_run(first)
    assert world.decide("drift").verdict == seq
    world.now += timedelta(minutes=1)
    newer = world.verdict()
    assert world.decide("drift") == TrainingDecision(True, f"verdict {seq} started this run", seq)
    world.in_run(other)
    declined = world.decide("drift")
    assert not declined.train and f"verdict {newer} is red, but verdict {seq} started a training" in declined.why
    world.in_run(None)  # a program without a run starts no second training either
    assert not world.decide("drift").train and len(world.records()) == 1


def test_people_and_times_always_train_and_do_not_count() -> None:
    world = World()
    world.promoted("3")
    world.verdict()
    assert world.decide() == TrainingDecision(True) and not world.records()
    assert run_notes.note({"decide_training": vars(world.decide())}, {}) is None


def test_new_features_are_trained_on_although_drift_may_not_start_a_training() -> None:
    world, both = World(), learning(on_features=True)
    world.promoted("3")
    assert world.decide("drift", "features", pipeline=both) == TrainingDecision(True)
    seq = world.verdict()
    assert world.decide("drift", "features", pipeline=both).verdict == seq
    world.verdict("green")
    assert world.decide("drift", "features", pipeline=both) == TrainingDecision(True)
    assert not world.decide("drift", pipeline=both).train


def test_records_from_before_a_removal_do_not_count() -> None:
    world = World()
    world.promoted("3")
    world.decide("drift") if world.verdict() else None
    world.ledger.append("removal", NAME, {"what": "remove", "state": "done"})
    world.promoted("3")
    seq = world.verdict()
    assert world.decide("drift").verdict == seq


def test_a_hold_out_that_never_moves_is_refused_where_drift_trains() -> None:
    check_pipeline.check_retraining(learning())
    fixed = learning(holdout={"last": None, "start": "2017-06-01"})
    with pytest.raises(
        PipelineError, match=r"retrain.on_drift: the hold-out starts on the fixed day 2017-06-01"
    ) as told:
        check_pipeline.check(fixed, thorough=False)
    assert "last: 90d" in told.value.hint
    check_pipeline.check(SHIPPED, thorough=False)


def test_what_may_surprise_is_a_warning() -> None:
    assert check_pipeline.warnings(SHIPPED) == [] and check_pipeline.warnings(learning()) == []
    (features,) = check_pipeline.warnings(learning(on_features=True))
    assert features.startswith("retrain.on_drift: each load of the features is trained on already")
    (limit,) = check_pipeline.warnings(learning(gate={"baseline_margin": 0}))
    assert limit.startswith("gate.limit: it is absolute")


def test_a_persons_run_starts_the_training_that_the_assets_would_skip() -> None:
    assert run_follow.by_hand(learning()) == {"train"} and run_follow.by_hand(SHIPPED) == frozenset()
    assert run_follow.by_hand(learning(on_features=True)) == frozenset()
