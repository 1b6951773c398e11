"""The section `expectations`: ranges of the numbers and dates, and the order of dates."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from rempart.counts import counted
from rempart.ingestion.drafting import unknown_values
from rempart.ingestion.drafting.writing import explained, number_text
from rempart.ingestion.sampling.facts import LIKELY_YEARS
from rempart.ingestion.sampling.names import yaml_word
from rempart.ingestion.sampling.orders import Order
from rempart.ingestion.sampling.ranges import Range
from rempart.ingestion.sampling.survey import Survey

_SAME_QUESTIONS = 3
"""Columns up to which a draft asks the same above the line of each, and not once for all."""
_MOST_REFUSED = 0.05
"""Share of refused rows up to which a delivery is accepted."""


def lines(s: Survey) -> Iterator[str]:
    """Yield the section, and the key `max_quarantined`."""
    possible = "what is possible? Ranges, rounded outwards, are those of these rows; rows outside go to quarantine"
    ranges = [c.range for c in s.columns if c.range is not None and c.name not in s.key.columns]
    negative = sum(1 for range_ in ranges if range_.negative)
    once = negative > _SAME_QUESTIONS
    below = f". {negative} columns have a few negative numbers: is that right?" if once else ""
    unknown = unknown_values.found(s, _MOST_REFUSED)
    doubted = [c for c in s.columns if c.name in unknown.texts and c is not s.target]
    few = len(doubted) <= _SAME_QUESTIONS
    many = "" if few else unknown_values.question_of_many(doubted, unknown, s)
    yield from explained("expectations:", asks=f"{possible}{below}{many}")
    between = "expect: expect_column_values_to_be_between"
    for column in s.columns:
        if (range_ := column.range) is None or column.name in s.key.columns:
            continue
        limits = f"min_value: {number_text(range_.low)}"
        beyond = any(each.number > range_.high for each in column.placeholders)
        if beyond or not (s.closing and column is s.target):  # open rows may end with more than any row until now
            limits += f", max_value: {number_text(range_.high)}"
        rule = f"{between}, column: {yaml_word(column.name)}, {limits}, reason: {column.name} is out of range"
        asks, note = _unlikely(range_, ask_negative=not once, open_end="max_value" not in limits)
        if column.placeholders and (few or column is s.target):
            asks = ". ".join(filter(None, (unknown_values.question(column, unknown, s), asks)))
        elif column.placeholders:
            note = "; ".join(filter(None, (unknown_values.seems(column), note)))
        yield from explained(f"  - {{{rule}}}", asks=asks, note=note)
    first, last = LIKELY_YEARS
    for column in s.columns:
        if column.unlikely and column.name not in (s.time, *s.key.columns):
            limits = f"min_value: {first}-01-01, max_value: {last}-12-31"
            rule = f"{between}, column: {yaml_word(column.name)}, {limits}, reason: {column.name} is out of range"
            many = f"{column.unlikely:,} {'is' if column.unlikely == 1 else 'are'} outside"
            yield from explained(f"  - {{{rule}}}", asks=f"{many}; such rows go to quarantine")
    yield from chain.from_iterable(map(_order, s.orders))
    span = f"min_value: {s.first_day.year:04d}-01-01, max_value: {s.last_year}-12-31"
    rule = f"{between}, column: {yaml_word(s.time)}, {span}, reason: {s.time} is out of range"
    odd = f"{counted(s.odd_days, 'row is', 'rows are')} outside, years from all others; such rows go to quarantine"
    yield from explained(f"  - {{{rule}}}", asks=odd if s.odd_days else "")
    told = "share of rows; a run that refuses more holds the deliveries at fault back"
    yield from explained(f"max_quarantined: {_MOST_REFUSED}", note=told)


def _order(order: Order) -> Iterator[str]:
    """Yield the expectation that a date is not before another, with how many rows break it."""
    rule = f"expect: expect_column_pair_values_a_to_be_greater_than_b, column_A: {yaml_word(order.then)}, "
    rule += f"column_B: {yaml_word(order.first)}, or_equal: true, ignore_row_if: either_value_is_missing, "
    line = f"  - {{{rule}reason: {order.then} is before {order.first}}}"
    breaks = "row breaks" if order.broken == 1 else "rows break"
    broken = f"{order.broken:,} of {order.rows:,} {breaks} it; such rows go to quarantine" if order.broken else ""
    yield from explained(line, asks=broken)


def _unlikely(found: Range, *, ask_negative: bool, open_end: bool) -> tuple[str, str]:
    """Return what in the rows contradicts a range, or may, as a question, and what to know of it as a note.

    Without `ask_negative`, negative numbers are no question. `open_end`: the range has no maximum.
    """
    told: list[str] = []
    notes: list[str] = []
    if found.outside:
        outside = f"{found.outside:,} of {found.cells:,} {'is' if found.outside == 1 else 'are'} outside"
        span = f"{number_text(found.low)} to {number_text(found.high)}"
        told.append(f"{outside} {span}, the farthest at about {number_text(found.far)}; such rows go to quarantine")
    if found.negative:
        below = f"{found.negative:,} of {found.cells:,} {'is' if found.negative == 1 else 'are'} negative"
        (told if ask_negative else notes).append(f"{below}: is that right?" if ask_negative else below)
    if found.reached and not open_end:
        notes.append(f"{number_text(found.high)} is the largest here: raise it if need be")
    return "; ".join(told), "; ".join(notes)
