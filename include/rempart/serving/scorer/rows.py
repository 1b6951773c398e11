"""Check the rows of a request and convert their JSON values to those of the model's inputs. Pure.

It accepts what `models.inputs.typed` accepts of the same rows, in microseconds: no table is made of a single row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from rempart.counts import counted
from rempart.errors import PredictionError
from rempart.models.inputs import Input

Row = tuple[Any, ...]
"""Values in the order of the model's inputs: int, float, bool, str, date, datetime (UTC) or None."""
Key = Mapping[str, Any]
"""JSON values of the columns that identify an entity."""
_INT64 = 1 << 63
_DATE = len("2026-01-31")
_FORMS = {
    "integer": "a whole number of 64 bits",
    "number": "a finite number",
    "decimal": "a finite number",
    "boolean": "true or false",
    "date": 'a date such as "2026-01-31"',
    "timestamp": 'a time with its offset, such as "2026-01-31T12:00:00Z"',
}
Noun = Literal["row", "key"]
"""What a request passes: whole rows, or keys, whose columns have the names of the pipeline file's `schema`."""
_USE: Mapping[Noun, str] = {"row": "the model reads it", "key": "features are looked up by it"}
_MISSING = object()
_NESTED = frozenset((list, dict))


class _Unfit(ValueError):
    """A value does not have its column's type."""


class RowTypes:
    """Reads rows of a model's inputs. One row is read value by value, and more of them column by column."""

    def __init__(self, inputs: Sequence[Input], noun: Noun = "row") -> None:
        self._inputs, self._noun = inputs, noun
        self._none = (None,) * len(inputs)
        self._columns = [_Column(each.name, _converter(each), each.nullable, frozenset(each.values)) for each in inputs]

    def typed(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Return the values of each row in the order of the inputs; other columns are passed over.

        A column that may be null is null where a row lacks it, unless the row has none of the columns.
        Raises PredictionError with the column and the number of rows at fault, never with a value.
        """
        try:
            if len(rows) == 1 or not self._columns:
                made = [tuple(column.value(row) for column in self._columns) for row in rows]
            else:
                made = list(zip(*(column.values(rows) for column in self._columns), strict=True))
        except _Unfit:
            raise _fault(self._inputs, rows, self._noun) from None
        if self._columns and self._none in made and any(_is_foreign(self._inputs, row) for row in rows):
            raise _fault(self._inputs, rows, self._noun)
        return made


@dataclass(frozen=True, slots=True)
class _Column:
    """`declared`: the values of a category; empty if it may have any."""

    name: str
    convert: Callable[[Any], Any]
    nullable: bool
    declared: frozenset[str]

    def value(self, row: Mapping[str, Any]) -> Any:
        given = row.get(self.name, _MISSING)
        if given is None or given is _MISSING:
            if self.nullable:
                return None
            raise _Unfit
        value = self.convert(given)
        if self.declared and value not in self.declared:
            raise _Unfit
        return value

    def values(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        name = self.name
        try:
            given = [row[name] for row in rows]
        except KeyError:
            if not self.nullable:
                raise _Unfit from None
            given = [row.get(name) for row in rows]
        kinds, there = set(map(type, given)), given
        if type(None) in kinds:
            if not self.nullable:
                raise _Unfit
            kinds.remove(type(None))
            there = [value for value in given if value is not None]
        made = _at_once(self.convert, kinds.pop(), there) if len(kinds) == 1 else None
        if made is None:
            made = [self.convert(value) for value in there]
        if self.declared and not self.declared.issuperset(made):
            raise _Unfit
        if len(there) == len(given):
            return made
        left = iter(made)
        return [None if value is None else next(left) for value in given]


def _at_once(convert: Callable[[Any], Any], kind: type, values: list[Any]) -> list[Any] | None:
    """Return values of one type as `convert` returns each; None if it must look at each. Raises _Unfit.

    The same list comes back if no value changes.
    """
    if convert is _text and kind is str:
        together = "".join(values)
        return None if "\0" in together or (not together.isascii() and _half_pair(together)) else values
    if convert is _whole and kind is int:
        return values if min(values) >= -_INT64 and max(values) < _INT64 else None
    if convert is _number and kind is float:
        return values if all(map(math.isfinite, values)) else None
    if convert is _truth and kind is bool:
        return values
    if convert in (_date, _instant) and kind is str:
        made = {text: convert(text) for text in set(values)}
        return [made[text] for text in values]
    return None


def typed_rows(inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]], noun: Noun = "row") -> list[Row]:
    """Return the rows that `RowTypes` reads. Raises PredictionError."""
    return RowTypes(inputs, noun).typed(rows)


class KeptColumns:
    """What the log keeps of rows: columns `kept`, of which `key` identifies a row."""

    def __init__(self, kept: Sequence[Input], key: Collection[str]) -> None:
        self._names = frozenset(column.name for column in kept)
        self._key = [(column, _converter(column)) for column in kept if column.name in key]

    def of(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return rows as JSON: values of the key in one form each, the others as they were given.

        Raises PredictionError if a given value of the key is not of its column's type: no erasure would find it. Also
        if a value is a list or an object: nested deep enough, nobody could read the log again.
        """
        names, kept = self._names, list[Mapping[str, Any]]()
        for row in rows:
            kept.append(row if names.issuperset(row) else {name: row[name] for name in row if name in names})
            if not _NESTED.isdisjoint(map(type, kept[-1].values())):
                raise _nested(kept[-1])
        for column, convert in self._key:
            given = [row.get(column.name) for row in kept]
            kinds = set(map(type, given))
            if kinds == {type(None)} or (len(kinds) == 1 and _have_form(convert, kinds.pop(), given)):
                continue
            kept = [_with_key(row, column, convert) for row in kept]
        return kept


def _have_form(convert: Callable[[Any], Any], kind: type, values: list[Any]) -> bool:
    try:
        return _at_once(convert, kind, values) is values
    except _Unfit:
        return False


def _nested(row: Mapping[str, Any]) -> PredictionError:
    column = next(name for name, value in row.items() if type(value) in _NESTED)
    return PredictionError(
        f"predict: column '{column}' has a list or an object in a row",
        "Pass a text, a number, true, false or null, or leave the column out.",
    )


def _with_key(row: Mapping[str, Any], column: Input, convert: Callable[[Any], Any]) -> Mapping[str, Any]:
    if (given := row.get(column.name)) is None:
        return row
    try:
        value = convert(given)
    except _Unfit:
        raise PredictionError(
            f"predict: column '{column.name}' of the key has a value that is not of type '{column.type}'",
            f"Pass {_FORMS.get(column.type, 'a text')}, or leave the key out.",
        ) from None
    return {**row, column.name: value.isoformat() if isinstance(value, date) else value}


def _fault(inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]], noun: Noun) -> PredictionError:
    """Return what is wrong with the first column at fault."""
    columns = "column" if len(inputs) == 1 else "columns"
    for column in inputs:
        doing = f"predict {counted(len(rows), noun)}: column '{column.name}'"
        convert = _converter(column)
        lacking = [row for row in rows if column.name not in row]
        if missing := sum(not column.nullable or _is_foreign(inputs, row) for row in lacking):
            named = f", as `schema` names {'it' if len(inputs) == 1 else 'them'}" if noun == "key" else ""
            optional = [each.name for each in inputs if each.nullable]
            left_out = f"; {', '.join(optional)} may be left out where there is no value" if optional else ""
            return PredictionError(
                f"{doing} is missing in {counted(missing, noun)}, and {_USE[noun]}",
                f"Pass the {columns} {', '.join(each.name for each in inputs)}{named}{left_out}.",
            )
        given = [row.get(column.name) for row in rows]
        if not column.nullable and (empty := sum(value is None for value in given)):
            return PredictionError(
                f"{doing} is null in {counted(empty, noun)}, but it is not nullable",
                f"Pass a value. schema.{column.name} of the pipeline file says what is allowed.",
            )
        there = [value for value in given if value is not None]
        if unfit := sum(not _fits(convert, value) for value in there):
            return PredictionError(
                f"{doing} has {counted(unfit, 'value that is', 'values that are')} not of type '{column.type}'",
                f"Pass {_FORMS.get(column.type, 'a text')}.",
            )
        if column.values and (outside := sum(convert(value) not in column.values for value in there)):
            return PredictionError(
                f"{doing} holds a value in {counted(outside, noun)} that is not among the declared values",
                f"Correct the {noun}s, or add the value to schema.{column.name}.values and train again.",
            )
    return PredictionError(
        f"predict {counted(len(rows), noun)}: they cannot be read", "Pass the columns of the model's inputs."
    )


