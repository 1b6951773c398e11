"""Columns that a model's user gives for a prediction: those of the source, before features are made of them.

A model's evidence records them, its MLflow version shows them as its signature, and a prediction checks rows by them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from rempart.counts import counted
from rempart.errors import PredictionError
from rempart.settings.clock import FIRST_DAY, LAST_DAY
from rempart.settings.columns import MAX_PRECISION, ColumnType

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST = 4900
"""Characters of a description in MLflow."""


@dataclass(frozen=True)
class Input:
    """One column: its name and type in the pipeline's schema, whether it may be empty, a category's closed list, and
    the digits of a decimal: all of them, and those after the decimal mark.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    values: tuple[str, ...] = ()
    precision: int | None = None
    scale: int | None = None

    def as_json(self) -> dict[str, Any]:
        digits = {"precision": self.precision, "scale": self.scale} if self.precision else {}
        return {"name": self.name, "type": self.type, "nullable": self.nullable, "values": list(self.values), **digits}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Input:
        digits = (data.get("precision"), data.get("scale"))
        return cls(str(data["name"]), data["type"], bool(data["nullable"]), tuple(data["values"]), *digits)

    def example(self, row: int) -> Any:
        """Return a value of its type, made from the declaration alone: never one of the data."""
        match self.type:
            case "category":
                return self.values[row % len(self.values)]
            case "boolean":
                return row % 2 == 1
            case "integer":
                return row
            case "number" | "decimal":
                return float(row)
            case "date":
                return date(2026, 1, 1 + row)
            case "timestamp":
                return datetime(2026, 1, 1 + row, tzinfo=UTC)
        return "text"


def examples(inputs: Sequence[Input], rows: int = 1) -> dict[str, list[Any]]:
    """Return columns of example rows (at most 31)."""
    return {each.name: [each.example(row) for row in range(rows)] for each in inputs}


def usage(model: str, inputs: Sequence[Input]) -> str:
    """Return how to predict in Python, as Markdown of at most 4,900 characters."""
    rows = "".join(f"    {name!r}: [{_literal(value)}],\n" for name, (value,) in examples(inputs).items())
    for text in (f"pyarrow.table({{\n{rows}}})", 'parquet.read_table("rows.parquet")'):
        names = "import pyarrow" if "pyarrow" in text else "from pyarrow import parquet"
        dates = "import datetime\n\n" if "datetime." in text else ""
        code = (
            f"{dates}{names}\n\nfrom rempart.orchestration.runtime import champion\n\nrows = {text}\n"
            f'print(champion("{model}").predict(rows).to_pylist())\n'
        )
        told = (
            "Predict with the champion, in a task or in a notebook of the project. A table may have any number of rows:"
            f"\n\n```python\n{code}```\n"
        )
        if len(told) <= _LONGEST:
            break
    return told


def _literal(value: Any) -> str:
    if isinstance(value, datetime):
        return f"datetime.datetime({value.year}, {value.month}, {value.day}, tzinfo=datetime.UTC)"
    return f"datetime.date({value.year}, {value.month}, {value.day})" if isinstance(value, date) else repr(value)


def typed(inputs: Sequence[Input], rows: pa.Table) -> pa.Table:
    """Return the inputs' columns of rows, each with its type; other columns are left out.

    A column that may be empty, and that the rows lack, is empty in all of them. Raises PredictionError with the column
    and the number of rows at fault, never with a value: another column is missing, or all are; a column has another
    type or more digits than a decimal has, is empty where it may not be, or holds a time outside the calendar or a
    value outside its closed list.
    """
    import pyarrow as pa

    lacking = absent(inputs, rows.column_names)
    if missing := [each.name for each in lacking if not each.nullable or len(lacking) == len(inputs)]:
        raise PredictionError(
            f"predict {counted(rows.num_rows, 'row')}: they lack {_columns(missing)}, which the model reads",
            "Pass these columns, with the names and types of the pipeline's schema.",
        )
    if repeated := [each.name for each in inputs if rows.column_names.count(each.name) > 1]:
        raise PredictionError(
            f"predict {counted(rows.num_rows, 'row')}: they have {_columns(repeated)} more than once",
            "Pass each column once.",
        )
    none, there = pa.nulls(rows.num_rows), set(rows.column_names)
    return pa.table(
        {each.name: _typed(each, rows[each.name].combine_chunks() if each.name in there else none) for each in inputs}
    )


