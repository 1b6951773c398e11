"""How the texts of a sample are written: numbers and times, texts for missing values, and units beside numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rempart.ingestion.parsing import recognise, units
from rempart.ingestion.parsing.units import Unit
from rempart.ingestion.sampling.facts import column_facts
from rempart.ingestion.sampling.sample import Sample
from rempart.settings.columns import NUMERIC
from rempart.settings.sources import UNIT

if TYPE_CHECKING:
    import pyarrow as pa

NULL_TOKENS = ("NA", "N/A", "null", "NULL", "None", "NaN", "nan", "-")


@dataclass(frozen=True)
class Written:
    """How a sample is written. `table`: its rows, null where a text means a missing value, numbers without the units
    that `units` has by column."""

    guess: recognise.Guess
    table: pa.Table
    units: Mapping[str, Unit]


def written_by(sample: Sample) -> Written:
    """Return how a sample is written. A unit counts if its column has numbers then."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = sample.table
    cells = {name: _counted(table[name]) for name in table.column_names}
    free = [name for name in cells if sample.text and name not in sample.declared]
    likely = {name: units.likely(_present(cells[name])) for name in free}
    # a digit in it would be ambiguous: `m2`, or the exponent in `1.5E7`
    found = {name: unit for name, unit in likely.items() if unit and re.fullmatch(UNIT, unit.text)}
    texts = {**cells, **{name: units.without(cells[name], unit.text) for name, unit in found.items()}}
    tokens = [token for token in NULL_TOKENS if any(_is_null_token(token, values) for values in texts.values())]
    nulls = ["", *(tokens if sample.text else ())]
    looked_at = [
        {value: count for value, count in values.items() if value not in nulls}
        for name, values in texts.items()
        if name not in sample.declared or sample.declared[name].type in ("string", "timestamp")
    ]
    guess = recognise.guess(looked_at, sample.dialect.model_copy(update={"null_values": nulls}))
    null = pa.array(nulls, pa.string())

    def present(column: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.if_else(pc.is_in(column, value_set=null), pa.scalar(None, pa.string()), column)

    columns = {name: present(table[name]) for name in table.column_names}
    numbers = {name: present(_bare(table[name], unit.text)) for name, unit in found.items()}
    kept = {
        name: column
        for name, column in numbers.items()
        if column_facts(name, column, None, guess.dialect).type in NUMERIC
    }
    return Written(guess, pa.table({**columns, **kept}), {name: found[name] for name in kept})


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    import pyarrow.compute as pc

    return {each["values"]: each["counts"] for each in pc.value_counts(column.drop_null()).to_pylist()}


def _present(cells: recognise.Cells) -> dict[str, int]:
    """Return the cells that are neither empty nor a usual text for a missing value."""
    return {text: count for text, count in cells.items() if text and text not in NULL_TOKENS}


def _bare(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Return a column without a unit; a cell that does not have it stays as it is."""
    import pyarrow.compute as pc

    return pc.coalesce(units.bare(column, unit)[0], column)


def _is_null_token(token: str, cells: recognise.Cells) -> bool:
    """Return whether a value means null in a column of numbers or dates."""
    if token not in cells:
        return False
    rest = {value: count for value, count in cells.items() if value not in (token, "")}
    return recognise.fitting(rest, recognise.is_value) > 0
