"""Define the contract between the component that orders a training and its job: a spec goes in, a result comes out, as
JSON.

A spec holds everything that a job needs except secrets, which it resolves by name. Its id is derived from the fields
that determine the outcome, so equal orders are the same job, and a finished job is reused.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from rempart import canonical_json
from rempart.canonical_json import LARGEST
from rempart.errors import TrainingError
from rempart.models.encoding import Feature, FeatureType
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.inputs import Input
from rempart.models.intervals.conformal import Width
from rempart.settings.columns import ColumnType
from rempart.settings.learning import Intervals, Trainer
from rempart.settings.schema import Strict
from rempart.settings.sections import Classification
from rempart.sovereignty.job_contract import Contract
from rempart.sovereignty.job_permission import SHA256, JobSite, Permission
from rempart.training.gpus.usage import GpusUse

VERSION: Literal[5] = 5
"""Version of the contract. The orderer of a job and the image that runs it must agree on it."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The running Python version. Another one may have other versions of the locked libraries."""
Param = bool | int | float | str


class FeatureSpec(Strict):
    """One model input, or the target. `definition`: digest of what an input is made of."""

    name: str
    type: FeatureType
    values: tuple[str, ...] = ()
    definition: str = ""

    def feature(self) -> Feature:
        return Feature(self.name, self.type, self.values, self.definition)

    @classmethod
    def of(cls, feature: Feature) -> Self:
        return cls(name=feature.name, type=feature.type, values=feature.values, definition=feature.definition)


class InputSpec(Strict):
    """One column of the source that features are made of, for the signature in MLflow."""

    name: str
    type: ColumnType
    nullable: bool = False
    values: tuple[str, ...] = ()

    def input(self) -> Input:
        return Input(self.name, self.type, self.nullable, self.values)

    @classmethod
    def of(cls, column: Input) -> Self:
        return cls(name=column.name, type=column.type, nullable=column.nullable, values=column.values)


class Dataset(Strict):
    """The rows to learn from: one Parquet object, `rows` of them.

    `held_out`: SHA-256 of the held-out rows; `examples`: of their keys and targets alone, which stays the same if the
    features change. A job gets neither these rows nor the right to read them.
    """

    site: JobSite
    bucket: str
    key: str
    sha256: str = Field(pattern=SHA256)
    rows: int = Field(ge=1)
    held_out: str = Field(pattern=SHA256)
    examples: str = Field(pattern=SHA256)


class TrainerSpec(Strict):
    """A trainer with its parameters. `intervals`: those that the model gives beside its predictions."""

    use: str
    params: dict[str, Param] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=-LARGEST, le=LARGEST)
    intervals: Intervals | None = None

    @classmethod
    def of(cls, trainer: Trainer, params: Mapping[str, Param]) -> Self:
        """Return a pipeline's trainer with other parameters."""
        return cls(use=trainer.use, params=dict(params), seed=trainer.seed, intervals=trainer.intervals)


class Split(Strict):
    """How a job splits its rows into those that it fits on, and those that it validates on.

    With `column` the newest are validated on: those of the `last` seconds, or a `share`. `gap`: seconds before them
    whose rows count on neither side. A row to fit on whose target became known (column `known_at`) after they begin is
    left out, too. Without `column` a `share` of the groups that the columns `by` name, within each class of `stratify`
    if given. `zone`: where a day begins. `refit`: whether the model is then trained on all rows.

    `stop_if_worse`: of a trial of a search, pairs of an iteration and a loss. The job tells its loss on the validation
    part at some iterations, and ends the training at one of these where its smallest loss so far is greater. None: it
    tells no loss.
    """

    column: str | None = None
    last: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, gt=0, le=0.5)
    gap: int = Field(default=0, ge=0)
    by: tuple[str, ...] = ()
    stratify: str | None = None
    known_at: str | None = None
    zone: str = "UTC"
    refit: bool = True
    stop_if_worse: tuple[tuple[int, float], ...] | None = None


class Origins(Strict):
    """From which moments of the past a job also trains: `origins` of them, `every` so many seconds, back from the
    newest row. Each is measured on the rows up to the next. The other fields are those of `Split`; `window`: seconds
    before an origin that it learns from.
    """

    column: str
    origins: int = Field(ge=1)
    every: int = Field(ge=1)
    gap: int = Field(default=0, ge=0)
    window: int | None = Field(default=None, ge=1)
    known_at: str | None = None
    zone: str = "UTC"


