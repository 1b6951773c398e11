"""Formats of deliveries, by the end of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rempart.settings.sources import Format

PACKED = ("", ".gz", ".zst")
"""Ends of a name that tell how a text file is packed."""
ENDINGS: Mapping[Format, Sequence[str]] = {
    "csv": tuple(f"{end}{packed}" for end in (".csv", ".tsv", ".txt") for packed in PACKED),
    "jsonl": tuple(f"{end}{packed}" for end in (".jsonl", ".ndjson") for packed in PACKED),
    "parquet": (".parquet",),
}


SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
"""Ends of names of spreadsheets, which are no deliveries."""
SAVE_SHEET = "save the sheet as CSV in UTF-8 with the program that wrote it"
UNKNOWN = (
    "the file's name ends in none of .csv, .tsv, .txt, .jsonl and .ndjson, plain or with .gz or .zst, nor in .parquet"
)


def of_name(name: str) -> Format | None:
    """Return the format that a file's name tells."""
    lower = name.lower()
    return next((found for found, endings in ENDINGS.items() if lower.endswith(tuple(endings))), None)


def wrong_name(name: str, declared: Format) -> str | None:
    """Return the fault of a delivery whose name tells another format than the pipeline declares."""
    if of_name(name) == declared:
        return None
    *others, last = [ending for ending in ENDINGS[declared] if not ending.endswith(PACKED[1:])]
    told = f"`source.format` of the pipeline is {declared}"
    if name.lower().endswith(SPREADSHEETS) and declared == "csv":
        told += f"; {SAVE_SHEET}"
    if not others:
        return f"the file's name does not end in {last}: {told}"
    return f"the file's name ends in none of {', '.join(others)} and {last}, plain or with .gz or .zst: {told}"