def _is_foreign(inputs: Sequence[Input], row: Mapping[str, Any]) -> bool:
    """Return whether a row has none of the columns: it is no row of the model's."""
    return not any(each.name in row for each in inputs)


def _converter(column: Input) -> Callable[[Any], Any]:
    return _CONVERTERS.get(column.type) or _text


def _fits(convert: Callable[[Any], Any], value: Any) -> bool:
    try:
        convert(value)
    except _Unfit:
        return False
    return True


def _whole(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not -_INT64 <= value < _INT64:
        raise _Unfit
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _Unfit
    try:
        number = float(value)
    except OverflowError:
        raise _Unfit from None
    if not math.isfinite(number):
        raise _Unfit
    return number


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise _Unfit
    return value


def _text(value: Any) -> str:
    # no database of ours holds NUL in a text
    if type(value) is not str or "\0" in value or (not value.isascii() and _half_pair(value)):
        raise _Unfit
    return value


def _half_pair(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _date(value: Any) -> date:
    if type(value) is not str or len(value) != _DATE or not _begins_with_day(value):
        raise _Unfit
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise _Unfit from None


def _begins_with_day(text: str) -> bool:
    """Return whether a text may begin as 2026-01-31 does: Python reads weeks, too, and days without dashes."""
    return text[4] == text[7] == "-"


def _instant(value: Any) -> datetime:
    if type(value) is not str or len(value) <= _DATE or not _begins_with_day(value):
        raise _Unfit
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise _Unfit
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Unfit from None


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "integer": _whole,
    "number": _number,
    "decimal": _number,
    "boolean": _truth,
    "date": _date,
    "timestamp": _instant,
}
