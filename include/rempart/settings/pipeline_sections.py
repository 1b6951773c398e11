"""Sections of the pipeline file: expectations, a lowered classification, schedules. Also `spark` of rempart.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from rempart.settings.schema import Duration, Strict
from rempart.settings.sections import Classification


class Expectation(Strict):
    """A Great Expectations expectation on rows; a row that breaks it is quarantined. Other keys are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    expect: str = Field(
        pattern=r"^expect_[a-z_]+$",
        description=("Name of the expectation, such as expect_column_values_to_be_between."),
    )
    reason: str = Field(
        description=(
            "Reason that the quarantine gives for a row that breaks the expectation. It "
            "must contain no value of the row."
        )
    )

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


Part = Literal["model", "data"]
"""What may count as less protected: the model, or the rows of a derived pipeline."""


class Lowered(Strict):
    """A derived kind of data with a lower classification, and the ledger's record of the judgement."""

    to: Classification
    evidence: int = Field(
        ge=1, description="Number of the ledger record that `rempart policy lower-classification` wrote."
    )


class Schedules(Strict):
    """When the DAGs of the pipeline start: at times (cron, UTC), or when a file lands.

    A new platform waits for the next time; without an expression the DAG starts by asset or REST.
    """

    ingest: str | None = None
    train: str | None = None
    score: str | None = None
    monitor: str | None = Field(
        default="30 6 * * *", description="When the champion is watched; `null`: only by hand or REST."
    )
    on_delivery: bool = Field(
        default=False,
        description=(
            "Start ingestion when a file lands under `source.prefix` (kind `files` without `site`): within ten seconds,"
            " or about a minute while more files come. A run under way ends first."
        ),
    )

    @field_validator("ingest", "train", "score", "monitor")
    @classmethod
    def _is_cron(cls, expression: str | None) -> str | None:
        from croniter import croniter

        # Airflow checks it only after the DAG file was read, and would then drop every DAG of that file
        if expression is not None and not croniter.is_valid(expression):
            raise ValueError(f"'{expression}' is not a cron expression: write five fields, such as \"0 4 * * *\"")
        return expression

    def of_a_model(self) -> Iterator[str]:
        """Yield that a pipeline without a model has a time for what only a model needs."""
        for name in sorted(self.model_fields_set & {"train", "score", "monitor"}):
            if getattr(self, name):
                yield f"schedules.{name}: the pipeline has no model; declare features, prediction, holdout and gate"


Engine = Literal["duckdb", "spark"]
"""What ingests deliveries and joins training sets: DuckDB on this machine, or Spark on several executors."""


class SparkResources(Strict):
    """What a Spark job may use. Rows that do not fit in memory are written to disk."""

    executors: int = Field(default=2, ge=1, le=64, description="Number of executors: processes, or pods in a pool.")
    cores: int = Field(default=1, ge=1, le=32, description="Tasks that one executor runs at the same time.")
    memory: int = Field(default=2048, ge=512, le=1 << 20, description="Memory of one executor in MiB.")
    driver_memory: int = Field(default=1024, ge=512, le=1 << 20, description="Memory of the driver in MiB.")


class SparkSettings(SparkResources):
    """What a Spark job may use, with `engine: spark`, and for how long."""

    timeout: Duration = Field(
        default="4h", validate_default=True, description="Maximum duration of one job. After it the job fails."
    )

    @property
    def resources(self) -> SparkResources:
        """Return what a job is told of its resources."""
        return SparkResources(**self.model_dump(exclude={"timeout"}))


class SparkJobs(Strict):
    """Where Spark jobs run: on the machine of their task, or in pods of a pool."""

    backend: Literal["local", "kubernetes"] = Field(
        default="local",
        description="`local`: processes on the machine of the task. `kubernetes`: a driver and executors in pods.",
    )
    image: str | None = Field(
        default=None,
        pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$",
        description="Image of driver and executors, by digest. A pool with `registry` pulls it from there.",
    )
    gpu_pools: list[str] = Field(
        default_factory=list, description="Pools in the order to try. Default: as under gpu_pools. A job needs no GPU."
    )
    disk: int = Field(
        default=20,
        ge=1,
        le=1 << 14,
        description="Disk of an executor in GiB, for rows that do not fit in memory. A pod that needs more is evicted.",
    )


def at_the_prediction(file: Any) -> Any:
    """Return a pipeline file in which each view without a moment has that of the prediction.

    What is not shaped like a pipeline file comes back as it is: its reader says what is wrong.
    """
    if not isinstance(file, Mapping):
        return file
    views, prediction = file.get("features"), file.get("prediction")
    if not isinstance(views, Mapping) or not isinstance(prediction, Mapping) or "at" not in prediction:
        return file
    of_rows = {
        name: {"at": prediction["at"], **view}
        for name, view in views.items()
        if isinstance(view, Mapping) and view.get("kind") in ("row", "trailing")
    }
    return {**file, "features": {**views, **of_rows}}
