"""Draft a pipeline file from one delivery or one table, for a person to correct.

Everything that the data cannot show (what is personal, when it is known, what to predict) is a valid guess, marked `#
CHECK:`. The draft never contains values of free text. It contains the values of short closed lists, because they are
the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rempart.errors import PipelineError
from rempart.ingestion.parsing.units import Unit
from rempart.ingestion.sampling.facts import LIKELY_YEARS, ColumnFacts
from rempart.ingestion.sampling.files import of_file
from rempart.ingestion.sampling.moment_orders import in_order
from rempart.ingestion.sampling.names import header_entries, shown, yaml_text, yaml_word
from rempart.ingestion.sampling.orders import Order
from rempart.ingestion.sampling.ranges import Range
from rempart.ingestion.sampling.sample import Sample
from rempart.ingestion.sampling.survey import Survey, pipeline_name, survey
from rempart.settings import plain_yaml
from rempart.settings.columns import NUMERIC
from rempart.settings.expressions.syntax import columns_of
from rempart.settings.pipelines import pipelines_dir

_FEW_ROWS = 20_000
"""Rows up to which a draft proposes small trees."""
_SAME_QUESTIONS = 3
"""Columns up to which a draft asks in the line of each whether its negative numbers are right, and not once for all."""


def draft_pipeline(source: Path | Sample, name: str | None = None, *, target: str | None = None) -> str:
    """Return YAML of a pipeline for deliveries like this file, or for the source of a sample; it loads unchanged.

    `target`: the column to predict; without it, the draft guesses. Raises PipelineError.
    """
    if isinstance(source, Path):
        pipeline_name(source.name, name)  # before a large file is read
        source = of_file(source)
    return "\n".join(_lines(survey(source, name, target))) + "\n"


def save_draft(
    source: Path | Sample, name: str | None = None, folder: Path | None = None, *, target: str | None = None
) -> Path:
    """Write the draft among the pipeline files and return its path; never over a file that is there."""
    text = draft_pipeline(source, name, target=target)
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


def reminder(text: str) -> str | None:
    """Return a sentence about the CHECK lines of a pipeline file that nobody decided; None without such lines. Pure."""
    if not (marked := undecided(text)):
        return None
    lines = ", ".join(str(number) for number in marked[:5]) + (" ..." if len(marked) > 5 else "")
    some, each = ("1 line is", "it") if len(marked) == 1 else (f"{len(marked)} lines are", "each")
    told = f"{some} still marked CHECK in the pipeline file (line {lines}): decide {each}, and delete the mark"
    return f"{told}. Until then the gate refuses every model."


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(yaml_word(value) for value in values) + "]"


def _number(value: float) -> str:
    """Return a number as YAML reads it: one with an exponent has a decimal point."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    digits, mark, power = repr(value).partition("e")
    return f"{digits}.0{mark}{power}" if mark and "." not in digits else repr(value)


def _lines(s: Survey) -> Iterator[str]:
    check = "decide it, then run `rempart pipeline check"
    origin = f"{s.sample.told} of {shown(s.sample.name)}{s.sample.left_out}"
    yield f"# Drafted from {origin}. Each line marked CHECK is a guess: {check} {s.name}`."
    if s.totals:
        rows = "1 row has" if s.totals == 1 else f"{s.totals:,} rows have"
        yield f"# {rows} almost only empty cells, as a line of totals has: such rows go to quarantine."
    yield f"name: {s.name}"
    yield "description: To be written      # CHECK: what is predicted, for whom"
    yield (
        "classification: personal        # CHECK: public, internal, personal or sensitive; it decides where "
        "the data may be stored"
    )
    yield ""
    yield "source:"
    if "kind" not in s.sample.source:
        yield f"  prefix: {s.name}/"
    else:
        yield f"  prefix: {s.name}/      # folder of the landing bucket for what is extracted"
    yield from (f"  {key}: {value}" for key, value in s.sample.source.items())
    if any(name != column for name, column in s.sample.header.items()):
        yield "  header:    # names in the files, which stay as they are, and those of the schema"
        yield from _header(s.sample.header)
    if s.sample.text:
        yield f"  null_values: {json.dumps(s.dialect.null_values)}"
    if s.units:
        yield "  units:    # CHECK: beside each number of these columns, which are read without it"
        yield from (f"    {yaml_word(name)}: {yaml_text(unit.text)}{_absent(unit)}" for name, unit in s.units.items())
    yield from _dialect(s)
    yield ""
    yield f"key: {_list(s.key.columns)}    # CHECK: {_doubt(s)}"
    if "kind" not in s.sample.source:
        repeats = "does a delivery repeat rows, its own or earlier ones, as a full export does? Then newest"
        yield f"on_conflict: refuse    # CHECK: {repeats}"
    yield ""
    yield "moments:                        # CHECK: in order of time; add each moment at which more becomes known"
    dates = [c.name for c in s.columns if c.type in ("date", "timestamp") and c.name != s.time]
    for name in in_order(s.time, dates, s.orders, s.earlier):
        moment = "event" if name == s.time else f"# {yaml_word(name)}"
        yield f"  {moment}: {{column: {yaml_word(name)}}}"
    yield f"partition_by: {yaml_word(s.time)}" + (
        f"    # CHECK: snapshots are stored by its {s.every}s; other dates: {', '.join(dates)}" if dates else ""
    )
    if s.every != "month":
        yield f"partition_every: {s.every}    # CHECK: there are about {s.rows_a_month:,} rows a month"
    yield ""
    yield ("schema:                         # CHECK: `known` of each column: the moment from which its value is known")
    for column in s.columns:
        yield f"  {yaml_word(column.name)}: {_column(column, s)}"
    yield ""
    yield from _expectations(s)
    yield ""
    yield from _learning(s)


