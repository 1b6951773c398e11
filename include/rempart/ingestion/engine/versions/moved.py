"""Compare the refused rows of a delivery before and after it was judged anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rempart.ingestion.engine.batches import RAW
from rempart.ingestion.engine.database import opened, parquet
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.refused import JOINED, REASONS, Refused, RefusedFile, write


@dataclass(frozen=True)
class Moved:
    """Rows that are refused now and were not (`leave`), and the other way round (`join`).

    `changed`: also whether another reason is given.
    """

    leave: int
    join: int
    changed: bool


def moved(before: RefusedFile, now: Refused, folder: Path, resources: Resources) -> Moved:
    """Compare refused rows by their text: lines of a delivery may have moved by an erasure."""
    had, has = before.file, folder / "moved-now"
    write(now.tables(), has)
    with opened(resources, sorted({folder, had.parent})) as connection:

        def more(these: Path, those: Path, columns: str) -> int:
            query = (
                f"SELECT count(*) FROM (SELECT {columns} FROM {parquet([these])} "  # noqa: S608 - our own names
                f"EXCEPT ALL SELECT {columns} FROM {parquet([those])})"
            )
            (found,) = connection.execute(query).fetchall()
            return int(found[0])

        both = f"{RAW}, array_to_string({REASONS}, '{JOINED}')"  # a quarantine has them as one text
        changed = more(had, has, both) + more(has, had, both) > 0
        return Moved(more(has, had, RAW), more(had, has, RAW), changed)
