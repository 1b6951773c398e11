"""Expressions over features of several views of one row, which are computed when the views are joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from rempart.settings.columns import NUMERIC, Column
from rempart.settings.expressions import checking, syntax
from rempart.settings.expressions.checking import Typed

ACROSS = "expressions"
"""What stands in the place of a view in the names of these features."""


class Typing(Protocol):
    """A view: it tells each of its features as a column of its type."""

    def types(self, columns: dict[str, Column]) -> dict[str, Column]: ...


def inputs(texts: Mapping[str, str], views: Mapping[str, Typing], columns: dict[str, Column]) -> dict[str, Column]:
    """Return the inputs of a model in order, as `view__feature`, each as a column of its type; no free text.

    Raises ExpressionFault.
    """
    told = {f"{name}__{f}": c for name, view in views.items() for f, c in view.types(columns).items()}
    made = {f"{ACROSS}__{name}": made_column(typed.type) for name, typed in across(texts, views, columns).items()}
    return {name: column for name, column in (told | made).items() if column.type != "string"}


def across(texts: Mapping[str, str], views: Mapping[str, Typing], columns: dict[str, Column]) -> dict[str, Typed]:
    """Return the typed trees of expressions over features, each named `view.feature`. Raises ExpressionFault."""
    known = _named(views, columns) if texts else {}
    return {name: checking.checked(text, known) for name, text in texts.items()}


def faults(texts: Mapping[str, str], views: Mapping[str, Typing], columns: dict[str, Column]) -> Iterator[str]:
    """Yield what is wrong with expressions over features, of views that are right."""
    if ACROSS in views:
        yield f"features.{ACROSS}: the name is reserved; rename the view"
    told = [f"{view}__{feature}" for view, made in views.items() for feature in made.types(columns)]
    told += [f"{ACROSS}__{name}" for name in texts]
    for twice in sorted({name for name in told if told.count(name) > 1}):
        yield f"features: two features are called '{twice}' in a training set; rename a view or a feature"
    known = _named(views, columns) if texts else {}
    for name, text in texts.items():
        try:
            if not syntax.columns_of(text):
                yield f"{ACROSS}.{name}: it names no feature; write it as VIEW.FEATURE"
            if checking.checked(text, known).type == "string":
                yield f"{ACROSS}.{name}: it gives a text, which no model reads; give a number or a boolean"
        except syntax.ExpressionFault as fault:
            yield f"{ACROSS}.{name}: {fault}"


def _named(views: Mapping[str, Typing], columns: dict[str, Column]) -> dict[str, Column]:
    """Return the features that enter a model, as columns of the name `view.feature`."""
    return {
        f"{name}.{feature}": column
        for name, view in views.items()
        for feature, column in view.types(columns).items()
        if column.type in (*NUMERIC, "boolean", "category")
    }


def made_column(type_: str) -> Column:
    """Return a feature that is computed as a column: a number, an integer, a boolean or a string."""
    return Column.model_validate({"type": type_, "known": ""})
