"""Choose the column that a drafted pipeline predicts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from rempart.errors import PipelineError
from rempart.ingestion.sampling.facts import ColumnFacts

_NUMBERS = ("number", "decimal", "integer")


def likeliest_target(source: str, columns: Sequence[ColumnFacts], key: Collection[str]) -> ColumnFacts:
    """Return the last column if it is a class, else the last number, else the last class. Pure.

    Raises PipelineError if no column can be predicted.
    """
    free = [c for c in columns if c.name not in key]
    numbers = [c for c in free if c.type in ("number", "decimal")] or [c for c in free if c.type == "integer"]
    classes = [c for c in free if _is_class(c)]
    if classes and classes[-1] is columns[-1]:
        return classes[-1]
    if not numbers and not classes:
        raise PipelineError(
            f"draft a pipeline from {source}: it has no column of numbers or of a closed list of values to predict",
            "Add the column that the model shall predict.",
        )
    return (numbers or classes)[-1]


def chosen_target(source: str, columns: Sequence[ColumnFacts], key: Collection[str], name: str) -> ColumnFacts:
    """Return the column of this name. Pure. Raises PipelineError if it is absent, in the key, or not predictable."""
    what = f"draft a pipeline from {source} with the target '{name}'"
    usable = [c.name for c in columns if c.name not in key and (c.type in _NUMBERS or _is_class(c))]
    found = next((c for c in columns if c.name == name), None)
    close = get_close_matches(name, usable, n=1)
    hint = f"Did you mean `--target {close[0]}`?" if close else f"Pass one of: {', '.join(usable) or '(none)'}."
    if found is None:
        raise PipelineError(f"{what}: there is no such column", hint)
    if name in key:
        raise PipelineError(f"{what}: the column is part of the key", hint)
    if name not in usable:
        raise PipelineError(f"{what}: its type is {found.type}, and a model predicts a number or a closed list", hint)
    return found


def _is_class(column: ColumnFacts) -> bool:
    return column.type == "boolean" or (column.type == "category" and len(column.values) > 1)
