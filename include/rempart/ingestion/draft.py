"""Draft a pipeline file from one delivery, for a person to correct.

Everything that the file cannot show (what is personal, when it is known, what to predict) is a valid guess, marked `#
CHECK:`. The draft never contains values of free text. It contains the values of short closed lists, because they are
the schema.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from statistics import fmean

from rempart.errors import PipelineError
from rempart.ingestion import reading, unpacking
from rempart.ingestion.parsing import recognise
from rempart.ingestion.parsing.numbers import number, pattern
from rempart.settings import plain_yaml
from rempart.settings.pipeline import ColumnType, Source
from rempart.settings.pipelines import pipelines_dir

MOST_CATEGORIES = 20
NULL_TOKENS = ("NA", "N/A", "null", "NULL", "None", "NaN", "nan", "-")
_PLAIN = re.compile(r"[a-z][a-z0-9_]*")
_YAML_WORDS = {"yes", "no", "true", "false", "on", "off", "null", "y", "n"}


@dataclass(frozen=True)
class ColumnFacts:
    """Facts about one column of the file."""

    name: str
    type: ColumnType
    nullable: bool
    unique: bool
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Survey:
    """Facts about the whole file, and guesses from it."""

    name: str
    source: Source
    uncertain: Collection[str]
    columns: tuple[ColumnFacts, ...]
    key: tuple[str, ...]
    key_certain: bool
    time: str
    first_day: date
    split_day: date
    target: ColumnFacts
    limit: float

    def named(self, *types: str) -> list[ColumnFacts]:
        """Return columns of these types that are neither key nor target."""
        return [c for c in self.columns if c.type in types and c.name not in self.key and c.name != self.target.name]


def draft_pipeline(csv: Path, name: str | None = None) -> str:
    """Return YAML of a pipeline for deliveries like this file (.csv or .csv.gz); it loads unchanged.

    Raises PipelineError.
    """
    return "\n".join(_lines(survey(csv, name))) + "\n"


def save_draft(csv: Path, name: str | None = None, folder: Path | None = None) -> Path:
    """Write the draft among the pipeline files and return its path; never over a file that is there."""
    text = draft_pipeline(csv, name)
    file = (folder or pipelines_dir()) / f"{plain_yaml.load(text)['name']}.yaml"
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError as cause:
        raise PipelineError(
            f"draft a pipeline: {file} already exists", "Draft under another name (--name), or remove the file."
        ) from cause
    return file


def undecided(text: str) -> list[int]:
    """Return the numbers of the lines of a pipeline file that a draft marked CHECK and nobody decided. Pure."""
    return [number for number, line in enumerate(text.splitlines(), 1) if re.search(r"# CHECK\b", line)]


def survey(csv: Path, name: str | None = None) -> Survey:
    """Look at a file: types, keys, time, target. Raises PipelineError where no pipeline can come of it."""
    pipeline = name or re.sub(r"[^a-z0-9]+", "_", csv.name.lower().split(".", 1)[0]).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", pipeline):
        raise PipelineError(
            f"name a pipeline after {csv.name}: its name has no usable characters",
            "Pass a name of lower case letters, digits and _ (--name).",
        )
    source, header, rows = _read(csv, pipeline)
    table = {column: [row[i] for row in rows] for i, column in enumerate(header)}
    tokens = [t for t in NULL_TOKENS if any(_is_null_token(t, values) for values in table.values())]
    nulls = ["", *tokens]
    guessed = recognise.guess([set(values) - set(nulls) for values in table.values()], source)
    source = Source.model_validate({**guessed.dialect.model_dump(), "null_values": nulls})
    columns = tuple(_facts(column, values, source) for column, values in table.items())
    dated = [c for c in columns if c.type in ("date", "timestamp")]
    times = [c for c in dated if not c.nullable] or dated
    if not times:
        raise PipelineError(
            f"draft a pipeline from {csv.name}: no column holds dates, such as 2025-03-30 or 30.03.2025",
            "Add a date column with the time of each row: snapshots are stored by month, and models are tested "
            "on later rows.",
        )
    key, certain = _key(columns, table)
    free = [c for c in columns if c.name not in key]
    numbers = [c for c in free if c.type == "number"] or [c for c in free if c.type == "integer"]
    classes = [c for c in free if c.type in ("category", "boolean")]
    if not numbers and not classes:
        raise PipelineError(
            f"draft a pipeline from {csv.name}: it has no column of numbers or of a closed list of values to predict",
            "Add the column that the model shall predict.",
        )
    target = (numbers or classes)[-1]
    days = sorted(day for value in set(table[times[0].name]) if (day := recognise.day(value, source)))
    split = days[int(len(days) * 0.8)]
    return Survey(
        pipeline,
        source,
        guessed.uncertain,
        columns,
        key,
        certain,
        times[0].name,
        days[0],
        split if split > days[0] else days[0] + timedelta(days=1),
        target,
        _naive_limit(target, [value for value in table[target.name] if value not in nulls], source),
    )


def _read(csv: Path, pipeline: str) -> tuple[Source, list[str], Sequence[Sequence[str]]]:
    try:
        body = csv.read_bytes()
    except OSError as cause:
        raise PipelineError(f"read {csv}: {cause.strerror}", "Pass a .csv or .csv.gz file.") from cause
    text, fault = unpacking.unpack(body)
    encoding = next(encoding for encoding in ("utf-8", "cp1252", "latin-1") if _decodes(text, encoding))
    first = text.decode(encoding, "replace").lstrip("\ufeff").splitlines()
    line = first[0] if first else ""
    delimiter = max(",;\t|", key=line.count)
    source = Source.model_validate({"prefix": f"{pipeline}/", "encoding": encoding, "delimiter": delimiter})
    header = [name.strip('"') for name in line.split(delimiter)]
    wrong = [str(i) for i, name in enumerate(header, 1) if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name)]
    if fault or not line or wrong:
        names = (
            f"the names of columns {', '.join(wrong[:20])} have characters other than lower case letters, digits and _"
        )
        what = fault or (names if line else "the file is empty")
        remedy = "Rename them in the first line, such as booking_id." if line and not fault else "Correct the file."
        raise PipelineError(f"draft a pipeline from {csv.name}: {what}", remedy)
    rows = reading.read(csv.name, body, source, header)
    if not rows.cells:
        why = rows.fault or "no row has as many fields as the first line"
        raise PipelineError(
            f"draft a pipeline from {csv.name}: {why}",
            "Pass a file with some ordinary rows.",
        )
    return source, header, rows.cells


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        return text.decode(encoding) is not None
    except UnicodeDecodeError:
        return False


def _is_null_token(token: str, values: Sequence[str]) -> bool:
    """Return whether a value means null in a column of numbers or dates."""
    if token not in values:
        return False
    rest = {value for value in values if value not in (token, "")}
    return bool(rest) and all(recognise.is_value(value) for value in rest)


def _facts(name: str, values: Sequence[str], source: Source) -> ColumnFacts:
    present = [value for value in values if value not in source.null_values]
    distinct = set(present)
    nullable, unique = len(present) < len(values), len(distinct) == len(values)

    def every(pattern: str) -> bool:
        return bool(distinct) and all(re.search(pattern, value) for value in distinct)

    numbers = [number(value, source) for value in distinct]
    if every(pattern(source.decimal, source.thousands)) and None not in numbers:
        known = [value for value in numbers if value is not None]
        broken = any(source.decimal in value or "e" in value.lower() for value in distinct)
        type_: ColumnType = "number" if broken or any(abs(value) >= 1e18 for value in known) else "integer"
        return ColumnFacts(name, type_, nullable, unique, (), min(known), max(known))
    if time := recognise.time_in(distinct, source):
        return ColumnFacts(name, time, nullable, unique)
    if distinct and all(value.lower() in ("true", "false") for value in distinct):
        return ColumnFacts(name, "boolean", nullable, unique)
    if distinct and len(distinct) <= MOST_CATEGORIES and 2 * len(distinct) <= len(present):
        return ColumnFacts(name, "category", nullable, unique, tuple(sorted(distinct)))
    return ColumnFacts(name, "string", nullable, unique, note="" if distinct else "always empty in this file")


def _key(columns: Sequence[ColumnFacts], table: dict[str, list[str]]) -> tuple[tuple[str, ...], bool]:
    """Return the likeliest key (a unique column, else two or three unique together), and whether it is unique here."""
    alone = [c for c in columns if c.unique and c.type in ("integer", "string", "date", "timestamp", "category")]
    if alone:
        return (min(alone, key=lambda c: "id" not in c.name.split("_")).name,), True  # else the leftmost
    parts = [c.name for c in columns if not c.nullable and c.type != "number"][:12]
    for size in (2, 3):
        for group in combinations(parts, size):
            rows = list(zip(*(table[column] for column in group), strict=True))
            if len(set(rows)) == len(rows):
                return group, True
    return (columns[0].name,), False


def _naive_limit(target: ColumnFacts, values: Sequence[str], source: Source) -> float:
    """Return the score of a constant guess: mean absolute deviation, or the log loss of equally likely classes."""
    if target.type in ("number", "integer"):
        numbers = [known for value in values if (known := number(value, source)) is not None]
        centre = fmean(numbers)
        return float(f"{fmean(abs(n - centre) for n in numbers) or 1.0:.3g}")
    return round(math.log(max(2, len(target.values))), 3)


def _word(value: str) -> str:
    if _PLAIN.fullmatch(value) and value not in _YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())  # a quoted YAML scalar reads JSON's escapes


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(_word(value) for value in values) + "]"


def _outwards(value: float, up: bool) -> float:
    """Round away from the data, to two digits."""
    if not value:
        return 0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    rounded = (math.ceil if up else math.floor)(value / step) * step
    return float(f"{rounded:.6g}")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _lines(s: Survey) -> Iterator[str]:
    check = "decide it, then run `rempart pipeline check"
    yield f"# Drafted from one file. Each line marked CHECK is a guess: {check} {s.name}`."
    yield f"name: {s.name}"
    yield "description: To be written      # CHECK: what is predicted, for whom"
    yield (
        "classification: personal        # CHECK: public, internal, personal or sensitive; it decides where "
        "the data may be stored"
    )
    yield ""
    yield "source:"
    yield "  format: csv"
    yield f"  prefix: {s.source.prefix}"
    yield f"  encoding: {s.source.encoding}" + ("" if s.source.encoding == "utf-8" else "    # CHECK: it is not UTF-8")
    yield f"  delimiter: {json.dumps(s.source.delimiter)}"
    yield f"  null_values: {json.dumps(s.source.null_values)}"
    yield from _dialect(s)
    yield ""
    doubt = (
        "does it identify a row in all deliveries?" if s.key_certain else ("no column identifies a row in this file")
    )
    others = [c.name for c in s.columns if c.unique and c.name not in s.key and c.type != "number"]
    yield f"key: {_list(s.key)}    # CHECK: {doubt}" + (f" Also unique here: {', '.join(others)}" if others else "")
    yield ""
    yield "moments:                        # CHECK: in order of time; add each moment at which more becomes known"
    yield f"  event: {{column: {_word(s.time)}}}"
    dates = [c.name for c in s.columns if c.type in ("date", "timestamp") and c.name != s.time]
    yield f"partition_by: {_word(s.time)}" + (f"    # CHECK: other dates: {', '.join(dates)}" if dates else "")
    yield ""
    yield ("schema:                         # CHECK: `known` of each column: the moment from which its value is known")
    for column in s.columns:
        yield f"  {_word(column.name)}: {_column(column, s)}"
    yield ""
    yield from _expectations(s)
    yield ""
    yield from _learning(s)


def _dialect(s: Survey) -> Iterator[str]:
    """Yield how the source writes numbers and times, where it differs from the defaults."""
    check = {
        "decimal": "the numbers can also be read with another decimal mark",
        "thousands": "the numbers can also be read with another decimal mark",
        "dates": "the dates can also be read in another order of day and month",
        "time_zone": "the zone in which clocks at the source show these times, such as Europe/Berlin",
    }
    for key, default in (("decimal", "."), ("thousands", ""), ("dates", "YYYY-MM-DD"), ("time_zone", None)):
        if (value := getattr(s.source, key)) != default or key in s.uncertain:
            yield f"  {key}: {json.dumps(value)}" + (f"    # CHECK: {check[key]}" if key in s.uncertain else "")


def _column(column: ColumnFacts, s: Survey) -> str:
    needed = column.name in (*s.key, s.time, s.target.name)
    parts = [f"type: {column.type}", "known: event"]
    notes = [column.note] if column.note else []
    if column.nullable and not needed:
        parts.append("nullable: true")
    if column.type == "category":
        parts.append(f"values: {_list(column.values)}")
        notes.append("is the list complete? is a value personal?")
    if column.type == "string":
        notes.append("free text never enters a model")
    return "{" + ", ".join(parts) + "}" + (f"    # CHECK: {'; '.join(notes)}" if notes else "")


def _expectations(s: Survey) -> Iterator[str]:
    yield "expectations:                   # CHECK: ranges are those of one file, rounded outwards"
    between = "expect: expect_column_values_to_be_between"
    for column in s.columns:
        if column.low is None or column.high is None or column.name in s.key:
            continue
        low = 0 if column.low >= 0 else _outwards(column.low, up=False)
        high = max(_outwards(column.high, up=True), low)
        limits = f"min_value: {_number(low)}, max_value: {_number(high)}"
        yield f"  - {{{between}, column: {_word(column.name)}, {limits}, reason: {column.name} is out of range}}"
    span = f"min_value: {s.first_day.year:04d}-01-01, max_value: 2100-12-31"
    yield f"  - {{{between}, column: {_word(s.time)}, {span}, reason: {s.time} is out of range}}"
    yield "max_quarantined: 0.05"


def _learning(s: Survey) -> Iterator[str]:
    inputs = [c.name for c in s.named("integer", "number", "boolean", "category")]
    groups = [c.name for c in s.named("category")]
    numeric = s.target.type in ("number", "integer")
    task, metric = ("regression", "mae") if numeric else ("classification", "log_loss")
    target, time = _word(s.target.name), _word(s.time)
    yield "features:"
    yield ("  own:                          # CHECK: remove columns that are not known in time or should not decide")
    yield "    kind: row"
    yield "    at: event"
    left_out = ", ".join(dict.fromkeys((*s.key, s.target.name)))
    yield f"    columns: {_list(inputs)}    # left out: {left_out}; add a key column that is a group"
    yield f"    calendar: {{{time}: [month, day_of_week, day_of_year]}}"
    if groups and numeric:
        yield "  trend:                        # mean and count over earlier rows of the same group"
        yield "    kind: trailing"
        yield "    at: event"
        yield f"    by: [{_word(groups[0])}]    # CHECK: remove `trend` if the target is known later than `at`"
        yield "    days: [30, 90]"
        yield f"    mean: [{target}]"
    yield ""
    yield f"prediction: {{target: {target}, task: {task}, at: event}}    # CHECK: the column to predict"
    yield (
        f"holdout: {{column: {time}, start: {s.split_day.isoformat()}}}    # CHECK: models are tested from this date"
    )
    yield ""
    yield "trainer: {use: gradient_boosting}"
    yield ""
    yield "gate:"
    yield f"  metric: {metric}"
    guess = "the score of a constant prediction on this file, wrong rows included; set a stricter limit"
    yield f"  limit: {_number(s.limit)}    # CHECK: about {guess}"
    yield f"  baseline_by: [{_word(groups[0]) if groups else s.time + '.month'}]"
