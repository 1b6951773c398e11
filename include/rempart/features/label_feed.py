"""Find and check the pipeline that delivers the labels of another (`prediction.from`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches

from rempart.counts import counted
from rempart.errors import PipelineError
from rempart.features.plan import RESERVED, SQL_TYPES
from rempart.settings.columns import TEMPORAL, Column
from rempart.settings.pipeline import LabelSource, ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all
from rempart.sovereignty.classification import ORDER

Loaded = Mapping[str, Pipeline | PipelineError]


@dataclass(frozen=True)
class LabelFeed:
    """The pipeline that delivers labels. `key`: its columns, in the order of the model pipeline's key."""

    source: Pipeline
    key: tuple[str, ...]
    target: Column
    known_at: Column


@dataclass(frozen=True)
class LabelCounts:
    """Rows of a pipeline by the state of their label; their sum is the number of rows.

    `labelled`: examples. `missing`: no label was delivered. `not_yet`: the label says that it is known only after its
    snapshot. `too_early`: it was known by the moment of the prediction, so there was nothing to predict.
    """

    labelled: int
    missing: int
    not_yet: int
    too_early: int


@dataclass(frozen=True)
class LabelsUsed:
    """The labels of a training set: their pipeline, its snapshot, and the rows by the state of their label."""

    pipeline: str
    snapshot: str
    rows: LabelCounts

    def told(self) -> str:
        """Return the counts as a sentence without its point."""
        return told(self.pipeline, asdict(self.rows))


def told(pipeline: str, rows: Mapping[str, int]) -> str:
    """Return how many rows have a label of a pipeline, and why the others have none, as part of a sentence.

    `rows`: the counts of LabelCounts, and `late`: labels that became known after the hold-out had begun.
    """
    whys = {
        "missing": "none was delivered",
        "not_yet": "it is not known yet",
        "too_early": "it was known before the prediction",
        "late": "it became known only after the hold-out began",
    }
    without = [f"{rows[name]:,} not used, {why}" for name, why in whys.items() if rows.get(name)]
    return "; ".join([f"{rows['labelled'] - rows.get('late', 0):,} rows have a label of '{pipeline}'", *without])


def told_open(rows: int, target: str) -> str:
    """Return how many rows wait for their target, as a sentence without its point."""
    return f"{counted(rows, 'open row has', 'open rows have')} no {target} yet"


def told_late(rows: int, target: str) -> str:
    """Return how many rows before the hold-out are not learned from, as a sentence without its point."""
    return f"{counted(rows, 'row')} not used: {target} became known only after the hold-out began"


def told_undated(rows: int, target: str) -> str:
    """Return how many rows nobody learns from or is measured on, as a sentence without its point."""
    return (
        f"{counted(rows, 'row')} not used: nothing tells when {target} became known (the column of its moment is empty)"
    )


def feed_of(pipeline: ModelPipeline, loaded: Loaded | None = None) -> LabelFeed | None:
    """Return the pipeline that delivers the labels, or None if the target is a column of the pipeline's own rows.

    Raises PipelineError with every fault: of names, types, keys, rows that change, and a classification too low.
    """
    labels = pipeline.prediction.from_
    if labels is None:
        return None
    source = _source(pipeline, labels, load_all() if loaded is None else loaded)
    key = tuple(labels.key or pipeline.key)
    if faults := [*_column_faults(pipeline, labels, source), *_key_faults(pipeline, key, source)]:
        raise PipelineError(
            "; ".join(faults),
            f"Correct `prediction` of include/pipelines/{pipeline.name}.yaml, or the schema of pipeline "
            f"'{source.name}'.",
        )
    _check_kind(pipeline, source)
    return LabelFeed(source, key, source.columns[pipeline.prediction.target], source.columns[labels.known_at])


def target_column(pipeline: ModelPipeline) -> Column:
    """Return the column that the model predicts. Raises the errors of `feed_of`."""
    feed = feed_of(pipeline)
    return feed.target if feed else pipeline.columns[pipeline.prediction.target]


