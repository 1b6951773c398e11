"""Limits of one delivery, and the resources of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rempart.ingestion import reading, unpacking


@dataclass(frozen=True)
class Limits:
    """What one delivery may cost. A file beyond a limit is refused as a whole.

    `rows`, `lines`: of a file. `refused`: rows that are refused one by one; `refused_text`: their text in bytes.
    `text`: characters of a line, and of a row of several lines. `columns`: fields of a line. `block`: bytes that are
    read at once. `bytes`: of a file, unpacked, or of a Parquet file's values in memory; `ratio`: factor by which a
    packed file may grow.
    """

    bytes: int = unpacking.MAX_BYTES
    ratio: int = unpacking.MAX_RATIO
    rows: int = reading.MAX_ROWS
    lines: int = reading.MAX_LINES
    columns: int = reading.MAX_COLUMNS
    text: int = reading.MAX_TEXT
    lines_per_row: int = reading.MAX_LINES_PER_ROW
    refused: int = reading.MAX_REFUSED
    refused_text: int = reading.MAX_REFUSED_TEXT
    block: int = 8 << 20


@dataclass(frozen=True)
class Resources:
    """What DuckDB may use: memory in bytes, threads, and the folder for rows that do not fit in memory."""

    memory: int
    threads: int
    spill: Path
