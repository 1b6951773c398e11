"""Facts about the columns of a sample: type, nulls, numbers and closed lists."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, get_args

from rempart.ingestion.parsing import people, recognise, units
from rempart.ingestion.parsing.numbers import number, pattern
from rempart.ingestion.sampling.ranges import Placeholder, Range, placeholders, proposed
from rempart.ingestion.sampling.sample import Declared
from rempart.settings.columns import MAX_PRECISION, NUMERIC, ColumnType
from rempart.settings.sources import DateFormat, Dialect

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CATEGORIES = 20
_EXACT = 15
"""Significant digits that a floating-point number always keeps."""
_SPARE = 3
"""Digits that a drafted decimal has before its mark, beyond those of the sample."""
LIKELY_YEARS = (1900, 2100)
"""First and last year of a time that a draft does not doubt."""
_SELDOM, _SHOWN = 500, 3
"""A value of a category is told if at most one of so many cells has it, and so many of such values are."""
_SHORT = 12
"""Characters of a text that is told though it is no value of its column: a longer one may tell of a person."""
_SEPARATORS = ("|", ";")
_CODE = re.compile(r"(?:.*_)?(?:post_?code|postal_code|zip(?:_?code)?|plz|postleitzahl|code_postal|codice_postale)")
_CODE_DOUBT = "a code or a quantity? For a code, write `type: category` with its `values`; a sum of codes means nothing"
"""Columns whose whole numbers are names of places, and what a draft asks about them."""
EMPTY = "always empty in these rows"
"""Note of a column without a cell."""


@dataclass(frozen=True)
class ColumnFacts:
    """Facts about one column. `range`: of numbers, without `placeholders`. `precision` and `scale`: of a decimal.

    `note`: what a person should know. `doubt`: what only a person can decide. `people`: why it seems to name people.
    `unlikely`: how many dates or timestamps lie outside of LIKELY_YEARS, if that are few. `offset`: whether timestamps
    have an offset other than that of UTC.
    """

    name: str
    type: ColumnType
    nullable: bool
    unique: bool
    values: tuple[str, ...] = ()
    range: Range | None = None
    note: str = ""
    doubt: str = ""
    people: str = ""
    precision: int = 0
    scale: int = 0
    items: Literal["number", "string"] | None = None
    separator: str | None = None
    unlikely: int = 0
    offset: bool = False
    placeholders: tuple[Placeholder, ...] = ()


def column_facts(
    name: str, column: pa.ChunkedArray, declared: Declared | None, dialect: Dialect, *, wanted: bool = False
) -> ColumnFacts:
    """Return the facts about a column of text. Empty cells are null; the other values decide about the type.

    A few cells may be no number or no time, which the doubt tells: ingestion refuses their rows. Digits that begin with
    a zero, such as a postcode, are no number: it would lose the zero. Of a column that seems to name people, no values
    are listed, unless it is the `wanted` target.
    """
    import pyarrow.compute as pc

    present = column.drop_null()
    distinct = {entry["values"]: entry["counts"] for entry in pc.value_counts(present).to_pylist()}
    nullable, unique = len(present) < len(column), 0 < len(distinct) == len(column)
    stated = re.fullmatch(r"(\w+)(?:\((\d+),(\d+)\)|\((\w+)\))?", declared.type) if declared else None
    if declared and stated and stated[1] != "string":
        type_: ColumnType = stated[1]  # type: ignore[assignment] # a source declares no other type
        range_, unknown = _range(distinct, Dialect()) if type_ in NUMERIC else (None, ())
        return ColumnFacts(
            name,
            type_,
            nullable,
            unique,
            declared.values,
            range_,
            precision=int(stated[2] or 0),
            scale=int(stated[3] or 0),
            items=stated[4],  # type: ignore[arg-type] # number or string
            placeholders=unknown,
        )
    zeros = any(map(_LEADING_ZERO.fullmatch, distinct))
    if declared is None and not zeros and (found := _number(name, distinct, nullable, unique, dialect)):
        is_code = found.type == "integer" and _CODE.fullmatch(name)
        return replace(found, doubt=found.doubt or _CODE_DOUBT) if is_code else found
    if time := recognise.time_in(distinct, dialect):
        doubt = _other_times(distinct, *time, dialect)
        far = _unlikely(distinct, dialect)
        return ColumnFacts(name, time[0], nullable, unique, doubt=doubt, unlikely=far, offset=_has_offset(distinct))
    if declared is None and distinct and all(value.lower() in ("true", "false") for value in distinct):
        return ColumnFacts(name, "boolean", nullable, unique)
    if array := _array(name, distinct, nullable, dialect):
        return array
    if declared is None and not zeros and (found := _nearly_number(name, distinct, dialect)):
        return replace(found, nullable=nullable, unique=unique)
    return _texts(ColumnFacts(name, "string", nullable, unique), distinct, dialect, zeros=zeros, wanted=wanted)


def _texts(plain: ColumnFacts, cells: recognise.Cells, dialect: Dialect, *, zeros: bool, wanted: bool) -> ColumnFacts:
    """Return the facts about a column of texts: a closed list, or free text, whose facts are `plain`. Pure."""
    closed = bool(cells) and len(cells) <= MOST_CATEGORIES and 2 * len(cells) <= sum(cells.values())
    closed = closed and not any("\x00" in value for value in cells)
    measured = _measured(cells)
    why = "" if measured else people.likely(plain.name, cells)
    if closed and (wanted or not why):
        doubt = "; ".join(filter(None, (measured, _seldom(cells))))
        return replace(plain, type="category", values=tuple(sorted(cells)), doubt=doubt, people=why)
    if closed:
        other = "If it does not, write `type: category` with all its `values`, and add it to `columns` below"
        other += ". If it does, and a model may use it all the same, name it in `by` of a trailing view"
        doubt = f"does it name people ({why})? Its values are not listed, and no model reads it. {other}"
        return replace(plain, doubt=doubt, people=why)
    if why:
        return replace(plain, note=f"it seems to name people ({why}): no model reads it", people=why)
    if zeros or not cells:
        return replace(plain, note="digits that begin with 0: kept as text" if zeros else EMPTY)
    return replace(plain, doubt=measured or _other_dates(cells, dialect))


def _seldom(cells: recognise.Cells) -> str:
    """Return the rarest values of a category of which there are few: a misspelt one is among them. Pure."""
    seldom = [value for value, count in sorted(cells.items()) if count * _SELDOM <= sum(cells.values())]
    more = f" and {len(seldom) - _SHOWN} more" if len(seldom) > _SHOWN else ""
    if not seldom:
        return ""
    named = ", ".join(map(json.dumps, seldom[:_SHOWN]))
    return f"seldom: {named}{more}; rows with a value that is not in the list go to quarantine"


def _other_dates(cells: recognise.Cells, dialect: Dialect) -> str:
    """Return that texts are dates of another form than the source's; else "". Pure."""
    for form in get_args(DateFormat):
        if time := recognise.time_in(cells, Dialect(dates=form)):
            return f"{time[0]}s written {form}, but `dates` is {dialect.dates}: write all of a file in the same form"
    return ""