class Costs(Strict):
    """What a wrong answer costs of two classes, of which `positive` is the position of the one that is looked for."""

    positive: int = Field(ge=0, le=1)
    false_positive: float = Field(ge=0)
    false_negative: float = Field(ge=0)


class Tracking(Strict):
    """The MLflow server and experiment of the job."""

    connection: str
    experiment: str
    tags: dict[str, str] = Field(default_factory=dict)


class Output(Strict):
    """Location of the job's files."""

    site: JobSite
    bucket: str
    prefix: str = Field(pattern=r"/$")


class JobLabels(Strict):
    """Labels that another pipeline delivered: its snapshot, and the rows of the training set's pipeline by the state of
    their label.
    """

    pipeline: str
    snapshot: str
    rows: dict[str, int]


class JobSpec(Strict):
    """One training job, version 5 of the contract. `processes`: on each of its `nodes`, one for each GPU, which share
    the training. `used`: snapshot of each pipeline whose feature views the training set has.

    `permission` is written for each attempt (rempart.training.permission) and is no part of the job's identity. Neither
    is `python`, the orderer's version: where it matters, the code's version differs too. `inputs` only describe the
    model. `costs`: by which its operating point is chosen on the validation part.
    """

    version: Literal[5] = VERSION
    job_id: str = ""
    pipeline: str
    classification: Classification
    task: Literal["regression", "classification"]
    target: FeatureSpec
    features: tuple[FeatureSpec, ...] = Field(min_length=1)
    inputs: tuple[InputSpec, ...] = ()
    dataset: Dataset
    trainer: TrainerSpec
    validation: Split | None = None
    backtest: Origins | None = None
    costs: Costs | None = None
    nodes: int = Field(default=1, ge=1)
    processes: int = Field(default=1, ge=1, le=64)
    tracking: Tracking
    output: Output
    snapshot: str
    labels: JobLabels | None = None
    used: dict[str, str] = Field(default_factory=dict)
    code_version: str
    python: str = Field(default=PYTHON, pattern=r"^3\.\d{1,3}$")
    permission: Permission | None = None

    @model_validator(mode="after")
    def _id_is_its_own(self) -> Self:
        wanted = self.identity()
        if not self.job_id:
            object.__setattr__(self, "job_id", wanted)
        elif self.job_id != wanted:
            raise ValueError(f"job_id: the spec's content has the id {wanted}, so it was altered")
        return self

    def identity(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of all that determines the outcome."""
        determining = {
            "version": self.version,
            "pipeline": self.pipeline,
            "task": self.task,
            "target": self.target.model_dump(),
            "features": [feature.model_dump() for feature in self.features],
            "dataset": self.dataset.sha256,
            "held_out": self.dataset.held_out,
            "trainer": self.trainer.model_dump(),
            "code": self.code_version,
        }
        for name in ("validation", "backtest", "costs"):
            if (how := getattr(self, name)) is not None:
                determining[name] = how.model_dump()
        if self.size > 1:  # sums over processes round otherwise than one process's, wherever they run
            determining["nodes"] = self.size
        return hashlib.sha256(canonical_json.encode(determining)).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Return the number of processes on all nodes together."""
        return self.nodes * self.processes

    def key(self, name: str) -> str:
        """Return the object key of one of the job's files."""
        return f"{self.output.prefix}{self.job_id}/{name}"

    def to_json(self) -> bytes:
        return canonical_json.encode(self.model_dump(mode="json"))


class Work(Strict):
    """Work for a model, in trainer steps (iterations, updates); all 0 for a trainer that counts none.

    `steps`: of the finished model, and of the training that validation measured; `done_here`: of the attempt with the
    result; `resumed_from`: the step it continued from; `total_over_attempts`: of all attempts, as far as checkpoints
    tell. Work of a killed attempt after its last checkpoint is unknown, so the total is then a lower bound.
    """

    steps: int = Field(default=0, ge=0)
    done_here: int = Field(default=0, ge=0)
    resumed_from: int = Field(default=0, ge=0)
    total_over_attempts: int = Field(default=0, ge=0)


LEARNT = "train_"
"""Begins the name of a metric on rows that the model learned from."""
VALIDATED, BACKTESTED = "validation_", "backtest_"
"""Begin the names of metrics on the validation part, and over the origins of a back-test."""
BACKTEST_FILE = "backtest.json"
"""File of a job and artifact of its run: each origin of its back-test, with its metrics."""
DIFFERENCE = "onnx_difference"
"""Largest difference between the predictions of the ONNX model and of the trainer's own."""


class Validated(Strict):
    """How a job validated. `begins`: first day or instant of the part, if by time. `chosen`: parameters that it chose,
    such as the number of iterations. `refit`: whether the model was then trained on all rows. `interval`: the measured
    width. `operating`: from which chance on it answers with the positive class. `curve`: a trial's smallest loss so
    far, at some iterations; `stopped_at`: the iteration at which `stop_if_worse` ended it.
    """

    rows_fit: int = Field(ge=1)
    rows: int = Field(ge=1)
    begins: str | None = None
    chosen: dict[str, Param] = Field(default_factory=dict)
    refit: bool
    interval: Width | None = None
    operating: OperatingPoint | None = None
    curve: tuple[tuple[int, float], ...] = ()
    stopped_at: int | None = None


class Origin(Strict):
    """A training from a moment of the past, and its metrics on the `rows` after it."""

    begins: str
    rows_fit: int = Field(ge=1)
    rows: int = Field(ge=1)
    metrics: dict[str, float]


class JobResult(Strict):
    """Result of a job. `files`: SHA-256 of its objects at the site; `model_files`: of the model's files in MLflow.

    `metrics`: on rows that it learned from (`train_mae`), or was given to validate on (`validation_mae`), and over
    back-tests; the platform measures the held-out rows. `rows`: those that it learned from.
    `made_with`: what the trainer ran on, if reported (PyTorch: version, device, precision). `gpus`: those that its
    processes saw, and their use while it trained. `decision`: the digest of the policy's decision in the job's spec.
    """

    version: Literal[5] = VERSION
    job_id: str
    status: Literal["succeeded"]
    metrics: dict[str, float] = Field(min_length=1)
    files: dict[str, str]
    model_files: dict[str, str]
    run_id: str = Field(min_length=1)
    model_id: str = Field(min_length=1)
    seconds: dict[str, float]
    rows: int = Field(ge=1)
    work: Work = Field(default_factory=Work)
    made_with: dict[str, str] = Field(default_factory=dict)
    gpus: GpusUse = GpusUse()
    validation: Validated | None = None
    backtest: tuple[Origin, ...] = ()
    decision: str = Field(pattern=SHA256)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if bad := sorted(name for name, value in self.metrics.items() if not math.isfinite(value)):
            raise ValueError(f"metrics.{bad[0]} is not a finite number")
        for name in self.metrics:  # a job measures no held-out row, and takes no name that stands for such a figure
            if not name.startswith((LEARNT, VALIDATED, BACKTESTED)) and name != DIFFERENCE:
                raise ValueError(
                    f"metrics: a name is neither {DIFFERENCE} nor begins with {LEARNT}, {VALIDATED} or {BACKTESTED}"
                )
        if "model.onnx" not in self.files or self.files["model.onnx"] != self.model_files.get("model.onnx"):
            raise ValueError("files: model.onnx is missing, or differs between the site and MLflow")
        return self

    def to_json(self) -> bytes:
        return canonical_json.encode(self.model_dump(mode="json"))


_CONTRACT = Contract(
    VERSION,
    TrainingError,
    "Build the trainer's image from the version of Rempart that orders the jobs (`make images`), and name it in "
    "training.image.",
)


def parse_spec(body: bytes | str) -> JobSpec:
    """Return a spec from JSON. Raises TrainingError with each fault."""
    hint = f"Make the spec with rempart.training.job.JobSpec, version {VERSION}."
    return _CONTRACT.read("the job spec", JobSpec, body, hint)


def parse_result(body: bytes | str, job_id: str) -> JobResult:
    """Return a result from JSON. Raises TrainingError if it is malformed, not finite or another job's."""
    hint = "Delete the job's result.json and run the training again."
    result = _CONTRACT.read(f"the result of job {job_id}", JobResult, body, hint)
    if result.job_id != job_id:
        raise TrainingError(f"read the result of job {job_id}: it belongs to job {result.job_id[:40]}", hint)
    return result
