"""The sections `features`, `prediction`, `holdout`, `trainer` and `gate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rempart.counts import counted
from rempart.ingestion.drafting.writing import comment_lines, explained, list_lines, number_text
from rempart.ingestion.sampling.names import yaml_word
from rempart.ingestion.sampling.survey import Survey
from rempart.settings.columns import NUMERIC
from rempart.settings.expressions.syntax import columns_of

_FEW_ROWS = 20_000
"""Rows up to which a draft proposes small trees."""


def lines(s: Survey) -> Iterator[str]:
    """Yield the sections."""
    varying = [c for c in s.named() if c.name not in s.constant]
    inputs = [c.name for c in varying if c.type in (*NUMERIC, "boolean", "category")]
    groups = [c.name for c in varying if c.type == "category"]
    numeric = s.target.type in ("number", "integer", "decimal")
    task, metric = ("regression", "mae") if numeric else ("classification", "log_loss")
    target, time = yaml_word(s.target.name), yaml_word(s.time)
    yield "features:"
    may = "may a model use each of these columns, and is it known at `event`? Remove the others"
    yield from explained("  own:", asks=may)
    yield "    kind: row"
    yield list_lines("    columns: ", inputs)
    yield from comment_lines(f"Left out: {_left_out(s)}.", "    ")
    of_day = ", hour" if any(c.name == s.time and c.type == "timestamp" for c in s.columns) else ""
    month, day = ("month, ", ", day_of_year") if s.seasons else ("", "")
    more = "In `calendar`, add month and day_of_year once the rows before the tested ones span a year."
    calendar = f"    calendar: {{{time}: [{month}day_of_week{day}{of_day}]}}"
    yield from explained(calendar, note="" if s.seasons else more)
    if ages := ", ".join(_ages(s)):
        yield from explained(f"    expressions: {{{ages}}}", note="days from these dates to the row's time")
    if spans := ", ".join(_spans(s)):
        told = "days between dates, for a view at a moment when both are known"
        yield from explained(f"    # {'add to ' if ages else ''}expressions: {{{spans}}}", note=told)
    lists = [c.name for c in s.columns if c.type == "category"]
    if numeric and (by := [*(name for name in s.naive or () if name in lists), *groups]):
        group = by[0]
        told = f"mean {s.target.name} of earlier rows of the same {group}. Remove the view if no model may use it"
        yield from explained("  trend:", note=told)
        yield "    kind: trailing"
        yield f"    by: [{yaml_word(group)}]"
        yield "    days: [30, 90]"
        yield f"    mean: [{target}]"
    yield ""
    yield from explained(f"prediction: {{target: {target}, task: {task}, at: event}}", asks=_other_target(s))
    tested = f"Models are tested on the newest {counted(s.last_days, 'day')}"
    fixed = "`start: DATE` instead of `last` fixes the first tested day"
    if s.open_days:
        tested += f", counted from the newest row with {s.target.name}"
    yield from comment_lines(f"{tested}, and do not learn from them. {fixed}.")
    yield f"holdout: {{column: {time}, last: {s.last_days}d}}"
    yield ""
    yield from _trainer(s.sample.rows, skewed=s.skewed and metric == "mae")
    yield ""
    yield "gate:"
    yield f"  metric: {metric}"
    if s.positive:
        found = "the class that you look for: the rarer one is drafted. pr_auc, f1 and cost ask for it"
        yield from explained(f"  positive: {yaml_word(s.positive)}", asks=found)
    guess = f"always guessing {'the mean' if numeric else 'the shares of the classes'}"
    useless = f"from which {metric} on is a model of no use to you? Drafted generously: a quarter worse than {guess}"
    yield from explained(f"  limit: {number_text(s.limit)}", asks=useless)
    margin = "share of the baseline's error by which a model must be better"
    yield from explained("  baseline_margin: 0.1", note=margin)
    yield from _baseline(s, groups)


def _baseline(s: Survey, groups: Sequence[str]) -> Iterator[str]:
    """Yield by which groups the guess is made that a model must beat. `groups`: columns, if the rows tell nothing."""
    guess = "the mean" if s.target.type in NUMERIC else "the shares of the classes"
    if s.naive is None:
        yield f"  baseline_by: [{yaml_word(groups[0]) if groups else s.time + '.month'}]"
    elif not s.naive:
        none = f"no groups make {guess} a clearly better guess on the newest {counted(s.last_days, 'day')}"
        yield from explained("  baseline_by: []", note=none)
    else:
        by = ", ".join(name if "." in name else yaml_word(name) for name in s.naive)
        told = f"a model must beat {guess} of each group. These groups err least on the newest "
        told += counted(s.last_days, "day")
        yield from explained(f"  baseline_by: [{by}]", note=told)


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
    for order in (each for each in s.orders if each.then != s.closing):
        name, span = f"{order.first}_to_{order.then}", f"days_between({order.then}, {order.first})"
        if name not in taken and len(name) <= 40 and set(columns_of(span)) == {order.first, order.then}:
            yield f'{name}: "{span}"'


def _trainer(rows: int, *, skewed: bool) -> Iterator[str]:
    few = rows <= _FEW_ROWS
    params = ["max_iter: 150, learning_rate: 0.05, max_leaf_nodes: 6"] if few else []
    notes = ["Small trees: of few rows, large trees learn each by heart"] if few else []
    if skewed:
        params.append("loss: absolute_error")
        notes.append(
            "The absolute error: a few large values of the target would rule a squared one, and mae is measured"
        )
    some = f", params: {{{', '.join(params)}}}" if params else ""
    yield from comment_lines("".join(f"{note}. " for note in notes))
    yield f"trainer: {{use: gradient_boosting{some}}}"


def _other_target(s: Survey) -> str:
    """Return whether the target is a guess, and how to draft for another column."""
    asked = f"Do you ask for it at `event`, the time in {s.time}?"
    if s.target_chosen:
        return f"the column to predict, as you chose it. {asked}"
    return f"a guess of the target. For another, remove this file and draft again with `--target COLUMN`. {asked}"


def _left_out(s: Survey) -> str:
    """Return the columns that are no inputs, and which of them a person may add."""
    other = (c.name for c in s.named("string", "date", "timestamp") if c.name not in (s.time, *s.earlier))
    names = ", ".join(dict.fromkeys((*s.key.columns, s.target.name, *other, *s.constant)))
    groups = [c.name for c in s.columns if c.name in s.key.columns and c.type == "category"]
    told = [names]
    if groups:
        told.append(f"Add {groups[0]} if the model shall tell its values apart, as with stations or shops")
    if any(c.name not in s.constant for c in s.named("integer")):
        told.append("A number that names a row, such as that of an invoice, teaches a model nothing: remove it")
        told.append("One that names a thing, such as a vehicle, is no quantity: use it in `by` of a trailing view")
    return ". ".join(told)
