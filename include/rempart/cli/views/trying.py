"""Write the result of a try of a pipeline as lines. Personal values were hidden before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rempart.cli.views import text
from rempart.features.label_feed import told, told_late, told_open, told_undated
from rempart.flows.training.try_pipeline import Tried, TriedFile
from rempart.flows.training.try_training import Baseline
from rempart.ingestion.acceptance import good
from rempart.models.gates.resampling import FEWEST_ROWS
from rempart.settings.gates.metrics import LOWER_IS_BETTER
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.sources import DerivedSource

_WIDEST = 20
_FAR = 2.0
"""Times of one error from which on another is far from it."""
_WITH_LOSS = ("gradient_boosting", "lightgbm", "xgboost")
"""Trainers that take a `loss` and whose default is squared_error."""
_NAMES = {"event_timestamp": "(moment of the row)", "_known_at": "(target known from)"}
"""Columns of a training set that are no columns of the pipeline."""


def lines(tried: Tried, pipeline: Pipeline, draft: str | None = None) -> Iterator[str]:
    """Yield what became of the files, the head of the training set, and the baseline.

    `draft`: what is left to decide in the pipeline file.
    """
    for file in tried.files:
        yield from _file(file, pipeline)
    if tried.head:
        yield ""
        yield f"Training set, the first {len(tried.head)} of {text.counted(tried.training_rows, 'row')}:"
        rows = [(_NAMES.get(column, column), *(_cell(row[column]) for row in tried.head)) for column in tried.columns]
        yield from (f"  {line}" for line in text.table(("COLUMN", *map(str, range(1, len(tried.head) + 1))), rows))
    yield ""
    if tried.labels and isinstance(pipeline, ModelPipeline) and pipeline.prediction.from_:
        yield f"Labels: {told(pipeline.prediction.from_.pipeline, tried.labels)}."
    elif tried.late and isinstance(pipeline, ModelPipeline):
        yield f"{told_late(tried.late, pipeline.prediction.target)}."
    if tried.waiting and isinstance(pipeline, ModelPipeline):
        yield f"{told_open(tried.waiting, pipeline.prediction.target)}: no examples before they are delivered with it."
    if tried.undated and isinstance(pipeline, ModelPipeline):
        yield f"{told_undated(tried.undated, pipeline.prediction.target)}."
    for pair in tried.disordered:
        yield (
            f"In {pair.broken:,} of {text.counted(pair.rows, 'row')} with both, the moment '{pair.then}' is before "
            f"'{pair.first}'. Moments stand in order of time: correct their order, or add an expectation that refuses "
            "such rows."
        )
    if tried.baseline and isinstance(pipeline, ModelPipeline):
        yield from _baseline(tried.baseline, pipeline)
    if tried.model and isinstance(pipeline, ModelPipeline):
        figures = text.figures(tried.model.metrics, pipeline.gate.metric)
        yield f"Model: {figures}, trained in {tried.model.seconds:.0f} s."
        if tried.model.validation:
            deciding = f"validation_{pipeline.gate.metric}"
            yield f"  On the validation part: {text.figures(tried.model.validation, deciding)}."
        else:
            yield "  A figure that you choose by flatters the model: docs/how-to/measure-honestly.md says how not to."
        if tried.baseline and _is_beaten(tried.model.metrics[pipeline.gate.metric], tried.baseline):
            yield f"  It is no better than the baseline.{_other_loss(pipeline)}"
        elif tried.baseline and not _reaches(tried.model.metrics[pipeline.gate.metric], tried.baseline):
            yield f"  The gate would refuse it: {_asked(tried.baseline, pipeline)}."
        if tried.baseline:
            yield from _distance_to_limit(tried.model.metrics[pipeline.gate.metric], tried.baseline)
        if tried.baseline and _is_nearly_perfect(tried.model.metrics[pipeline.gate.metric], tried.baseline):
            yield "  It makes next to no error. Look for a column that tells the target because it is known later."
        yield "  This is no verdict of the gate. It is for the model of a run, by all rules and against the champion."
    if tried.short:
        yield tried.short
    for reason in tried.open:
        yield from reason.split("\n")
    yield ""
    if draft:
        yield f"Next: finish include/pipelines/{pipeline.name}.yaml. {draft}"
    elif tried.short and not any(file.fault or file.held_back for file in tried.files):
        yield "Next: try again with more files. These can be delivered as they are."
    elif tried.good:
        source = pipeline.source
        inputs = source.inputs if isinstance(source, DerivedSource) else (pipeline.name,)
        yield "Next: deliver the data, unless it was delivered before, and run the pipeline."
        yield from (f"  rempart pipeline deliver {name} FILE" for name in inputs)
        yield from (f"  rempart pipeline run {name} --follow" for name in inputs)
        if isinstance(source, DerivedSource):
            yield f"  rempart pipeline show {pipeline.name}    # new rows of its inputs start it"
    else:
        yield f"Next: correct include/pipelines/{pipeline.name}.yaml or the data, then try again."


def _file(file: TriedFile, pipeline: Pipeline) -> Iterator[str]:
    if file.fault:
        yield f"{file.file}: REFUSED as a whole: {file.fault}"
        return
    some = " of a sample" if file.sampled else ""
    part = file.refused / max(file.read, 1)
    share = f" ({f'{part:.1%}' if part >= 0.0005 else 'below 0.1%'}; `max_quarantined` allows "
    share += f"{pipeline.max_quarantined:.1%} of a run)"
    yield (
        f"{file.file}: {text.counted(file.read, 'row')}{some} read, {good(file.accepted, file.repeated)}, "
        f"{file.refused:,} refused{share if file.refused else ''}"
    )
    if file.same_key:
        verb = "repeats" if file.same_key == 1 else "repeat"
        others = " (rows with another fault are not compared)" if file.refused + file.repeated > file.same_key else ""
        yield f"  {text.counted(file.same_key, 'row')} {verb} the key of an earlier row: {', '.join(file.key)}{others}"
    for refusal in file.refusals:
        numbers = [example.line for example in refusal.examples if example.line is not None]
        yield f"  {refusal.rows:>7,} x {refusal.reason}{text.places(numbers, refusal.rows)}"
        yield from (f"              {example.text}" for example in refusal.examples if example.text is not None)
    if sum(refusal.rows for refusal in file.refusals) > file.refused:
        yield "  (a row may have several reasons)"
    if file.held_back:
        yield "  It would be HELD BACK. Correct `values`, ranges or `nullable` in the pipeline file, or the rows."
        yield "  Or, if these rows shall wait in quarantine, raise `max_quarantined`."


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime) and value.tzinfo is not None:
        shown = f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z".removesuffix(" 00:00:00Z")
    else:
        shown = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 1]}…"


def _is_worse(found: Baseline) -> bool:
    lower = LOWER_IS_BETTER[found.metric]
    return found.value > found.overall if lower else found.value < found.overall


def _is_beaten(value: float, found: Baseline) -> bool:
    return value >= found.value if LOWER_IS_BETTER[found.metric] else value <= found.value


def _reaches(value: float, found: Baseline) -> bool:
    return value <= found.bound if LOWER_IS_BETTER[found.metric] else value >= found.bound


def _is_looser(found: Baseline) -> bool:
    """Return whether the gate's limit asks for less than the baseline's margin does."""
    return found.limit > found.bound if LOWER_IS_BETTER[found.metric] else found.limit < found.bound


def _asked(found: Baseline, pipeline: ModelPipeline) -> str:
    """Return what the gate asks of a model beside the baseline, and by which key."""
    lower, margin = LOWER_IS_BETTER[found.metric], f"{pipeline.gate.baseline_margin:.0%}"
    least, of = ("at most", f"{margin} less") if lower else ("at least", f"{margin} of the error less")
    return f"it asks for {least} {found.bound:.4g}, {of} than the baseline (`gate.baseline_margin`)"


def _other_loss(pipeline: ModelPipeline) -> str:
    """Return a loss that fits the metric better than the trainer's, as a sentence after others; empty if none does."""
    used = pipeline.trainer.params.get("loss", "squared_error")
    if pipeline.gate.metric != "mae" or pipeline.trainer.use not in _WITH_LOSS or used != "squared_error":
        return ""
    return (
        " Its loss is squared_error, which a few large values rule. With the metric mae, try `loss: absolute_error` in "
        "`trainer.params`."
    )