def _source(pipeline: ModelPipeline, labels: LabelSource, known: Loaded) -> Pipeline:
    found = known.get(labels.pipeline)
    if found is None:
        others = sorted(set(known) - {pipeline.name})
        raise PipelineError(
            f"prediction.from.pipeline: there is no pipeline '{labels.pipeline}'{_meant(labels.pipeline, others)}",
            f"Name one of: {', '.join(others[:10]) or '(there is none yet)'}; or create it: `rempart pipeline new "
            f"{labels.pipeline}.csv`.",
        )
    if isinstance(found, PipelineError):
        raise PipelineError(
            f"prediction.from.pipeline: pipeline '{labels.pipeline}' is not valid: {found.what}", found.hint
        )
    return found


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _column_faults(pipeline: ModelPipeline, labels: LabelSource, source: Pipeline) -> Iterator[str]:
    """Yield what is wrong with the target and with the column that tells when a label is known."""
    target, columns = pipeline.prediction.target, source.columns
    if target not in columns:
        yield f"prediction.target: pipeline '{source.name}' has no column '{target}'{_meant(target, columns)}"
    else:
        yield from pipeline.prediction.type_faults(columns[target])
        if columns[target].nullable:
            yield (
                f"prediction.target: column '{target}' of '{source.name}' is nullable, but a row there is a label. "
                "Delete its `nullable`: rows without it go to quarantine until they are delivered with it"
            )
        if target in RESERVED:
            yield f"prediction.target: the name '{target}' is reserved; rename the column of '{source.name}'"
    where = "prediction.from.known_at"
    if (known_at := columns.get(labels.known_at)) is None:
        yield f"{where}: pipeline '{source.name}' has no column '{labels.known_at}'{_meant(labels.known_at, columns)}"
    elif known_at.type not in TEMPORAL:
        yield f"{where}: column '{labels.known_at}' must be {' or '.join(TEMPORAL)}, but it is {known_at.type}"
    elif known_at.nullable:
        yield f"{where}: column '{labels.known_at}' is nullable, but every label needs the time from which it is known"


def _key_faults(pipeline: ModelPipeline, key: tuple[str, ...], source: Pipeline) -> Iterator[str]:
    """Yield why labels do not join: other columns than the label pipeline's key, or other types."""
    where = "prediction.from.key"
    for own, column in zip(pipeline.key, key, strict=True):
        if column not in source.columns:
            yield f"{where}: pipeline '{source.name}' has no column '{column}'{_meant(column, source.columns)}"
        elif SQL_TYPES.get(source.columns[column].type) != SQL_TYPES.get(pipeline.columns[own].type):
            yield (
                f"{where}: column '{column}' of '{source.name}' is {source.columns[column].type}, but '{own}', for "
                f"which it stands, is {pipeline.columns[own].type}"
            )
    if not set(key) - set(source.columns) and sorted(key) != sorted(source.key):
        yield (
            f"{where}: {', '.join(key)} is not the key of '{source.name}' ({', '.join(source.key)}), so a row could "
            "have two labels"
        )


def _check_kind(pipeline: ModelPipeline, source: Pipeline) -> None:
    """Raise PipelineError if the label pipeline keeps versions, is derived, or is more protected than its reader."""
    if source.conflict_rule == "history":
        raise PipelineError(
            f"prediction.from.pipeline: '{source.name}' has `on_conflict: history`, so a row could have two labels",
            f"Write `on_conflict: newest` in include/pipelines/{source.name}.yaml: a corrected label replaces the "
            "earlier one.",
        )
    if source.source.kind == "derived":
        raise PipelineError(
            f"prediction.from.pipeline: '{source.name}' is derived from other pipelines, and an erasure in these would "
            "not reach the training sets",
            "Name a pipeline to which the labels are delivered, or derive the rows and their target in one query.",
        )
    if ORDER.index(pipeline.classification) < ORDER.index(source.classification):
        raise PipelineError(
            f"classification: {pipeline.classification} is lower than {source.classification}, the classification of "
            f"the labels of '{source.name}'",
            f"Write `classification: {source.classification}` in include/pipelines/{pipeline.name}.yaml: training "
            "sets and models have the highest classification of both.",
        )
