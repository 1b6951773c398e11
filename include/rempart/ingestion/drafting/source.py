"""The section `source`: where the rows come from, and how they write names, numbers and times."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from rempart.ingestion.drafting.writing import explained
from rempart.ingestion.parsing.units import Unit
from rempart.ingestion.sampling.names import header_entries, yaml_text, yaml_word
from rempart.ingestion.sampling.survey import Survey


def lines(s: Survey) -> Iterator[str]:
    """Yield the section."""
    yield "source:"
    if "kind" not in s.sample.source:
        yield f"  prefix: {s.name}/"
    else:
        yield f"  prefix: {s.name}/      # folder of the landing bucket for what is extracted"
    for key, value in s.sample.source.items():
        yield from explained(f"  {key}: {value}", asks=s.sample.questions.get(key, ""))
    if any(name != column for name, column in s.sample.header.items()):
        yield "  header:    # names in the files, which stay as they are, and those of the schema"
        yield from _header(s.sample.header)
    if s.sample.text:
        yield f"  null_values: {json.dumps(s.dialect.null_values)}"
    if s.units:
        yield "  units:    # what stands beside each number of these columns, which are read without it"
        yield from (f"    {yaml_word(name)}: {yaml_text(unit.text)}{_absent(unit)}" for name, unit in s.units.items())
    yield from _dialect(s)


def _dialect(s: Survey) -> Iterator[str]:
    """Yield how the source writes numbers and times, where it differs from the defaults."""
    check = {
        "decimal": "the numbers can also be read with another decimal mark",
        "thousands": "the numbers can also be read with another decimal mark",
        "dates": "the dates can also be read in another order of day and month",
        "time_zone": "in which time zone are these times, such as Europe/Berlin?",
    }
    for key, default in (("decimal", "."), ("thousands", ""), ("dates", "YYYY-MM-DD"), ("time_zone", None)):
        if (value := getattr(s.dialect, key)) != default or key in s.uncertain:
            yield from explained(f"  {key}: {json.dumps(value)}", asks=check[key] if key in s.uncertain else "")
    if s.dialect.time_zone is None and any(column.offset for column in s.columns):
        counted = "the times have offsets. Their days, months and hours in `calendar` and the hold-out are those of UTC"
        asks = f"{counted}. For those that clocks showed, uncomment the line below and name their zone"
        yield from explained("  # time_zone: Europe/Berlin", asks=asks)


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