def _measured(cells: recognise.Cells) -> str:
    """Return that texts are durations or numbers with units, and how they become numbers; else "". Pure."""
    derived = "make numbers of them in a derived pipeline (docs/how-to/join-two-pipelines.md#numbers-with-a-unit)"
    if found := units.likely(cells):
        named = json.dumps(found.text, ensure_ascii=False)
        return f"numbers with {named}: let the source write the number alone, or {derived}"
    if several := units.mixed(cells):
        each = ", ".join(f"{count:,} with {json.dumps(unit, ensure_ascii=False)}" for unit, count in several.items())
        return f"numbers in several units ({each}): let the source write one unit, or {derived}"
    if recognise.fitting(cells, lambda text: bool(_CLOCK.fullmatch(text))):
        page = "docs/how-to/join-two-pipelines.md#a-date-and-a-time-in-two-columns"
        return f"times of a day: with their date they are a moment ({page})"
    if recognise.fitting(cells, lambda text: bool(text and _DURATION.fullmatch(text))):
        return f"durations: a text has no order. Let the source write a number of minutes, or {derived}"
    return ""


def _has_offset(cells: recognise.Cells) -> bool:
    """Return whether a time is written with an offset other than that of UTC. Pure."""
    return any(re.search(r":[0-9.]+ ?[+-](?!00:?(00)?\Z)[0-9]{2}(:?[0-9]{2})?\Z", text) for text in cells)


_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?")
_DURATION = re.compile(
    r"(?=.*[0-9])([0-9]+ ?(h|hr|hrs|hours?|std\.?|stunden?))? ?([0-9]+ ?(m|min|mins|minutes?|minuten)\.?)?"
    r" ?([0-9]+ ?(s|sec|secs|seconds?|sek\.?|sekunden?))?",
    re.IGNORECASE,
)
"""Hours, minutes and seconds, such as `1h 25min`, each of which may be absent."""
_LEADING_ZERO = re.compile(r"0[0-9]+")


def _number(name: str, distinct: recognise.Cells, nullable: bool, unique: bool, dialect: Dialect) -> ColumnFacts | None:
    """Return the facts about a column of numbers, or None. Digits that a float would lose make it a decimal."""
    known = re.compile(pattern(dialect.decimal, dialect.thousands)[1:-1])
    if not distinct or not all(map(known.fullmatch, distinct)):
        return None
    if any(number(text, dialect) is None for text in distinct):
        return None
    range_, unknown = _range(distinct, dialect)
    powers = any("e" in text.lower() for text in distinct)
    parts = [_digits(text, dialect.decimal) for text in distinct]
    whole, scale = max(w for w, _ in parts), max(s for _, s in parts)
    if powers or any(dialect.decimal in text for text in distinct):
        if powers or whole + scale > MAX_PRECISION or all(_float_keeps(text, dialect) for text in distinct):
            return ColumnFacts(name, "number", nullable, unique, (), range_, placeholders=unknown)
    elif whole <= 18:
        return ColumnFacts(name, "integer", nullable, unique, (), range_, placeholders=unknown)
    elif unique or whole > MAX_PRECISION:
        return ColumnFacts(name, "string", nullable, unique, note="digits without end: an identifier?")
    return ColumnFacts(
        name,
        "decimal",
        nullable,
        unique,
        (),
        range_,
        "more digits than a `number` keeps",
        precision=min(MAX_PRECISION, whole + scale + _SPARE),
        scale=scale,
        placeholders=unknown,
    )


