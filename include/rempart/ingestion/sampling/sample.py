"""A sample of rows as text, with what the source itself declares about its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rempart.settings.sources import Dialect

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 50_000
"""Rows of a sample."""
MOST_BYTES = 8 << 20
"""Bytes of text in a sample."""
MOST_MEMORY = 64 << 20
"""Bytes in memory of a Parquet file's rows in a sample: a value that repeats takes no room in the file."""


@dataclass(frozen=True)
class Declared:
    """The type that a source declares for a column: of Parquet, of JSON, or of a database's catalogue.

    `type` may carry sizes: `decimal(12,2)`, `array(number)`. A `string` may still be a category or a time, but no
    number. `values`: the closed list of an enumeration.
    """

    type: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """Rows of a source. `table`: text columns, null where the source has a null. `rows`: how many the source has,
    about. `whole`: the sample is all of it. `key`: the primary key of a database table.

    `source`: lines of the section `source` of a pipeline file that this source decides, by key.
    """

    name: str
    table: pa.Table
    dialect: Dialect
    source: Mapping[str, str]
    rows: int
    whole: bool
    declared: Mapping[str, Declared] = field(default_factory=dict)
    key: Sequence[str] = ()
    text: bool = True
    """Whether the cells are text whose dialect has to be found, as in CSV."""
    refused: int = 0
    """Rows that were read and cannot be split into their columns."""
    questions: Mapping[str, str] = field(default_factory=dict)
    """What only a person can decide about a line of `source`, by its key."""
    header: Mapping[str, str] = field(default_factory=dict)
    """The table's columns by the names that the source gives them. Empty if these are the same."""

    @property
    def told(self) -> str:
        """Return how much of the source was read, as words for the draft's comment."""
        if self.whole:
            return f"all {self.table.num_rows:,} {'readable ' if self.refused else ''}rows"
        return f"a sample of {self.table.num_rows:,} of about {self.rows:,} rows"

    @property
    def left_out(self) -> str:
        """Return how many rows could not be read, as words that follow the source's name; empty without such rows."""
        if not self.refused:
            return ""
        rows = "1 row" if self.refused == 1 else f"{self.refused:,} rows"
        why = "no JSON object" if self.source.get("format") == "jsonl" else "such as too many or too few fields"
        return f", without {rows} that cannot be read ({why})"
