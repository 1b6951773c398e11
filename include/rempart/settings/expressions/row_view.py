"""A feature view of the row itself: columns, calendar parts and expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rempart.settings.columns import CalendarPart, Column, Name
from rempart.settings.expressions import checking, syntax
from rempart.settings.expressions.checking import Typed
from rempart.settings.schema import Strict


def made_column(type_: str) -> Column:
    """Return a feature that is computed as a column: a number, an integer, a boolean or a string."""
    return Column.model_validate({"type": type_, "known": ""})


class RowView(Strict):
    """Columns of the row itself, as known at a moment."""

    kind: Literal["row"]
    at: str
    columns: list[str] = Field(default_factory=list)
    calendar: dict[str, list[CalendarPart]] = Field(
        default_factory=dict,
        description="Calendar parts of date and timestamp columns; of a timestamp in the source's time zone.",
    )
    expressions: dict[Name, str] = Field(
        default_factory=dict,
        description=(
            "Features that are computed from columns of the row, by name, such as `price / guests` or "
            "`days_since(last_visit)`; docs/reference/expressions.md has operators, functions and what is refused."
        ),
    )

    def features(self) -> list[str]:
        return [*self.columns, *self.calendar_features(), *self.expressions]

    def calendar_features(self) -> list[str]:
        return [f"{column}_{part}" for column, parts in self.calendar.items() for part in parts]

    def read_by_expressions(self) -> dict[str, list[str]]:
        """Return the columns that each expression names."""
        return {name: syntax.columns_of(text) for name, text in self.expressions.items()}

    def checked(self, columns: dict[str, Column]) -> dict[str, Typed]:
        """Return the typed tree of each expression, by name. Raises ExpressionFault."""
        return {name: checking.checked(text, columns) for name, text in self.expressions.items()}

    def types(self, columns: dict[str, Column]) -> dict[str, Column]:
        """Return each feature as a column of its type. Raises ExpressionFault."""
        made = {name: made_column(typed.type) for name, typed in self.checked(columns).items()}
        parts = dict.fromkeys(self.calendar_features(), made_column("integer"))
        return {column: columns[column] for column in self.columns} | parts | made

    def faults(self, columns: dict[str, Column], target: str) -> Iterator[str]:
        """Yield what is wrong with calendar parts and expressions, but for moments."""
        for column, parts in self.calendar.items():
            if "hour" in parts and column in columns and columns[column].type == "date":
                yield f"calendar: column '{column}' is a date, which has no hour"
        for name, text in self.expressions.items():
            if name in columns or name in self.calendar_features():
                yield f"expressions.{name}: a column or a calendar part has this name; choose another one"
            if target in self.read_by_expressions()[name]:
                yield f"expressions.{name}: the target '{target}' cannot be in a feature of the same row; remove it"
            try:
                checking.checked(text, columns)
            except syntax.ExpressionFault as fault:
                yield f"expressions.{name}: {fault}"