def _range(cells: recognise.Cells, dialect: Dialect) -> tuple[Range | None, tuple[Placeholder, ...]]:
    """Return the range of the cells that are numbers, and the numbers that it leaves out as they mean "not known"."""
    counted: Counter[float] = Counter()
    texts: dict[float, list[str]] = {}
    for text, count in cells.items():
        if (value := number(text, dialect)) is not None:
            counted[value] += count
            texts.setdefault(value, []).append(text)
    unknown = placeholders(counted)
    range_ = proposed({value: count for value, count in counted.items() if value not in unknown})
    told = tuple(Placeholder(value, counted[value], tuple(sorted(texts[value]))) for value in unknown)
    return (replace(range_, cells=counted.total()) if range_ else None), told


def _others(count: int, cells: int, what: str) -> str:
    """Return a doubt about cells that are something else; empty without such cells."""
    if not count:
        return ""
    return f"{count:,} of {cells:,} cells {'is' if count == 1 else 'are'} no {what}; such rows go to quarantine"


def _other_times(cells: recognise.Cells, kind: recognise.Time, fitting: int, dialect: Dialect) -> str:
    """Return a doubt about cells that are no time of the dialect: how many are written in another form."""
    total = sum(cells.values())
    form, written = recognise.other_form(cells, kind, dialect)
    told = [_others(total - fitting - written, total, kind)]
    if written:
        some = f"{written:,} of {total:,} cells {'is' if written == 1 else 'are'} written {form}"
        told.append(f"{some}; `source.dates` takes one form: correct the file, or these rows go to quarantine")
    return "; ".join(filter(None, told))


def _unlikely(cells: recognise.Cells, dialect: Dialect) -> int:
    """Return how many times lie outside of LIKELY_YEARS; 0 if that are more than a few. Pure."""
    first, last = LIKELY_YEARS
    days = ((recognise.day(text, dialect), count) for text, count in cells.items())
    outside = sum(count for day, count in days if day and not first <= day.year <= last)
    return outside if recognise.few(outside, sum(cells.values())) else 0


def _nearly_number(name: str, cells: recognise.Cells, dialect: Dialect) -> ColumnFacts | None:
    """Return the facts about a column of numbers with a few other cells, which ingestion would refuse; else None."""
    numbers = {text: count for text, count in cells.items() if number(text, dialect) is not None}
    total = sum(cells.values())
    others = total - sum(numbers.values())
    if not numbers or not recognise.few(others, total):
        return None
    found = _number(name, numbers, False, False, dialect)
    if found is None or found.type == "string":
        return None
    told = _others(others, total, "whole number" if found.type == "integer" else "number")
    short = sorted(text for text in cells.keys() - numbers.keys() if len(text) <= _SHORT)
    if short:
        such = ", ".join(map(json.dumps, short[:_SHOWN]))
        told += f" (such as {such}: to read them as empty, add them to `null_values`, and `nullable: true` here)"
    return replace(found, doubt=told)


def _digits(text: str, mark: str) -> tuple[int, int]:
    """Return how many digits stand before and behind the decimal mark; zeros at the end do not count."""
    whole, _, places = text.lower().partition("e")[0].partition(mark)
    return len(re.sub(r"[^0-9]", "", whole)), len(places.rstrip("0"))


def _float_keeps(text: str, dialect: Dialect) -> bool:
    """Return whether a floating-point number tells the same digits as a text."""
    if len(text) <= _EXACT:
        return True
    plain = re.sub(r"[^0-9.\-]", "", text if dialect.decimal == "." else text.replace(".", "").replace(",", "."))
    return Decimal(plain) == Decimal(repr(float(plain)))


def _array(name: str, distinct: Collection[str], nullable: bool, dialect: Dialect) -> ColumnFacts | None:
    """Return the facts about a column whose cells are JSON arrays, or numbers between a separator; else None."""
    if not distinct:
        return None
    if all(value.startswith("[") and value.endswith("]") for value in distinct):
        try:
            items = {type(item) for value in distinct for item in json.loads(value)}
        except (ValueError, RecursionError):
            return None
        if items and items <= {int, float}:
            return ColumnFacts(name, "array", nullable, False, items="number")
        return ColumnFacts(name, "array", nullable, False, items="string") if items == {str} else None
    for separator in _SEPARATORS:
        cells = [value.split(separator) for value in distinct]
        numbers = all(number(item, dialect) is not None for cell in cells for item in cell)
        if separator != dialect.delimiter and numbers and any(len(cell) > 1 for cell in cells):
            return ColumnFacts(name, "array", nullable, False, items="number", separator=separator)
    return None
