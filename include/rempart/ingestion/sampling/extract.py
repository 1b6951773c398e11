"""Write a bounded part of a delivery to a file of its own, whole lines, so that its rows can be judged at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rempart.errors import IngestError
from rempart.ingestion.sampling import blocks
from rempart.ingestion.sampling.files import CSV, ENDINGS, JSONL, PARQUET, spread
from rempart.ingestion.sampling.names import shown
from rempart.ingestion.unpacking import Unreadable

MOST = 8 << 20
"""Bytes of text of all files together."""


@dataclass(frozen=True)
class Extract:
    """Rows of a delivery in a file. `whole`: all of them."""

    file: Path
    whole: bool
    lines: blocks.Lines | None = None

    def line(self, number: int) -> int | None:
        """Return the number in the delivery of a line of this file; None if it is not known."""
        if self.lines is None:
            return number if self.whole else None
        return self.lines.number(number)


def readable(file: Path) -> bool:
    """Return whether a file has the name of a delivery."""
    return file.name.lower().endswith((*CSV, *JSONL, *PARQUET))


def take(file: Path, stem: Path, most: int = MOST) -> Extract:
    """Write about `most` bytes of a delivery to `stem` with the ending of its format. Raises IngestError."""
    try:
        if file.name.lower().endswith(PARQUET):
            return _parquet(file, stem.with_suffix(".parquet"))
        if not readable(file):
            raise IngestError(f"read {shown(file.name)}: its name does not tell the format", ENDINGS)
        lines = blocks.lines(file, most, numbered=True)
    except Unreadable as fault:
        raise IngestError(f"read {shown(file.name)}: {fault}", "Correct the file.") from None
    except OSError as cause:
        raise IngestError(f"read {shown(file)}: {cause.strerror or 'it is damaged'}", ENDINGS) from cause
    target = stem.with_suffix(".csv" if file.name.lower().endswith(CSV) else ".jsonl")
    target.write_bytes(lines.body)
    return Extract(target, lines.whole, lines)


def _parquet(file: Path, target: Path) -> Extract:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened, pq.ParquetWriter(target, opened.schema_arrow) as writer:
            taken = pa.Table.from_batches(spread(opened, rows := opened.metadata.num_rows), opened.schema_arrow)
            writer.write_table(taken)
            return Extract(target, taken.num_rows == rows)
    except pa.ArrowException:
        raise Unreadable("the file is not Parquet, or it is damaged") from None
