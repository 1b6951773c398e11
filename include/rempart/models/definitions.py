"""Digests of the definitions of features: they tell two features of one name apart. Pure.

A definition is what a value is made of: columns and their types, operators, constants, windows, delays, moments, and
the time zone where it counts. Names of views and moments, descriptions, the order of a file and the layout of an
expression are no part of it. docs/adr/0117-digests-of-definitions.md tells where a digest counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

from rempart import canonical_json
from rempart.settings.expressions import checking
from rempart.settings.expressions.across import ACROSS
from rempart.settings.expressions.checking import Typed
from rempart.settings.learning import SINCE_LAST, window_length
from rempart.settings.pipeline import ModelPipeline, RowView, TrailingView, UsedView

Defined = tuple[str, Any]
"""A feature's name, and its definition as plain JSON."""


def of_pipeline(pipeline: ModelPipeline) -> dict[str, str]:
    """Return the digest of each feature, by its name in a training set: `VIEW__FEATURE` or `expressions__NAME`."""
    found = {
        f"{view}__{feature}": digest
        for view in pipeline.features
        for feature, digest in of_view(pipeline, view).items()
    }

    def read(made: Typed) -> str:
        return found[str(made.value).replace(".", "__")]

    across = {
        f"{ACROSS}__{name}": _digest(_tree(pipeline, pipeline.prediction.at, made, read))
        for name, made in pipeline.across().items()
    }
    return found | across


def of_view(pipeline: ModelPipeline, name: str) -> dict[str, str]:
    """Return the digest of each feature of a view, 16 hexadecimal digits, by the feature's name."""
    view = pipeline.features[name]
    if isinstance(view, UsedView):
        source: ModelPipeline = view.source
        of = source.features[view.view]
        at = None if isinstance(of, UsedView) else _moment(source, of.at)
        kept = [source.conflict_rule, _version(source), source.key, _zone(source)]
        place = ["used", view.pipeline, dict(view.key), at, *kept]
        return {feature: _digest([*place, digest]) for feature, digest in of_view(source, view.view).items()}
    version = _version(pipeline) if pipeline.conflict_rule == "history" else None
    defined = _trailing(pipeline, view) if isinstance(view, TrailingView) else _row(pipeline, view)
    return {feature: _digest([version, definition]) for feature, definition in defined}


def _version(pipeline: ModelPipeline) -> list[str] | None:
    """Return the column that tells versions of a row apart, and its type."""
    column = pipeline.version_column
    return [column, pipeline.columns[column].type] if column else None


def _digest(definition: Any) -> str:
    return hashlib.sha256(canonical_json.encode(definition)).hexdigest()[:16]


def _row(pipeline: ModelPipeline, view: RowView) -> Iterator[Defined]:
    for column in view.columns:
        yield column, ["column", column, pipeline.columns[column].type]
    texts: Mapping[str, str] = {
        f"{column}_{part}": f'extract({part} from "{column}")'
        for column, parts in view.calendar.items()
        for part in parts
    } | view.expressions
    for feature, text in texts.items():
        yield feature, _tree(pipeline, view.at, checking.checked(text, pipeline.columns), _name)


def _name(made: Typed) -> str:
    return str(made.value)


def _tree(pipeline: ModelPipeline, at: str, made: Typed, read: Callable[[Typed], str]) -> list[Any]:
    """Return the tree of an expression whose view has the moment `at`; `read` defines the column of a leaf.

    A whole number that is calculated as a number is that number: `1` beside a number is `1.0`.
    """
    if made.kind == "as number" and made.parts[0].kind == "literal":
        return ["literal", "number", float(made.parts[0].value)]
    parts = [_tree(pipeline, at, part, read) for part in made.parts]
    value = read(made) if made.kind == "column" else None if made.kind == "as number" else made.value
    if isinstance(value, date):
        value = value.isoformat()
    of_instant = any(part.type == "timestamp" for part in made.parts)
    context: list[Any] = []
    if made.kind in ("extract", "date") and of_instant:
        context = [_zone(pipeline)]
    elif made.kind == "days_since":
        context = [_moment(pipeline, at)]
        if not of_instant and not pipeline.moments[at].is_day(pipeline.columns):
            context.append(_zone(pipeline))
    return [made.kind, made.type, value, *parts, *context]


def _zone(pipeline: ModelPipeline) -> str:
    return pipeline.source.time_zone or "UTC"


def _moment(pipeline: ModelPipeline, name: str) -> dict[str, Any]:
    """Return what gives a moment, whatever its name is."""
    spec = pipeline.moments[name]
    return {
        "column": spec.column,
        "type": pipeline.columns[spec.column].type,
        "clock": [spec.at, _zone(pipeline)] if spec.at else None,
        "minus": [spec.earlier.total_seconds(), *spec.offsets],
    }


def _trailing(pipeline: ModelPipeline, view: TrailingView) -> Iterator[Defined]:
    """Yield the definitions of aggregates.

    Windows of `days` end with the last day on which something of the group became known, and their values stay for the
    longest one: so all delays of the view and the longest window are part of each definition.
    """
    made = [(each, pipeline.delayed_until(view, each.column) if each.column else None) for each in view.aggregates()]
    delays = {each.feature: _moment(pipeline, delay) if delay else None for each, delay in made}
    group: dict[str, Any] = {"by": sorted(view.by), "at": _moment(pipeline, view.at), "days": None}
    if view.days is not None:
        group["days"] = [max(view.days), *sorted({_digest(delay) for delay in delays.values()})]
    for each, _ in made:
        yield (
            each.feature,
            group
            | {
                "function": each.function,
                "seconds": window_length(each.window).total_seconds(),
                "column": each.column,
                "type": pipeline.columns[each.column].type if each.column else None,
                "value": each.value,
                "delay": delays[each.feature],
            },
        )
    if view.since_last:
        yield SINCE_LAST, group | {"function": "since_last", "seconds": view.longest.total_seconds()}
