"""Cut rows of CSV into deliveries that ingestion takes: bounded in rows, lines and bytes. Pure but for the sink."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from rempart.errors import IngestError
from rempart.ingestion.sources.port import Delivery, Sink

MOST_ROWS = 250_000
MOST_BYTES = 64 << 20
"""Size of a delivery, in bytes. The reader of deliveries takes more, so that a limit of its own is never met."""
LONGEST_ROW = 1 << 20
"""Longest row that the reader takes, in bytes; and most lines of one row."""
MOST_LINES = 1_000


def line(cells: Sequence[str | None]) -> bytes:
    """Return one row as CSV, without a line end. No value is an empty cell, an empty text is a quoted one."""
    return ",".join("" if cell is None else _quoted(cell) for cell in cells).encode()


def _quoted(cell: str) -> str:
    if cell and not any(sign in cell for sign in '",\r\n') and cell == cell.strip():
        return cell
    return '"' + cell.replace('"', '""') + '"'


def cells(row: bytes) -> list[str]:
    """Return the cells of one row."""
    return next(csv.reader(io.StringIO(row.decode(), newline=""), strict=True))


def header(columns: Sequence[str]) -> bytes:
    """Return the first line of a delivery."""
    return line(columns)


def deliver(sink: Sink, stem: str, first: bytes, rows: Iterable[bytes]) -> list[Delivery]:
    """Write rows into as many deliveries as they need, and return these. Without rows there is none.

    A delivery is streamed: no more than one row is held. Raises IngestError for a row that no delivery can hold.
    """
    made: list[Delivery] = []
    waiting = iter(rows)
    row = next(waiting, None)

    def blocks() -> Iterator[bytes]:
        nonlocal row
        size, count = len(first) + 1, 0
        yield first + b"\n"
        while row is not None and count < MOST_ROWS and (not count or size + len(row) < MOST_BYTES):
            _check(row)
            yield row + b"\n"
            size, count = size + len(row) + 1, count + 1
            row = next(waiting, None)

    while row is not None:
        made.append(sink.deliver(f"{stem}-{len(made) + 1:05}.csv", blocks()))
    return made


def _check(row: bytes) -> None:
    """Refuse a row that the reader would not take as one row: its lines could pass as rows of their own."""
    if len(row) > LONGEST_ROW or row.count(b"\n") + row.count(b"\r") >= MOST_LINES:
        raise too_long()


def too_long() -> IngestError:
    """Return the error for a row that no delivery can hold."""
    return IngestError(
        f"extract: a row has more than {LONGEST_ROW >> 20} MiB or {MOST_LINES} lines of text. Nothing was taken",
        "Leave out the column with the long text, or shorten it in a query (`source.query`).",
    )
