"""The shipped sample, split into the deliveries that a hotel would have sent week by week."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from rempart.errors import IngestError


def deliveries(file: Path, date_column: str = "arrival_date") -> Iterator[tuple[str, bytes]]:
    """Yield one CSV per ISO week of `date_column`, in order of time: (file name, bytes with a header line).

    The source must be a gzipped CSV without quoted newlines. Lines are unchanged and in order, so the same file always
    gives the same bytes. Raises IngestError.
    """
    try:
        lines = gzip.decompress(file.read_bytes()).decode().splitlines(keepends=True)
    except OSError as cause:
        raise IngestError(f"read the sample {file}: {cause}", "Restore the file with git.") from cause
    header = lines[0].rstrip("\r\n").split(",")
    if date_column not in header:
        raise IngestError(
            f"read the sample {file}: it has no column '{date_column}'",
            f"Name one of its columns: {', '.join(header)}.",
        )
    position = header.index(date_column)
    weeks: dict[str, list[str]] = {}
    for line in lines[1:]:
        year, week, _ = date.fromisoformat(line.rstrip("\r\n").split(",")[position]).isocalendar()
        weeks.setdefault(f"{year}-W{week:02d}", []).append(line)
    stem = file.name.split(".", 1)[0]
    for week_name in sorted(weeks):
        yield f"{stem}_{week_name}.csv", "".join([lines[0], *weeks[week_name]]).encode()
