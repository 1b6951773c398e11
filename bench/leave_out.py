"""Compare what the demo's trainer may leave out, on the validation part of the hotel bookings alone.

    make bench BENCH=leave_out      # about two minutes on two cores, without a stack

The rows, their features and the validation part are those of `make prove-search`, and so is the rule by which the
number of trees is chosen. The other parameters are those of include/pipelines/hotel_bookings.yaml. Each choice is
trained on the rows before the last 60 days, and measured on these days. No held-out row is read: the rows from
`holdout.start` on are dropped before anything is trained.

Each difference to the training that leaves nothing out is told with its 95 % interval over resampled rows. Trainings
with other seeds show what is chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.intervals import NAME, training_set
from bench.searching import FIXED, VALIDATED, Interval, interval
from rempart.flows.training import labelled
from rempart.flows.training.train import target_feature
from rempart.models import metrics, onnx_format
from rempart.models.encoding import encode, features_of
from rempart.settings import config, pipelines
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import read_yaml
from rempart.training.job import Split
from rempart.training.protocol import splits
from rempart.training.trainers import trainers
from rempart.training.trainers.built_in import Validation

NOTHING = "nothing"
GROUPS: Mapping[str, str] = {
    "the trailing means": "*_trend__*_mean_*",
    "all of the agent": "agent_trend__*",
    "all of the segment": "segment_trend__*",
    "all that trails": "*_trend__*",
}
OTHER_SEEDS = (8, 9, 10)


@dataclass(frozen=True)
class Choice:
    """What one training leaves out: a pattern as in `leave_out`, and the seed."""

    what: str
    pattern: str
    seed: int


@dataclass(frozen=True)
class Compared:
    """A choice with its mean absolute error on the validation part. `apart`: its difference to leaving nothing out."""

    choice: Choice
    features: int
    iterations: int
    mae: float
    apart: Interval | None


def choices(names: list[str], seed: int) -> Iterator[Choice]:
    """Yield the choices: nothing, groups of features, each feature alone, and nothing with other seeds. Pure."""
    yield Choice(NOTHING, "", seed)
    yield from (Choice(what, pattern, seed) for what, pattern in GROUPS.items())
    yield from (Choice(name, name, seed) for name in names)
    yield from (Choice(f"{NOTHING}, seed {other}", "", other) for other in OTHER_SEEDS)


def pipeline() -> ModelPipeline:
    """Return the shipped pipeline, whose trainer chooses its number of trees as in the search."""
    given = read_yaml(pipelines.pipelines_dir() / f"{NAME}.yaml")
    params = {**given["trainer"]["params"], **FIXED}
    return ModelPipeline.model_validate({**given, "trainer": {**given["trainer"], "params": params}})


def compared(made: ModelPipeline) -> Iterator[Compared]:
    """Train and measure each choice."""
    learn = labelled.split(made, training_set(made)).learn
    how = Split(column=made.holdout.column, last=int(VALIDATED.total_seconds()))
    parts = splits.validation(learn, how)
    truth = metrics.target_values(target_feature(made), learn)
    least: Any = None
    for choice in choices([feature.name for feature in features_of(made)], made.trainer.seed):
        given = {**made.trainer.params, "leave_out": choice.pattern}
        seen, params = trainers.left_out(features_of(made), given)
        inputs = encode(seen, learn)
        held = Validation(inputs[parts.measured], truth[parts.measured])
        fit = inputs[parts.fit], truth[parts.fit]
        use, check = made.trainer.use, held.inputs[:1000]
        model = trainers.train(use, *fit, params, choice.seed, "regression", check, 0, None, held, seen)
        predicted = onnx_format.run(onnx_format.open_session(model.body), held.inputs, "regression", 0)
        errors = np.abs(predicted - held.target)
        least = errors if choice.what == NOTHING else least
        apart = None if choice.what == NOTHING else interval(errors - least)
        yield Compared(choice, len(seen), next(iter(held.chosen.values())), float(errors.mean()), apart)


def told(found: Compared) -> str:
    """Return a line of the table."""
    apart = "" if found.apart is None else found.apart.told()
    return f"{found.choice.what:48} {found.features:3} {found.iterations:5} {found.mae:7.2f}  {apart}"


def main() -> None:
    print(f"{'left out':48} {'features':>3} trees     mae  difference (95 % interval)")
    found = []
    for each in compared(pipeline()):
        print(told(each), flush=True)
        found.append(asdict(each))
    folder = config.var_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leave_out.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"written: {folder / 'leave_out.json'}")


if __name__ == "__main__":
    main()
