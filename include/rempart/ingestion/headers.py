"""Compare the header of a delivery with the columns of its pipeline. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def wrong_header(header: Sequence[str], columns: Sequence[str], delimiter: str) -> str | None:
    """Return what is wrong with the header of a delivery, or None. It quotes no value of the file."""
    if len(header) == 1 < len(columns):
        other = max(",;\t|", key=header[0].count)
        if other != delimiter and set(header[0].split(other)) >= set(columns):
            return f"the columns are separated by '{other}'; the pipeline's source.delimiter is '{delimiter}'"
    missing = [column for column in columns if column not in header]
    unexpected = [str(i) for i, name in enumerate(header, 1) if name not in columns]
    twice = [column for column in columns if header.count(column) > 1]
    faults = [
        missing and f"missing columns: {', '.join(missing)}",
        unexpected and f"columns missing in the schema, at positions {', '.join(unexpected[:20])}",
        twice and f"columns that occur twice: {', '.join(twice)}",
    ]
    return "; ".join(fault for fault in faults if fault) or None
