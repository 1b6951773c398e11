"""Write docs/reference/expressions.md: the words of the language, and what the check says to what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rempart.settings.expressions.checking import FUNCTIONS
from rempart.settings.expressions.syntax import DEEPEST, LONGEST, MOST_TOKENS
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import read_yaml

EXAMPLE = """\
features:
  booking:
    kind: row
    at: booking
    columns: [lead_time, adults, children]
    expressions:
      guests: adults + children + babies
      nights_each: (stays_in_weekend_nights + stays_in_week_nights) / (adults + children)
      log_lead: ln(lead_time + 1)
      weekend_only: stays_in_week_nights = 0 and stays_in_weekend_nights > 0
      days_ahead: -days_since(arrival_date)
  agent_trend:
    kind: trailing
    at: booking
    by: [agent]
    windows: [30d]
    mean: [avg_price_per_room, lead_time]
expressions:
  earlier_than_usual: booking.lead_time - agent_trend.lead_time_mean_30d
"""

_HEAD = (
    """# Expressions

**For** people who write the features of a pipeline. **Answers** how ratios, differences and ages become features,
what each operator gives, and which expressions are refused.

A view of `kind: row` takes `expressions` by name, beside its columns. `expressions` at the top of the file combine
features of several views of one row, as `view.feature`.

<!-- checked as a pipeline file -->
```yaml
"""
    + EXAMPLE
    + """```

The model gets `booking__guests`, `booking__nights_each` and so on, and of the last one
`expressions__earlier_than_usual`. `rempart pipeline check` refuses an expression before any row is read, and
`rempart pipeline try` shows the values.

Expressions of a view are features of the feature store, offline and online. Those over several views are computed
when the views are joined to a training set. A program that predicts computes them from the features that it read,
with `rempart.features.expressions.across.with_expressions`.

## What is known

An expression of a view may name columns that are known at the view's moment. A column that is known later is
refused, and so is the target. An expression over views names features, each of which is known at its view's moment.

## What each part gives

Results are a number, a whole number, `true` or `false`, or a text. A text is stored, and is no input of a model. An
empty value (NULL) makes the result empty, except where the table says otherwise. PostgreSQL and DuckDB give the same
values, a logarithm but for its last digit.

| part | what it gives |
|---|---|
| `a + b`, `a - b`, `-a` | a whole number of whole numbers, else a number |
| `a * b` | a number |
| `a / b` | a number, also of whole numbers; empty if `b` is 0 |
| `=`, `<>`, `<`, `<=`, `>`, `>=`, `a between b and c` | `true` or `false`; texts have `=`, `<>` and `in` only |
| `a in (b, c)`, `a not in (b, c)` | `true` or `false`; a text beside a category must be one of its values |
| `a is null`, `a is not null` | `true` or `false`, never empty |
| `and`, `or`, `not` | of conditions, with the three values of SQL |
| `case when a then b when c then d else e end` | the value of the first condition that holds; empty without `else` |
| `extract(part from column)` | a calendar part as in the key `calendar`, in the source's time zone |
| `date '2026-01-31'` | a date to compare with |
"""
)

_MEANINGS = {
    "abs": "the amount without its sign",
    "round": "the nearest number, with up to 9 digits after the mark; a half goes up: 2.5 to 3, -2.5 to -2",
    "floor": "the next whole number below, as a number",
    "ceil": "the next whole number above, as a number",
    "ln": "the natural logarithm; empty for 0 and less",
    "log10": "the logarithm to base 10; empty for 0 and less",
    "sqrt": "the square root; empty for less than 0",
    "least": "the smallest of the values that are not empty",
    "greatest": "the largest of the values that are not empty",
    "coalesce": "the first of the values that is not empty",
    "nullif": "`a`; empty if it equals `b`",
    "days_between": "days from the second to the first: whole days of dates, with a fraction of timestamps",
    "days_since": "days until the view's moment; of a date until the moment's date in the source's zone",
    "date": "the date of a timestamp in the source's time zone",
}

_LIMITS = f"""
## Numbers without an end

No result is infinite. Columns with more than 1e30 without its sign, and whole numbers of more than 10^15, are empty
in an expression, and numbers closer to 0 than 1e-30 are 0. The check follows these limits through the calculation,
and refuses an expression that could exceed 1e300. An expression has at most {LONGEST} characters, {MOST_TOKENS}
names, numbers and signs, and {DEEPEST} parentheses inside each other.

## What is refused

A test asks the check for each line, with the shipped pipeline and the expression in its view `booking`; the first
words of the answer, the path in the file, are left out.

| expression | answer |
|---|---|
"""

REFUSED = (
    "lead_tme / 7",
    "booking_changes + 1",
    "avg_price_per_room / adults",
    "(select max(lead_time) from hotel_bookings)",
    "lead_time - avg(lead_time) over (partition by agent)",
    "avg(lead_time)",
    "now()",
    "current_date",
    "lead_time + random()",
    "agents.size",
    "cast(adults as text)",
    "lead_time % 7",
    "country || meal",
    "adults = null",
    "meal = 'breakfast'",
    "country > 'm'",
    "meal + 1",
    "adults and true",
    "arrival_date - 7",
    "arrival_date",
    "extract(hour from arrival_date)",
    "round(lead_time, adults)",
    "days_between(arrival_date)",
    "case when adults > 1 then 'two' else 1 end",
    "adults +",
    " + ".join(["lead_time"] * 50),
    " / ".join(["lead_time / 1e-30"] * 10),
)
"""Expressions that the check refuses, each for another reason."""


def answer(shipped: dict[str, Any], text: str) -> str | None:
    """Return what the check says to an expression in the first view of a pipeline file; None if it takes it."""
    name, view = next(iter(shipped["features"].items()))
    features = {**shipped["features"], name: {**view, "expressions": {"tried": text}}}
    try:
        ModelPipeline.model_validate({**shipped, "features": features})
    except ValidationError as refused:
        told = str(refused.errors()[0]["msg"]).removeprefix("Value error, ").splitlines()[0]
        return told.removeprefix(f"features.{name}.expressions.tried: ")
    return None


def expressions_page(root: Path) -> str:
    """Return the page of expressions. Its last table is made by asking the check."""
    shipped = read_yaml(root / "include" / "pipelines" / "hotel_bookings.yaml")
    lines = [f"| `{FUNCTIONS[name]}` | {meaning} |\n" for name, meaning in _MEANINGS.items()]
    refused = []
    for text in REFUSED:
        shown = text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
        told = str(answer(shipped, text)).replace("|", "\\|")
        refused.append(f"| `{shown}` | {told} |\n".replace("||", "\\|\\|"))
    return "".join([_HEAD, *lines, _LIMITS, *refused])