def _doubt(s: Survey) -> str:
    """Return why the key may be another one."""
    doubts = ["does it identify a row in all deliveries?"]
    if s.sample.key:
        doubts = ["the primary key of the table"]
    elif not s.key.certain:
        doubts = ["no column identifies a row in these rows"]
    if s.key.note:
        doubts.append(f"{s.key.note}.")
    others = [c.name for c in s.columns if c.unique and c.name not in s.key.columns and c.type != "number"]
    return " ".join(doubts) + (f" Also unique here: {', '.join(others)}" if others else "")


def _dialect(s: Survey) -> Iterator[str]:
    """Yield how the source writes numbers and times, where it differs from the defaults."""
    check = {
        "decimal": "the numbers can also be read with another decimal mark",
        "thousands": "the numbers can also be read with another decimal mark",
        "dates": "the dates can also be read in another order of day and month",
        "time_zone": "the zone in which clocks at the source show these times, such as Europe/Berlin",
    }
    for key, default in (("decimal", "."), ("thousands", ""), ("dates", "YYYY-MM-DD"), ("time_zone", None)):
        if (value := getattr(s.dialect, key)) != default or key in s.uncertain:
            yield f"  {key}: {json.dumps(value)}" + (f"    # CHECK: {check[key]}" if key in s.uncertain else "")
    if s.dialect.time_zone is None and any(column.offset for column in s.columns):
        counted = "the times have offsets. Their days, months and hours in `calendar` and the hold-out are those of UTC"
        yield f"  # time_zone: Europe/Berlin    # CHECK: {counted}: uncomment it for those that clocks showed"