def _error(value: float, found: Baseline) -> float:
    """Return the error of a metric: what it is above 0, or what it lacks to 1."""
    return value if LOWER_IS_BETTER[found.metric] else 1 - value


def _is_nearly_perfect(value: float, found: Baseline) -> bool:
    """Return whether a model leaves less than a fiftieth of the baseline's error."""
    return _error(value, found) < min(_error(found.value, found), _error(found.overall, found)) / 50


def _limit(found: Baseline) -> Iterator[str]:
    """Yield why the gate's limit decides nothing, or hardly any model reaches it; nothing otherwise."""
    lower = LOWER_IS_BETTER[found.metric]
    best, least, beyond = (0, "at most", "less") if lower else (1, "at least", "more")
    allowed = _error(found.limit, found)
    if allowed < 0:
        yield f"  No model reaches the limit: {found.metric} is never {beyond} than {best}. Correct `gate.limit`."
    elif allowed == 0:
        yield f"  Only a model without any error reaches the limit, {found.metric} {best}. Correct `gate.limit`."
    elif _is_nearly_perfect(found.limit, found):
        yield (
            "  Hardly any model reaches the limit: it allows less than a fiftieth of the baseline's error. Is "
            f"`gate.limit` in the unit of {found.metric}?"
        )
    elif _is_looser(found):
        more = f"the baseline asks for more, {least} {found.bound:.4g}"
        other = "lower" if LOWER_IS_BETTER[found.metric] else "higher"
        yield f"  The limit decides nothing: {more}. Leave it so, or write a {other} one."


