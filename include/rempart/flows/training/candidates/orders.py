"""Tell a job in how many processes to run, and how to measure itself: its validation part, and moments of the past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.features import labels
from rempart.settings.config import Config
from rempart.settings.evaluation.splits import validation_of
from rempart.settings.pipeline import ModelPipeline
from rempart.training.job import Origins, Split
from rempart.training.placement import request_of
from rempart.training.protocol import splits
from rempart.training.trainers import trainers

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Measuring:
    """How a job splits the rows that it learns from; None where the pipeline asks for neither."""

    validation: Split | None
    backtest: Origins | None


def processes(config: Config, pipeline: ModelPipeline) -> int:
    """Return a job's processes on each node: one for each GPU, if its trainer can share its work, else one."""
    gpus = request_of(config, pipeline).gpus
    return gpus if gpus > 1 and trainers.shares_work(pipeline.trainer.use) else 1


def measuring(pipeline: ModelPipeline, params: Mapping[str, Any]) -> Measuring:
    """Return how a job with these parameters of its trainer measures itself."""
    column = pipeline.holdout.column
    late = labels.KNOWN_AT if labels.tells_known_at(pipeline) else None
    by_day = late is not None and labels.known_by_day(pipeline)
    zone = "UTC" if by_day else pipeline.source.time_zone or "UTC"
    validation = backtest = None
    if (asked := validation_of(pipeline.validation, pipeline.holdout, params)) is not None:
        validation = Split(
            column=column if asked.by_time else None,
            last=int(asked.last.total_seconds()) if asked.last else None,
            share=asked.share,
            gap=int(asked.gap.total_seconds()),
            by=tuple(asked.by or (pipeline.key if asked.stratify else ())),
            stratify=pipeline.prediction.target if asked.stratify else None,
            known_at=late if asked.by_time else None,
            zone=zone,
            refit=asked.refit,
        )
    if (tried := pipeline.backtest) is not None and column is not None:
        backtest = Origins(
            column=column,
            origins=tried.origins,
            every=int(tried.every.total_seconds()),
            gap=int(tried.gap.total_seconds()),
            window=int(tried.window.total_seconds()) if tried.window else None,
            known_at=late,
            zone=zone,
        )
    return Measuring(validation, backtest)


def check(how: Measuring, rows: pa.Table) -> None:
    """Check before a job starts that each part has rows. Raises TrainingError."""
    import pyarrow as pa

    rows = rows.select([name for name in rows.column_names if name in _columns(how)])
    if how.validation is not None:
        splits.validation(rows, how.validation)
    if how.backtest is not None:
        for parts in splits.origins(rows, how.backtest):
            if how.validation is not None:
                splits.validation(rows.filter(pa.array(parts.fit)), how.validation)


def _columns(how: Measuring) -> set[str | None]:
    """Return the columns that decide on which side a row is."""
    named: set[str | None] = {part.column for part in (how.validation, how.backtest) if part is not None}
    named |= {part.known_at for part in (how.validation, how.backtest) if part is not None}
    return named | ({*how.validation.by, how.validation.stratify} if how.validation is not None else set())
