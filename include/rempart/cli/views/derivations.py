"""Write what a pipeline takes from others: inputs, SQL file, columns and where their values come from; its labels, and
the feature views that it uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rempart.errors import RempartError
from rempart.settings.pipeline import ModelPipeline, Pipeline


def as_json(pipeline: Pipeline) -> dict[str, Any] | None:
    """Return a derivation for a JSON document; None for a pipeline that is not derived.

    `lineage` is null for a column whose origin cannot be told. Of a query that is not valid, `error` says why.
    """
    from rempart.flows.ingestion.derived_run import told
    from rempart.ingestion.derived import inputs
    from rempart.ingestion.derived.lineage import lineage
    from rempart.ingestion.parsing.schema import snapshot_columns

    if not inputs.is_derived(pipeline):
        return None
    try:
        specs = inputs.declared_inputs(pipeline)
        found = inputs.bound(pipeline, specs)
    except RempartError as error:
        return {"error": {"what": error.what, "hint": error.hint}}
    columns = {name: snapshot_columns(spec) for name, spec in specs.items()}
    return {
        "inputs": {name: spec.classification for name, spec in specs.items()},
        "sql": found.sql,
        "columns": {name: column.type for name, column in found.query.columns.items()},
        "lineage": told(lineage(found.query, columns)),
    }


def all_lines(pipeline: Pipeline) -> Iterator[str]:
    """Yield all that a pipeline takes from others as lines; nothing for one that stands alone."""
    yield from lines(pipeline)
    yield from label_lines(pipeline)
    yield from used_lines(pipeline)


def lines(pipeline: Pipeline) -> Iterator[str]:
    """Yield a derivation as lines; nothing for a pipeline that is not derived."""
    found = as_json(pipeline)
    if found is None:
        return
    yield ""
    if "error" in found:
        yield f"Derived, but its query is not valid: {found['error']['what']}"
        return
    inputs = ", ".join(f"{name} ({level})" for name, level in found["inputs"].items())
    yield f"Derived from {inputs} by {found['sql']}:"
    for name, type_ in found["columns"].items():
        sources = found["lineage"][name]
        origin = "unknown origin" if sources is None else f"from {', '.join(sources)}" if sources else "from no column"
        yield f"  {name} ({type_}): {origin}"


def label_lines(pipeline: Pipeline) -> Iterator[str]:
    """Yield where the target comes from, if another pipeline delivers it; nothing else."""
    from rempart.features.label_feed import feed_of

    if not isinstance(pipeline, ModelPipeline) or (labels := pipeline.prediction.from_) is None:
        return
    yield ""
    try:
        feed = feed_of(pipeline)
    except RempartError as error:
        yield f"Labels of pipeline '{labels.pipeline}', but: {error.what}"
        return
    if feed:
        key = ", ".join(f"{own} is {other}" for own, other in zip(pipeline.key, feed.key, strict=True))
        yield (
            f"Labels: column '{pipeline.prediction.target}' of pipeline '{feed.source.name}' "
            f"({feed.source.classification}), known at '{labels.known_at}'; {key}"
        )


def used_lines(pipeline: Pipeline) -> Iterator[str]:
    """Yield which feature views of other pipelines a pipeline uses; nothing else."""
    from rempart.features.versions import hides_corrections

    if not isinstance(pipeline, ModelPipeline) or not (used := pipeline.used_views()):
        return
    yield ""
    for name, view in used.items():
        key = ", ".join(f"{own} is {other}" for other, own in view.key.items())
        yield f"View '{name}': values of '{view.from_}' ({view.source.classification}); {key}"
        if hides_corrections(view.source):
            yield (
                f"  Caution: a corrected row of '{view.pipeline}' replaces the former one, and no column tells when it "
                f"came. So a training shows its values before they were known. Declare `version_by` in {view.pipeline}."
                "yaml, a timestamp of the correction."
            )
