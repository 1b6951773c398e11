"""Check a derived pipeline's declarations against its inputs and its query: columns, classification, cycles. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from rempart.errors import PipelineError
from rempart.ingestion.snapshots import SnapshotColumn
from rempart.settings.sections import Classification
from rempart.sovereignty.classification import ORDER, highest

_SAME = {"category": "string"}
"""Types that a query gives under another name: the values of a category are judged when its rows are ingested."""


def column_faults(declared: Mapping[str, SnapshotColumn], bound: Mapping[str, SnapshotColumn]) -> Iterator[str]:
    """Yield where the declared schema differs from the columns of the query."""
    for name, column in declared.items():
        if name not in bound:
            yield f"schema.{name}: the query gives no such column (it gives {', '.join(bound)})"
        elif _SAME.get(column.type, column.type) != bound[name].type:
            yield f"schema.{name}: declared as {column.type}, but the query gives {bound[name].type}"
    yield from (f"schema: column '{name}' of the query is not declared" for name in bound if name not in declared)


def unused(declared: Sequence[str], used: Collection[str]) -> Iterator[str]:
    """Yield the inputs that the query does not read: they would raise the classification for nothing."""
    yield from (f"source.inputs: the query does not read '{name}'" for name in declared if name not in used)


def classification_fault(declared: Classification, inputs: Mapping[str, Classification]) -> str | None:
    """Return why the declared classification is too low: rows of an input stay what they are."""
    needed = highest(inputs.values())
    if ORDER.index(declared) >= ORDER.index(needed):
        return None
    cause = next(name for name, level in inputs.items() if level == needed)
    return f"classification: {declared} is lower than {needed}, the classification of its input '{cause}'"


def in_order(inputs_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Return pipelines so that each comes after its inputs. Raises PipelineError for a cycle or an unknown input.

    `inputs_of`: the inputs of each pipeline, nothing for one that is not derived.
    """
    done: dict[str, None] = {}

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise PipelineError(
                f"Pipeline '{name}' is derived from itself: {circle}", "Remove one of these names from source.inputs."
            )
        if name not in inputs_of:
            raise PipelineError(
                f"Pipeline '{path[-1]}': source.inputs: there is no pipeline '{name}'",
                f"Name one of: {', '.join(sorted(set(inputs_of) - set(path)))}.",
            )
        if name not in done:
            for input_name in inputs_of[name]:
                add(input_name, (*path, name))
            done[name] = None

    for name in sorted(inputs_of):
        add(name, ())
    return list(done)


def descendants(changed: str, inputs_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Return every pipeline that is derived from `changed`, directly or not, inputs first: an erasure follows them."""
    reached = {changed}
    for name in in_order(inputs_of):
        if reached.intersection(inputs_of[name]):
            reached.add(name)
    return [name for name in in_order(inputs_of) if name in reached and name != changed]
