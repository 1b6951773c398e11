"""Columns of a pipeline's schema and their types, moments of a row's life, and periods that partition a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import time, timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rempart.settings import clock
from rempart.settings.clock import Offset
from rempart.settings.schema import Strict

ColumnType = Literal[
    "integer", "number", "decimal", "boolean", "string", "category", "date", "timestamp", "array"
]  # fmt: skip
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
CalendarPart = Literal["year", "month", "week", "day_of_month", "day_of_week", "day_of_year", "hour"]
Period = Literal["month", "day", "hour"]
NUMERIC: tuple[ColumnType, ...] = ("number", "integer", "decimal")
"""Types of columns with a number."""
TEMPORAL: tuple[ColumnType, ...] = ("date", "timestamp")
"""Types of columns that tell when."""
MAX_PRECISION = 38
"""Digits of the longest decimal: what Arrow's and DuckDB's 128 bits hold."""


class Column(Strict):
    """One column of the source."""

    type: ColumnType
    known: str = Field(description="Moment from which the column's value is known.")
    nullable: bool = False
    values: list[str] | None = Field(default=None, description="Complete list of a category's values.")
    precision: int | None = Field(default=None, ge=1, le=MAX_PRECISION, description="Digits of a decimal, in all.")
    scale: int | None = Field(
        default=None, ge=0, le=MAX_PRECISION, description="Digits of a decimal after the decimal mark."
    )
    items: Literal["number", "string"] | None = Field(default=None, description="Type of an array's items.")
    separator: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Character between the items of an array in a text file. Default: the cell is a JSON array.",
    )
    renamed_from: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_]{0,49}$",
        description="Earlier name of the column: rows that were accepted under it keep their values. Not for a key.",
    )
    description: str = ""

    @property
    def full_type(self) -> str:
        """Return the type with its sizes, such as `decimal(12,2)` or `array(number)`."""
        sizes = {"decimal": f"({self.precision},{self.scale})", "array": f"({self.items})"}
        return self.type + sizes.get(self.type, "")

    @property
    def takes_lists(self) -> bool:
        """Return whether lists of JSON Lines and Parquet are taken over as they are."""
        return self.type == "array" and self.separator is None

    @model_validator(mode="after")
    def _type_has_its_keys(self) -> Column:
        if (self.type == "category") != (self.values is not None):
            raise ValueError(
                "`values` and `type: category` belong together: list the category's values, or use `string`"
            )
        sizes = (self.precision is not None, self.scale is not None)
        if sizes != (self.type == "decimal",) * 2:
            raise ValueError(
                "`precision`, `scale` and `type: decimal` belong together (such as precision: 12, scale: 2)"
            )
        if self.precision is not None and self.scale is not None and self.scale > self.precision:
            raise ValueError(f"`scale` ({self.scale}) is larger than `precision` ({self.precision})")
        if (self.type == "array") != (self.items is not None):
            raise ValueError("`items` and `type: array` belong together: write `items: number` or `items: string`")
        if self.separator is not None and self.type != "array":
            raise ValueError("`separator` belongs to `type: array`")
        return self


class Moment(Strict):
    """A point in each row's life: a date or timestamp column, or an offset before or after it.

    A date column gives midnight in UTC, or the clock time `at` in the source's time zone. Days before or after a date
    are calendar days; hours, minutes, and every offset of a timestamp are elapsed time (a day is 24 hours).
    """

    column: str
    at: str | None = Field(
        default=None,
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description='Clock time on the day of a date column, in the source\'s time zone, such as "15:00" (in quotes).',
    )
    minus: Offset | None = Field(
        default=None, description="Fixed time by which the moment is earlier, such as `2 days 3 hours`."
    )
    plus: Offset | None = Field(
        default=None,
        description="Fixed time by which the moment is later, such as `14 days` for an outcome known after so long.",
    )
    minus_days: str | None = None
    minus_hours: str | None = Field(
        default=None, description="Column with a number of hours: the moment is that many hours earlier."
    )
    minus_minutes: str | None = Field(
        default=None, description="Column with a number of minutes: the moment is that many minutes earlier."
    )

    @property
    def columns(self) -> Iterator[str]:
        """Yield every column that the moment is made of."""
        yield self.column
        yield from (name for name in self.offsets if name is not None)

    @property
    def offsets(self) -> tuple[str | None, str | None, str | None]:
        """Return the columns with a number of days, hours and minutes."""
        return (self.minus_days, self.minus_hours, self.minus_minutes)

    @property
    def earlier(self) -> timedelta:
        """Return the fixed time by which the moment is earlier than its column; negative if it is later."""
        return (self.minus or timedelta()) - (self.plus or timedelta())

    @property
    def clock(self) -> time | None:
        """Return the clock time on the day of a date column."""
        return time.fromisoformat(self.at) if self.at else None

    def clock_faults(self, columns: Mapping[str, Column], zone: str | None) -> Iterator[str]:
        """Yield what is wrong with the clock time, with its key. `zone` is the time zone of the source."""
        if self.at is None or self.clock is None or self.column not in columns:
            return
        if columns[self.column].type != "date":
            yield f"at: a clock time belongs to a date column, and '{self.column}' is none"
        elif zone is None:
            yield "at: declare source.time_zone, the zone of the clock"
        elif day := clock.uncertain_day(self.clock, zone):
            yield (
                f"at: clocks in {zone} were changed at {self.at} on {day}, so that this time is "
                "missing or exists twice; choose a time at which they are never changed"
            )

    def is_day(self, columns: dict[str, Column]) -> bool:
        """Return whether the moment is a whole day: of a date column, earlier or later by whole days or not at all."""
        plain = not (self.at or self.minus_hours or self.minus_minutes or self.earlier % timedelta(days=1))
        return plain and columns[self.column].type == "date"


def order_faults(moments: Mapping[str, Moment]) -> Iterator[str]:
    """Yield moments that stand behind a later one. Only fixed offsets of one column tell it without the rows."""
    before: dict[str, tuple[str, timedelta]] = {}
    for name, moment in moments.items():
        if moment.at or any(moment.offsets):
            continue
        latest, earlier = before.get(moment.column, (name, moment.earlier))
        if moment.earlier > earlier:
            yield f"moments.{name}: it is earlier than '{latest}', which stands before it: write them in order of time"
        else:
            before[moment.column] = (name, moment.earlier)


def rename_faults(columns: Mapping[str, Column], key: Sequence[str], removed: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with declared changes of a schema."""
    earlier = [column.renamed_from for column in columns.values() if column.renamed_from]
    for name, column in columns.items():
        if column.renamed_from and name in key:
            yield f"schema.{name}.renamed_from: a key keeps its name, by which old deliveries are searched"
        if column.renamed_from in columns:
            yield f"schema.{name}.renamed_from: column '{column.renamed_from}' is still in the schema"
        if column.renamed_from and earlier.count(column.renamed_from) > 1:
            yield f"schema.{name}.renamed_from: '{column.renamed_from}' is the earlier name of two columns"
    for name in removed:
        if name in columns or name in earlier:
            yield f"removed_columns: column '{name}' is not removed: the schema names it"