def absent(inputs: Sequence[Input], columns: Collection[str]) -> list[Input]:
    """Return the inputs that are not among the columns of some rows."""
    return [each for each in inputs if each.name not in columns]


def added_line(version: str, now: Sequence[Input], before: Sequence[Input]) -> str:
    """Return which columns a version reads that the champion does not, as a reason of its verdict; empty if none."""
    told = [
        f"{each.name}{' (may be empty)' if each.nullable else ''}" for each in absent(now, [b.name for b in before])
    ]
    return f"version {version} also reads {', '.join(told)}, which the champion does not" if told else ""


def _columns(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"column{'' if len(names) == 1 else 's'} {shown}"


def _typed(column: Input, cells: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    doing = f"predict {counted(len(cells), 'row')}: column '{column.name}'"
    wanted = _kind(column, cells.type)
    try:
        values = None if wanted is None else cells.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # its message quotes a value
        values = None
    if values is None:
        raise PredictionError(
            f"{doing} is {cells.type}, and its values do not fit the declared type '{column.type}'",
            "Pass the column with its declared type: whole numbers as integers, a date as a date, a timestamp with its "
            "time zone, a decimal with no more digits than declared.",
        )
    if pa.types.is_floating(values.type) and (endless := pc.sum(pc.invert(pc.is_finite(values))).as_py()):
        raise PredictionError(
            f"{doing} is NaN or infinite in {counted(endless, 'row')}",
            "Leave these rows out, or pass null where a value is missing and the column is nullable.",
        )
    if pa.types.is_temporal(values.type) and (beyond := _beyond(values)):
        raise PredictionError(
            f"{doing} lies before the year 1 or after the year 9999 in {counted(beyond, 'row')}",
            "Correct or leave out these rows.",
        )
    if values.null_count and not column.nullable:
        raise PredictionError(
            f"{doing} is empty in {counted(values.null_count, 'row')}, but it is not nullable",
            f"Leave these rows out, or pass a value. schema.{column.name} of the pipeline file says what is allowed.",
        )
    if column.values:
        positions = pc.index_in(values, value_set=pa.array(column.values, pa.string()))
        if outside := positions.null_count - values.null_count:
            raise PredictionError(
                f"{doing} holds a value in {counted(outside, 'row')} that is not among the declared values",
                f"Correct the rows, or add the value to schema.{column.name}.values and train again.",
            )
    return values


def _decimal(column: Input, given: pa.DataType) -> pa.DataType:
    """Return the type that a decimal has in a snapshot; a number stays one."""
    import pyarrow as pa

    if not pa.types.is_decimal(given):
        return pa.float64()
    if column.precision is None or column.scale is None:
        return pa.decimal128(MAX_PRECISION, min(given.scale, MAX_PRECISION))
    return pa.decimal128(column.precision, column.scale)


def _beyond(times: pa.Array) -> int:
    """Return how many dates or instants (in microseconds) are outside the calendar of the years 1 to 9999."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of_day = 1 if pa.types.is_date(times.type) else 24 * 3600 * 1_000_000
    ticks = times.view(pa.int32() if pa.types.is_date(times.type) else pa.int64())
    outside = pc.or_(pc.less(ticks, FIRST_DAY * of_day), pc.greater(ticks, (LAST_DAY + 1) * of_day - 1))
    return int(pc.sum(outside).as_py() or 0)


def _kind(column: Input, given: pa.DataType) -> pa.DataType | None:
    """Return the type that a column of this type is converted to; None if it cannot be one of the declared type."""
    import pyarrow as pa

    is_number = pa.types.is_integer(given) or pa.types.is_floating(given)
    is_text = pa.types.is_string(given) or pa.types.is_large_string(given)
    if pa.types.is_dictionary(given):
        is_text = pa.types.is_string(given.value_type) or pa.types.is_large_string(given.value_type)
    fits, kind = {
        "integer": (is_number, pa.int64()),
        "number": (is_number or pa.types.is_decimal(given), pa.float64()),
        # a decimal stays one: DuckDB converts it, as it does for a training set
        "decimal": (is_number or pa.types.is_decimal(given), _decimal(column, given)),
        "boolean": (pa.types.is_boolean(given), pa.bool_()),
        "date": (pa.types.is_date(given), pa.date32()),
        "timestamp": (pa.types.is_timestamp(given) and given.tz is not None, pa.timestamp("us", "UTC")),
    }.get(column.type, (is_text, pa.string()))
    return kind if fits or pa.types.is_null(given) else None