def _header(columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the entries of `header`; one of a name that the files have several times says so."""
    for name, column in columns.items():
        again = re.fullmatch(r"(.*) \(([0-9]+)\)", name, re.DOTALL)
        told = f"    # column {again[2]} of this name" if again and again[1] in columns else ""
        yield from (f"    {entry}{told}" for entry in header_entries({name: column}))


def _absent(unit: Unit) -> str:
    """Return how many cells do not have the unit of their column; empty without such cells."""
    if not unit.absent:
        return ""
    cells = "1 cell does" if unit.absent == 1 else f"{unit.absent:,} cells do"
    return f"    # {cells} not have it; such rows go to quarantine"


def _column(column: ColumnFacts, s: Survey) -> str:
    needed = column.name in (*s.key.columns, s.time, s.target.name)
    parts = [f"type: {column.type}", "known: event"]
    if column.type == "decimal":
        parts += [f"precision: {column.precision}", f"scale: {column.scale}"]
    if column.type == "array":
        parts.append(f"items: {column.items}")
    if column.separator:
        parts.append(f"separator: {json.dumps(column.separator)}")
    notes = [column.note] if column.note else []
    if column.nullable and not needed:
        parts.append("nullable: true")
    if column.type == "category":
        parts.append(f"values: {_list(column.values)}")
        people = "if it names people, write `type: string` without values, and take it out of `columns`"
        notes.append(f"is the list complete? {people}")
    if column.type == "array":
        notes.append("arrays are stored, and no feature")
    if column.type == "string":
        notes.append("free text never enters a model")
    if column.nullable and needed:
        notes.append("empty in some rows, which go to quarantine")
    if "nullable: true" in parts and column.type in ("date", "timestamp"):
        quarantine = "rows without it wait in quarantine until they are delivered again"
        quarantine += ". If they are many, raise `max_quarantined`, too"
        notes.append(f"empty in some rows. To use it as a moment, delete `nullable`: {quarantine}")
    if column.name in s.constant:
        notes.append("the same value in all these rows, which tells a model nothing")
    if other := s.together.get(column.name):
        notes.append(f"empty in the same rows as {other}: known only with it?")
    if column.name in s.leaks:
        notes.append(f"{column.name} alone almost determines {s.target.name}: is it known at `event`?")
    if column is s.target:
        later = f"set `known:` of {column.name} under `schema` to that moment"
        if s.open_days:
            page = "docs/how-to/target-comes-later.md"
            notes.append(f"no row of the newest {s.open_days} days has it: it comes later than the row ({page})")
        notes.append(f"the target. If it is known later than `prediction.at`, {later}")
    return "{" + ", ".join(parts) + "}" + (f"    # CHECK: {'; '.join(notes)}" if notes else "")


def _expectations(s: Survey) -> Iterator[str]:
    told = "ranges, rounded outwards, and orders are those of these rows"
    possible = "Set the limits of what is possible: rows outside go to quarantine"
    ranges = [c.range for c in s.columns if c.range is not None and c.name not in s.key.columns]
    negative = sum(1 for range_ in ranges if range_.negative)
    once = negative > _SAME_QUESTIONS
    below = f". {negative} columns have a few negative numbers: is that right?" if once else ""
    yield f"expectations:                   # CHECK: {told}. {possible}{below}"
    between = "expect: expect_column_values_to_be_between"
    for column in s.columns:
        if (range_ := column.range) is None or column.name in s.key.columns:
            continue
        limits = f"min_value: {_number(range_.low)}, max_value: {_number(range_.high)}"
        rule = f"{between}, column: {yaml_word(column.name)}, {limits}, reason: {column.name} is out of range"
        yield f"  - {{{rule}}}{_unlikely(range_, ask_negative=not once)}"
    first, last = LIKELY_YEARS
    for column in s.columns:
        if column.unlikely and column.name not in (s.time, *s.key.columns):
            limits = f"min_value: {first}-01-01, max_value: {last}-12-31"
            rule = f"{between}, column: {yaml_word(column.name)}, {limits}, reason: {column.name} is out of range"
            many = f"{column.unlikely:,} {'is' if column.unlikely == 1 else 'are'} outside"
            yield f"  - {{{rule}}}    # CHECK: {many}; such rows go to quarantine"
    yield from map(_order, s.orders)
    span = f"min_value: {s.first_day.year:04d}-01-01, max_value: {s.last_year}-12-31"
    yield f"  - {{{between}, column: {yaml_word(s.time)}, {span}, reason: {s.time} is out of range}}"
    yield "max_quarantined: 0.05"


def _order(order: Order) -> str:
    """Return the expectation that a date is not before another, and how many rows break it."""
    rule = f"expect: expect_column_pair_values_a_to_be_greater_than_b, column_A: {yaml_word(order.then)}, "
    rule += f"column_B: {yaml_word(order.first)}, or_equal: true, ignore_row_if: either_value_is_missing, "
    line = f"  - {{{rule}reason: {order.then} is before {order.first}}}"
    if not order.broken:
        return line
    breaks = "row breaks" if order.broken == 1 else "rows break"
    return f"{line}    # CHECK: {order.broken:,} of {order.rows:,} {breaks} it; such rows go to quarantine"


def _unlikely(found: Range, *, ask_negative: bool) -> str:
    """Return what in the rows contradicts a range, or may; without `ask_negative`, negative numbers are no question."""
    told: list[str] = []
    notes: list[str] = []
    if found.outside:
        outside = f"{found.outside:,} of {found.cells:,} {'is' if found.outside == 1 else 'are'} outside"
        span = f"{_number(found.low)} to {_number(found.high)}"
        told.append(f"{outside} {span}, the farthest at about {_number(found.far)}; such rows go to quarantine")
    if found.negative:
        below = f"{found.negative:,} of {found.cells:,} {'is' if found.negative == 1 else 'are'} negative"
        (told if ask_negative else notes).append(f"{below}: is that right?" if ask_negative else below)
    if found.reached:
        notes.append(f"{_number(found.high)} is the largest here: raise it if larger ones are right")
    mark = "CHECK: " if told else ""
    return f"    # {mark}{'; '.join([*told, *notes])}" if told or notes else ""


def _learning(s: Survey) -> Iterator[str]:
    varying = [c for c in s.named() if c.name not in s.constant]
    inputs = [c.name for c in varying if c.type in (*NUMERIC, "boolean", "category")]
    groups = [c.name for c in varying if c.type == "category"]
    numeric = s.target.type in ("number", "integer", "decimal")
    task, metric = ("regression", "mae") if numeric else ("classification", "log_loss")
    target, time = yaml_word(s.target.name), yaml_word(s.time)
    yield "features:"
    yield ("  own:                          # CHECK: remove columns that are not known in time or should not decide")
    yield "    kind: row"
    yield f"    columns: {_list(inputs)}    # left out: {_left_out(s)}"
    yield f"    calendar: {{{time}: [month, day_of_week, day_of_year]}}"
    if ages := ", ".join(_ages(s)):
        yield f"    expressions: {{{ages}}}    # CHECK: days from these dates to the row's time; are they known then?"
    if spans := ", ".join(_spans(s)):
        told = "days between dates, for a view at a moment when both are known"
        yield f"    # {'add to ' if ages else ''}expressions: {{{spans}}}    # {told}"
    if groups and numeric:
        yield "  trend:                        # mean and count over earlier rows of the same group"
        yield "    kind: trailing"
        yield f"    by: [{yaml_word(groups[0])}]"
        yield "    days: [30, 90]"
        yield f"    mean: [{target}]"
    yield ""
    yield f"prediction: {{target: {target}, task: {task}, at: event}}    # CHECK: {_other_target(s)}"
    tested = "models are tested on the newest days, and do not learn from them"
    fixed = "With `start: DATE`, no row from that date on is learned from, until you move it"
    if s.open_days:
        tested += f". No row of the newest {s.open_days} days has {s.target.name}, so fewer days are measured"
    yield f"holdout: {{column: {time}, last: {s.last_days}d}}    # CHECK: {tested}. {fixed}"
    yield ""
    yield from _trainer(s.sample.rows, skewed=s.skewed and metric == "mae")
    yield ""
    yield "gate:"
    yield f"  metric: {metric}"
    if s.positive:
        found = "the class that you look for: the rarer one is drafted. pr_auc, f1 and cost ask for it"
        yield f"  positive: {yaml_word(s.positive)}    # CHECK: {found}"
    ceiling = f"a worse {metric} never passes, and every model must also beat the baseline"
    guess = (
        f"the {metric} of always guessing {'the mean' if numeric else 'the shares of the classes'}, and a quarter more"
    )
    useless = f"Set the {metric} from which a model is of no use to you"
    yield f"  limit: {_number(s.limit)}    # CHECK: {ceiling}. Drafted: {guess}. {useless}"
    yield "  baseline_margin: 0.1    # share of the baseline's error by which a model must be better"
    yield f"  baseline_by: [{yaml_word(groups[0]) if groups else s.time + '.month'}]"


def _ages(s: Survey) -> Iterator[str]:
    """Yield the days since each date that lies before the row's time, as an expression of a name that is free."""
    taken = {column.name for column in s.columns}
    for column in s.earlier:
        name, age = f"days_since_{column}", f"days_since({column})"
        if name not in taken and len(name) <= 40 and columns_of(age) == [column]:
            yield f"{name}: {age}"


def _spans(s: Survey) -> Iterator[str]:
    """Yield the days between two dates of which one is never before the other, as an expression of a free name."""
    taken = {column.name for column in s.columns}
    for order in s.orders:
        name, span = f"{order.first}_to_{order.then}", f"days_between({order.then}, {order.first})"
        if name not in taken and len(name) <= 40 and set(columns_of(span)) == {order.first, order.then}:
            yield f'{name}: "{span}"'


def _trainer(rows: int, *, skewed: bool) -> Iterator[str]:
    few = rows <= _FEW_ROWS
    params = ["max_iter: 150, learning_rate: 0.05, max_leaf_nodes: 6"] if few else []
    notes = ["small trees: of few rows, large trees learn each by heart"] if few else []
    if skewed:
        params.append("loss: absolute_error")
        notes.append("absolute_error: a few large values of the target would rule a squared one, and mae is measured")
    some = f", params: {{{', '.join(params)}}}" if params else ""
    yield f"trainer: {{use: gradient_boosting{some}}}" + (f"    # {'; '.join(notes)}" if notes else "")


def _other_target(s: Survey) -> str:
    """Return whether the target is a guess, and how to draft for another column."""
    if s.target_chosen:
        return "the column to predict, as you chose it; when is it asked for?"
    another = "For another column, remove this file and draft again with `--target COLUMN`"
    return f"a guess of the column to predict. {another}: it also sets task, metric, baseline and features"


def _left_out(s: Survey) -> str:
    """Return the columns that are no inputs, and which of them a person may add."""
    names = ", ".join(dict.fromkeys((*s.key.columns, s.target.name, *(c.name for c in s.named("string")), *s.constant)))
    groups = [c.name for c in s.columns if c.name in s.key.columns and c.type == "category"]
    if groups:
        return f"{names}. Add {groups[0]} if the model shall tell its values apart, as with stations or shops"
    nothing = "A number that differs in each row, such as an invoice number, teaches a model nothing"
    thing = "One that names a thing, such as a vehicle, is no quantity: use it in `by` of a trailing view"
    return f"{names}. {nothing}. {thing}"
