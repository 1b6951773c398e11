"""Section `scoring` of a pipeline file: which rows the champion predicts in batch, and where predictions go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from rempart.settings.columns import Column, Name
from rempart.settings.learning import Prediction
from rempart.settings.pipeline_sections import Schedules
from rempart.settings.schema import Strict


class Into(Strict):
    """A PostgreSQL table of yours that gets the newest prediction of each row, in addition to the lake."""

    connection: str = Field(
        pattern=r"^[a-z0-9_]{1,60}$",
        description="Airflow connection of the database, declared under `connections` in rempart.yaml.",
    )
    table: str = Field(
        pattern=r"^[a-z_][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}$",
        description="Table, as `schema.table`. It is created if it is missing. The schema must exist.",
    )


class Scoring(Strict):
    """Predictions in batch. DAG `score_<pipeline>` starts by `schedules.score`, else when there are new rows."""

    from_: Name | None = Field(
        default=None,
        alias="from",
        description=(
            "Pipeline whose snapshots have the rows to predict. Default: this pipeline, and of its rows those without "
            "a label of `prediction.from`, or without their own target where it is `nullable`."
        ),
    )
    into: Into | None = Field(
        default=None, description="A table of yours that gets the predictions as well. Default: the lake alone."
    )
    keep_days: int = Field(
        default=400, ge=1, le=36_500, description="Days after which predictions are deleted at every site."
    )


def has_new_rows(scoring: Scoring | None, prediction: Prediction, columns: Mapping[str, Column]) -> bool:
    """Return whether rows without a target can come: those of another pipeline, or own rows that wait for theirs."""
    others = scoring is not None and scoring.from_ is not None
    return others or prediction.from_ is not None or prediction.has_open_rows(columns)


def schedule_faults(
    schedules: Schedules, scoring: Scoring | None, prediction: Prediction, columns: Mapping[str, Column]
) -> Iterator[str]:
    """Yield why a time cannot start a scoring. `columns`: of the schema."""
    if schedules.score and not has_new_rows(scoring, prediction, columns):
        yield (
            f"schedules.score: each row has its target, '{prediction.target}', so a scheduled run has none to predict; "
            "name the pipeline with the new rows in scoring.from, or start runs with a window by REST"
        )
