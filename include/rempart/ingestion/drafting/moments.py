"""The section `moments`, with one question for all values that are known later than the row begins."""

from __future__ import annotations

from collections.abc import Iterator

from rempart.ingestion.drafting.writing import comment_lines, explained
from rempart.ingestion.sampling.moment_orders import in_order
from rempart.ingestion.sampling.names import yaml_word
from rempart.ingestion.sampling.survey import Survey

LATER = "docs/how-to/target-comes-later.md"


def lines(s: Survey) -> Iterator[str]:
    """Yield the section, with what its two times mean, and the key `partition_by`.

    A line to uncomment stands for each other date, and for an outcome of the same day. A date that is empty in the same
    rows as the target is its moment.
    """
    dates, target = _dates(s), s.target.name
    outcome = "outcome" if "outcome" not in dates else "outcome_of_the_row"
    known = f"is {target} known from {s.closing} on" if s.closing else f"when is {target} known"
    yield from explained("moments:", asks=f"{known}, and is any other value known later than `event`?")
    asked = "`event` is when you ask for the prediction, and a model reads only what is known by then."
    known = f"The outcome is when {target} is known."
    example = "Example: a loan is granted on 1 March, its `event`, and repaid or not on 1 June, its outcome."
    yield from comment_lines(f"{asked} {known} {example}", "  ")
    for name in in_order(s.time, dates, s.orders, s.earlier):
        mark = "" if name in (s.time, s.closing) else "# "
        yield f"  {mark}{'event' if name == s.time else moment_of(name, s)}: {{column: {yaml_word(name)}}}"
        if name == s.time and not s.closing:
            yield f"  # {outcome}: {{column: {yaml_word(name)}}}"
    if s.open_days:
        told = f"No row of the newest {s.open_days} days has {target}: it comes later than the row."
        yield from comment_lines(told, "  ")
    if s.closing:
        told = f"A row without {target} and {s.closing} is open: it is accepted, and learned from once it is delivered "
        yield from comment_lines(f"{told}again with both ({LATER}).", "  ")
    for way in _ways(s, outcome):
        yield from comment_lines(f"- {way}", "  ", further="  ")
    then = f"Then write that moment below, such as `known: {outcome}`, at {target} and at each value that is known no "
    then += "earlier. Moments stand in order of time."
    if s.closing:
        then = f"Write `known: {moment_of(s.closing, s)}` at each other value that is known no earlier. "
        then += "Moments stand in order of time."
    yield from comment_lines(then, "  ")
    told = f"snapshots are stored by its {s.every}s; other dates: {', '.join(dates)}" if dates else ""
    yield from explained(f"partition_by: {yaml_word(s.time)}", note=told)
    if s.every != "month":
        yield f"partition_every: {s.every}    # there are about {s.rows_a_month:,} rows a month"


def _dates(s: Survey) -> list[str]:
    return [c.name for c in s.columns if c.type in ("date", "timestamp") and c.name != s.time]


def _ways(s: Survey, outcome: str) -> Iterator[str]:
    """Yield how to declare each case. `outcome`: name of the moment of an outcome of the same day."""
    timed = next(c.type for c in s.columns if c.name == s.time) == "timestamp"
    if not s.closing:
        column = "uncomment its line above" if _dates(s) else "declare it, such as `closed: {column: closed_on}`"
        same = "At the same time" if timed else "On the same day"
        yield f"{same}, but after the other values: uncomment `{outcome}`."
        yield f"A column tells when: {column}."
        end = "" if timed else ", from the end of that day"
        way = f"A fixed time later: uncomment `{outcome}`, and add `plus: 14 days` to it{end}."
        yield f"{way} If it varies, take the longest."
        yield f"Not yet for some rows: see {LATER}"
    if any(not c.nullable for c in s.columns if c.name in _dates(s)):
        places = "`event`, `partition_by`, `holdout` and `calendar`"
        yield f"You ask at another date: write it instead of {s.time} at {places}."
    yield f"You ask before {s.time}: add `minus: 3 days` to `event`, or `minus_days` with a column of days."


def moment_of(column: str, s: Survey) -> str:
    """Return the name of a date's moment: the column's, but `event` is taken by the row's time. Pure."""
    if column != "event":
        return yaml_word(column)
    return "event_itself" if "event_itself" not in _dates(s) else "event_of_its_column"
