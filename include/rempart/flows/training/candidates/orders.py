"""Tell a job how to measure itself: its validation part, and the moments of the past from which it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rempart.errors import TrainingError
from rempart.features import labels
from rempart.features.label_feed import target_column
from rempart.models.gates import measures
from rempart.models.intervals import conformal
from rempart.settings.evaluation.splits import validation_of
from rempart.settings.pipeline import ModelPipeline
from rempart.training.job import Costs, Origins, Split
from rempart.training.protocol import splits

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Measuring:
    """How a job splits the rows that it learns from; None where the pipeline asks for neither.

    `coverage`: what intervals shall cover, whose width is measured on the validation part; None without intervals.
    `costs`: by which the operating point is chosen there; None for other targets than two classes with costs.
    """

    validation: Split | None
    backtest: Origins | None
    coverage: float | None = None
    costs: Costs | None = None


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
    intervals = pipeline.trainer.intervals
    costs = _costs(pipeline) if validation is not None else None
    return Measuring(validation, backtest, intervals.coverage if intervals else None, costs)


def _costs(pipeline: ModelPipeline) -> Costs | None:
    """Return what a wrong class costs by the gate; None without costs, or for other targets than two classes."""
    gate, task = pipeline.gate, pipeline.prediction.task
    if gate.cost is None or task == "regression":
        return None
    classes = tuple(target_column(pipeline).values or ("false", "true"))
    if (positive := measures.of_gate(gate, task, classes).positive) is None:
        return None
    wrongly, missed = gate.cost.pair
    return Costs(positive=positive, false_positive=wrongly, false_negative=missed)


def check(how: Measuring, rows: pa.Table) -> None:
    """Check before a job starts that each part has rows. Raises TrainingError."""
    import pyarrow as pa

    rows = rows.select([name for name in rows.column_names if name in _columns(how)])
    if how.validation is not None:
        _check_part(how, rows)
    elif how.coverage is not None:
        raise TrainingError(
            "trainer.intervals: their width is measured on the validation part, and this run has none",
            "Declare `validation` in the pipeline file, or leave `early_stopping_rounds` among the parameters.",
        )
    if how.backtest is not None:
        for parts in splits.origins(rows, how.backtest):
            if how.validation is not None:
                _check_part(how, rows.filter(pa.array(parts.fit)))


def _check_part(how: Measuring, rows: pa.Table) -> None:
    assert how.validation is not None  # noqa: S101 - as asked by the caller
    parts = splits.validation(rows, how.validation)
    if how.coverage is not None:
        conformal.check_rows(int(parts.measured.sum()), how.coverage)


def _columns(how: Measuring) -> set[str | None]:
    """Return the columns that decide on which side a row is."""
    named: set[str | None] = {part.column for part in (how.validation, how.backtest) if part is not None}
    named |= {part.known_at for part in (how.validation, how.backtest) if part is not None}
    return named | ({*how.validation.by, how.validation.stratify} if how.validation is not None else set())
