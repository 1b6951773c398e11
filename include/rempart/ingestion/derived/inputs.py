"""Find a derived pipeline's inputs among the pipeline files, and check and bind its SQL file against them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rempart.errors import PipelineError
from rempart.ingestion.derived import declared
from rempart.ingestion.derived.binding import Query, bind
from rempart.ingestion.parsing.schema import snapshot_columns
from rempart.settings.config import project_root
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import load_all
from rempart.settings.sections import Classification
from rempart.settings.sources import DerivedSource
from rempart.sovereignty.classification import highest

Loaded = Mapping[str, Pipeline | PipelineError]


@dataclass(frozen=True)
class Derivation:
    """A derived pipeline's bound query, and its inputs by name."""

    sql: str
    query: Query
    inputs: Mapping[str, Pipeline]


def is_derived(pipeline: Pipeline) -> bool:
    """Return whether a pipeline's rows are derived from snapshots of others."""
    return isinstance(pipeline.source, DerivedSource)


def inputs_of(loaded: Loaded) -> dict[str, list[str]]:
    """Return the declared inputs of each pipeline; nothing for one that is not derived or not valid."""
    return {
        name: list(found.source.inputs)
        if isinstance(found, Pipeline) and isinstance(found.source, DerivedSource)
        else []
        for name, found in loaded.items()
    }


def ancestors(name: str, inputs_by_name: Mapping[str, Collection[str]]) -> set[str]:
    """Return every pipeline from which `name` is derived, directly or not. Pure; a cycle ends."""
    found: set[str] = set()
    waiting = list(inputs_by_name.get(name, ()))
    while waiting:
        if (input_name := waiting.pop()) not in found:
            found.add(input_name)
            waiting += inputs_by_name.get(input_name, ())
    return found


def needed_classification(inputs: Mapping[str, Pipeline]) -> Classification:
    """Return the highest classification of some inputs."""
    return highest(spec.classification for spec in inputs.values())


def check(pipeline: Pipeline, loaded: Loaded | None = None, *, thorough: bool = True) -> None:
    """Check a derived pipeline's inputs and classification, and with `thorough` its query and columns.

    Raises PipelineError. A pipeline that is not derived passes.
    """
    if not is_derived(pipeline):
        return
    found = declared_inputs(pipeline, loaded)
    if thorough:
        bound(pipeline, found)


def declared_inputs(pipeline: Pipeline, loaded: Loaded | None = None, *, checked: bool = True) -> dict[str, Pipeline]:
    """Return the inputs of a derived pipeline by name.

    Raises PipelineError for an unknown or invalid input, a cycle, or (if `checked`) a classification that is too low.
    """
    source = _source(pipeline)
    known: Loaded = {**(load_all() if loaded is None else loaded), pipeline.name: pipeline}
    declared.in_order({name: used for name, used in inputs_of(known).items() if name in _reached(pipeline.name, known)})
    inputs: dict[str, Pipeline] = {}
    for name in source.inputs:
        spec = known[name]
        if isinstance(spec, PipelineError):
            raise PipelineError(f"source.inputs: pipeline '{name}' is not valid: {spec.what}", spec.hint)
        inputs[name] = spec
    lowered = pipeline.lowered.get("data")
    levels = {name: spec.classification for name, spec in inputs.items()}
    fault = declared.classification_fault(pipeline.classification, levels)
    if checked and fault and not (lowered and lowered.to == pipeline.classification):
        raise PipelineError(
            fault,
            f"Write `classification: {highest(levels.values())}`. If the derived rows need less protection, record the "
            f"decision: `rempart policy lower-classification {pipeline.name} --part data --to "
            f"{pipeline.classification} --because REASON --role data-protection-officer`. It prints the line to "
            "write into the file.",
        )
    return inputs


def bound(pipeline: Pipeline, inputs: Mapping[str, Pipeline]) -> Derivation:
    """Bind a pipeline's SQL file on empty tables. Raises PipelineError naming each fault with its line."""
    sql = _source(pipeline).sql
    query = bind(sql, text_of(sql), {name: snapshot_columns(spec) for name, spec in inputs.items()})
    faults = [
        *declared.column_faults(snapshot_columns(pipeline), query.columns),
        *declared.unused(list(inputs), query.used),
    ]
    if faults:
        raise PipelineError(
            f"{sql}: {'; '.join(faults)}", "Correct the SQL file, or `schema` and `source.inputs` of the pipeline file."
        )
    return Derivation(sql, query, inputs)


def all_inputs(pipeline: Pipeline) -> set[str]:
    """Return the names of all pipelines from which a pipeline is derived, directly or not."""
    return ancestors(pipeline.name, inputs_of({**load_all(), pipeline.name: pipeline}))


def text_of(sql: str) -> str:
    """Return the text of a SQL file of this project. Raises PipelineError."""
    file = project_root() / sql
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise PipelineError(
            f"source.sql: {sql} cannot be read ({type(cause).__name__})", f"Write one SELECT into {sql}, as UTF-8 text."
        ) from cause


def _reached(name: str, known: Loaded) -> set[str]:
    """Return a pipeline and all its ancestors, so that a fault of another pipeline is not told here."""
    return {name} | ancestors(name, inputs_of(known))


def _source(pipeline: Pipeline) -> DerivedSource:
    if not isinstance(pipeline.source, DerivedSource):
        raise TypeError(f"pipeline '{pipeline.name}' is not derived")
    return pipeline.source