def _distance_to_limit(value: float, found: Baseline) -> Iterator[str]:
    """Yield that a model misses the gate's limit, or is far better than it; nothing if the limit decides nothing."""
    mine, allowed, lower = _error(value, found), _error(found.limit, found), LOWER_IS_BETTER[found.metric]
    if allowed < 0 or _is_looser(found):
        return
    if mine > allowed:
        times = f", {mine / allowed:.1f} times the error that it allows" if mine > _FAR * allowed > 0 else ""
        mine_told, limit_told = _told_apart(value, found.limit)
        yield f"  It misses the gate's limit: {mine_told} is {'above' if lower else 'below'} {limit_told}{times}."
    elif allowed > _FAR * mine > 0:
        yield (
            f"  The gate's limit is far from it: {found.limit:g} allows {allowed / mine:.1f} times its error. Lower "
            "the error that you allow, unless such a model is still of use to you."
        )


def _told_apart(value: float, limit: float) -> tuple[str, str]:
    """Return two different numbers with as many digits as tell them apart, four at least."""
    fewest = max(4, len(str(int(max(abs(value), abs(limit))))))
    both = ((f"{value:.{digits}g}", f"{limit:.{digits}g}") for digits in range(fewest, 18))
    return next((told for told in both if told[0] != told[1]), (repr(value), repr(limit)))


def _baseline(found: Baseline, pipeline: ModelPipeline) -> Iterator[str]:
    by = ", ".join(pipeline.gate.baseline_by)
    target = pipeline.prediction.target
    word = "mean" if pipeline.prediction.task == "regression" else "class shares"
    yield (
        f"Baseline: {found.metric} of {target} is {found.value:.4g} with the {word} "
        + (f"by {by} ({found.overall:.4g} with the {word} of all)." if by else "of all rows.")
    )
    if pipeline.gate.baseline_by and _is_worse(found) and min(found.train_rows, found.holdout_rows) < FEWEST_ROWS:
        yield (
            f"  Too few rows tell whether `baseline_by` helps: {FEWEST_ROWS} to learn from and {FEWEST_ROWS} held out "
            f"are needed. Try more deliveries together: rempart pipeline try {pipeline.name} FILE FILE"
        )
    elif pipeline.gate.baseline_by and _is_worse(found):
        yield (
            f"  `baseline_by` makes the baseline worse than the {word} of all, so a model must beat the latter: "
            "write `baseline_by: []`."
        )
    learnt, held_out = text.counted(found.train_rows, "row"), text.counted(found.holdout_rows, "held-out row")
    yield f"  Learnt from {learnt}, measured on {held_out}. The gate's limit is {found.limit:g}."
    yield from _limit(found)
    for feature, share in found.told_alone:
        yield (
            f"  LEAK? {feature} alone tells {share:.1%} of {target}. The gate would refuse a model that reads it. "
            f"Is it known at '{pipeline.prediction.at}'? If not, correct `known` of its columns. If it is, name it "
            "under `allow` of a gate rule `leakage`."
        )
