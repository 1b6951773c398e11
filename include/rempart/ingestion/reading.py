"""Read one delivery's bytes as rows: each with its line number and original text, none dropped.

A fault of the whole file (unreadable, wrong columns, beyond a limit) refuses the file; a fault of one row refuses that
row. A reason names a column or a rule, never a value; not even an unexpected column's name, because in a file without a
header that name is the first row's value.

The file is read as a stream, in constant memory.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from rempart.ingestion.parsing import formats
from rempart.ingestion.unpacking import Unreadable, distinct_names, names_in, unlimited, unpacked, wrong_header
from rempart.settings.pipeline import Source

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 1_000_000
MAX_LINES = 3_000_000  # including blank lines and lines inside rows
MAX_COLUMNS = 2_000
MAX_TEXT = 1 << 20  # characters of a line, and of a row of several lines
LONGEST = 64 << 20  # characters of a line of a delivery from which rows are erased
MAX_REFUSED = 60_000
"""Limit of rows that are refused row by row. A file with more is refused as a whole, and counts as one."""
MAX_REFUSED_TEXT = 32 << 20
"""Limit of the text of all individually refused rows, in bytes."""
MAX_LINES_PER_ROW = 1000
"""Limit of newlines in a quoted field. Beyond it, the opening quote counts as a stray character."""
EMPTY, NO_ROWS = "the file is empty", "the file has a header but no rows"
LINE, RAW = "_line", "_raw"
"""Columns added to the schema's: a row's first line in the file (the header is line 1), and its text."""
_UTF8_BOM, _BATCH = b"\xef\xbb\xbf", 5_000
_OTHER_FORMATS = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a ZIP archive (or an office document)",
    b"\x28\xb5\x2f\xfd": "packed with zstd twice",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ\x00": "packed with xz",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "Arrow",
    b"Obj\x01": "Avro",
    b"\x1f\x8b": "packed with gzip twice",
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "UTF-16 text, not {}; save it as UTF-8: `iconv -f UTF-16 -t UTF-8`"),
}


@dataclass(frozen=True)
class RefusedRow:
    """A row that is not accepted: its first line in the file (the header is line 1), why, and its text as received."""

    line: int
    reasons: tuple[str, ...]
    raw: str


@dataclass(frozen=True)
class Rows:
    """A delivery as read. `table`: the schema's columns as text, `LINE` and `RAW`; None where no row was read."""

    table: pa.Table | None = None
    refused: Sequence[RefusedRow] = ()
    fault: str | None = None

    @staticmethod
    def of(
        cells: Sequence[Sequence[str]],
        lines: Sequence[int],
        raw: Sequence[str],
        refused: Sequence[RefusedRow] = (),
        columns: Sequence[str] = (),
    ) -> Rows:
        """Build rows in memory. `cells[i]` (in the order of the schema), `lines[i]` and `raw[i]` belong to one row."""
        names = columns or [str(i) for i in range(len(cells[0]) if cells else 0)]
        return Rows(_table(names, cells, lines, raw), refused)

    @property
    def count(self) -> int:
        """Return how many rows were read and are not refused so far."""
        return self.table.num_rows if self.table is not None else 0

    @property
    def delivered(self) -> int:
        """Return how many rows the delivery holds; 0 if the file was unreadable."""
        return self.count + len(self.refused)

    @property
    def cells(self) -> list[list[str]]:
        if self.table is None:
            return []
        columns = [self.table.column(i).to_pylist() for i in range(self.table.num_columns - 2)]
        return [list(row) for row in zip(*columns, strict=True)] if columns else []

    @property
    def lines(self) -> list[int]:
        return self.table[LINE].to_pylist() if self.table is not None else []

    @property
    def raw(self) -> list[str]:
        return self.table[RAW].to_pylist() if self.table is not None else []

    def places(self, indexes: Sequence[int]) -> Iterator[tuple[int, int, str]]:
        """Yield index, line and text of some rows, in ascending order. One batch is in memory at a time."""
        if self.table is None:
            return
        import numpy as np
        import pyarrow as pa

        wanted, start = np.asarray(indexes, np.int64), 0
        for batch in self.table.select([LINE, RAW]).to_batches(_BATCH):
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + batch.num_rows)]
            taken = batch.take(pa.array(here - start, pa.int64()))
            yield from zip(here.tolist(), taken.column(0).to_pylist(), taken.column(1).to_pylist(), strict=True)
            start += batch.num_rows

    def text(self, indexes: Sequence[int]) -> int:
        """Return the size of some rows' text in bytes."""
        if self.table is None or not indexes:
            return 0
        import pyarrow as pa
        import pyarrow.compute as pc

        return int(pc.sum(pc.binary_length(self.table[RAW]).take(pa.array(indexes, pa.int64()))).as_py() or 0)

    def pick(self, indexes: Sequence[int], lines: Sequence[int] | None = None) -> pa.Table | None:
        """Return the table with these rows only, on other lines if given."""
        if self.table is None:
            return None
        import pyarrow as pa

        taken = self.table.take(pa.array(indexes, pa.int64()))
        if lines is None:
            return taken
        return taken.set_column(taken.column_names.index(LINE), LINE, pa.array(lines, pa.int64()))


def _table(names: Sequence[str], cells: Sequence[Sequence[str]], lines: Sequence[int], raw: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    made = {name: pa.array([row[i] for row in cells], pa.string()) for i, name in enumerate(names)}
    return pa.table({**made, LINE: pa.array(lines, pa.int64()), RAW: pa.array(raw, pa.string())})


@dataclass
class Batch:
    """Some rows of a file, in order."""

    cells: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)

    def table(self, columns: Sequence[str]) -> pa.Table:
        return _table(columns, self.cells, self.lines, self.raw)


def read(name: str, body: bytes, source: Source, columns: Sequence[str]) -> Rows:
    """Return the rows of a delivery in memory, such as a sample. Foreign deliveries are read by `isolated`."""
    import pyarrow as pa

    tables, refused = [], []
    try:
        for batch in scan(name, io.BytesIO(body), len(body), source, columns):
            tables.append(batch.table(columns))
            refused += batch.refused
    except Unreadable as fault:
        return Rows(fault=str(fault))
    return Rows(pa.concat_tables(tables), tuple(refused))


def scan(name: str, stream: BinaryIO, size: int, source: Source, columns: Sequence[str]) -> Iterator[Batch]:
    """Yield the rows of a file of `size` bytes, in batches. Raises Unreadable.

    Accepts .csv, .tsv and .txt, also packed, a byte order mark, any line ends, columns in any order; skips blank lines.
    """
    lines = _opened(name, stream, size, source)
    records = _records(lines, source.delimiter, len(columns))
    header = distinct_names(next(records).fields)
    names = list(names_in(source, columns).values())
    if wrong := wrong_header(header, names, source.delimiter):
        raise Unreadable(wrong)
    if not (yield from _select(records, [header.index(name) for name in names])):
        raise Unreadable(NO_ROWS)


def header_of(name: str, stream: BinaryIO, size: int, source: Source) -> list[str]:
    """Return the columns that a delivery names in its first line. Raises Unreadable."""
    return distinct_names(next(_records(_opened(name, stream, size, source), source.delimiter, MAX_COLUMNS)).fields)


def check_format(start: bytes, wanted: str) -> None:
    """Raise Unreadable if a file begins as one of another format does."""
    for magic, form in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise Unreadable("the file is " + (form if "{}" in form else f"{form}, not {{}}").format(wanted))


def _opened(name: str, stream: BinaryIO, size: int, source: Source) -> _Lines:
    """Return a delivery's lines from its header on. Raises Unreadable."""
    if wrong := formats.wrong_name(name, "csv"):
        raise Unreadable(wrong)
    text = unpacked(stream, size)
    start = text.peek(16)[:16]
    check_format(start, "CSV")
    if start.startswith(_UTF8_BOM):
        if source.encoding != "utf-8":
            raise Unreadable(f"the file is UTF-8, but the pipeline declares {source.encoding}")
        text.read(len(_UTF8_BOM))
    lines = _Lines(io.TextIOWrapper(text, encoding=source.encoding, newline=""), source.encoding)
    while (line := lines.peek(0)) is not None and not line.strip("\r\n"):
        lines.take(1)
    if line is None:
        raise Unreadable(EMPTY)
    if line.count(source.delimiter) >= MAX_COLUMNS:
        raise Unreadable(f"the header has more than {MAX_COLUMNS} columns")
    return lines


class _Lines:
    """A text's lines with their ends, split at \\n, \\r\\n and \\r and at nothing else; some can be looked at ahead."""

    def __init__(self, text: io.TextIOBase, encoding: str, limit: int | None = None) -> None:
        self._text, self._encoding, self._limit = text, encoding, limit or MAX_TEXT
        self._ahead: deque[str] = deque()
        self.number = 1

    def peek(self, index: int) -> str | None:
        """Return the line `index` lines ahead, or None past the end. Raises Unreadable."""
        while len(self._ahead) <= index:
            try:
                line = self._text.readline(self._limit + 1)
            except UnicodeDecodeError:
                raise Unreadable(f"the file is not {self._encoding} text") from None
            if not line:
                return None
            if len(line) > self._limit:
                raise Unreadable(f"a line has more than {self._limit} characters")
            self._ahead.append(line)
        return self._ahead[index]

    def take(self, count: int) -> str:
        """Return the next lines as one text, and move past them."""
        self.number += count
        if self.number > MAX_LINES and self._limit == MAX_TEXT:
            raise Unreadable(f"the file has more than {MAX_LINES} lines")
        return "".join(self._ahead.popleft() for _ in range(count))

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.peek(0)
            self.take(1)

    def following(self) -> Iterator[str]:
        """Return the following lines, as many as one row may have."""
        length = 0
        for index in range(MAX_LINES_PER_ROW):
            if (line := self.peek(index)) is None or (length := length + len(line)) > MAX_TEXT:
                return
            yield line


@dataclass(frozen=True)
class Piece:
    """Lines of a delivery with their line ends: the header, one row, or lines between rows (`fields` is None).

    `line` is the number of the first of them, from 1.
    """

    line: int
    text: str
    fields: Sequence[str] | None = None
    header: bool = False


class _Remembered(_Lines):
    """Lines that remember what was taken, each with its number."""

    def __init__(self, text: io.TextIOBase, encoding: str, limit: int) -> None:
        super().__init__(text, encoding, limit)
        self.taken: list[tuple[int, str]] = []

    def take(self, count: int) -> str:
        number, text = self.number, super().take(count)
        self.taken.append((number, text))
        return text

    def strip_mark(self) -> str:
        """Take a byte order mark off the next line; return it, or nothing."""
        if not (self.peek(0) or "").startswith("\ufeff"):
            return ""
        self._ahead[0] = self._ahead[0][1:]
        return "\ufeff"


def text_lines(stream: BinaryIO, size: int, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a delivery of `size` bytes with their numbers and line ends. Raises Unreadable."""
    lines = _Lines(io.TextIOWrapper(unlimited(stream, size), encoding=encoding, newline=""), encoding, LONGEST)
    while lines.peek(0) is not None:
        number = lines.number
        yield number, lines.take(1)


def pieces(stream: BinaryIO, size: int, source: Source, width: int) -> Iterator[Piece]:
    """Yield a delivery of `size` bytes as text, well formed or not, in pieces. Joined, they are the whole text.

    `width` columns make a row. Raises Unreadable for a file that is not text, or has a line that is too long to hold.
    """
    text = io.TextIOWrapper(unlimited(stream, size), encoding=source.encoding, newline="")
    lines = _Remembered(text, source.encoding, LONGEST)
    while (line := lines.peek(0)) is not None and not line.strip("\ufeff\r\n"):
        blank = Piece(lines.number, lines.take(1))
        lines.taken.clear()
        yield blank
    mark, header = lines.strip_mark(), True
    for record in _records(lines, source.delimiter, width, blanks=True):
        for number, taken in lines.taken:
            if number != record.line or not record.raw:
                yield Piece(number, taken)
            elif header:
                yield Piece(number, mark + taken, distinct_names(record.fields), header=True)
            else:
                yield Piece(number, taken, record.fields or record.raw.split(source.delimiter, MAX_COLUMNS))
        lines.taken.clear()
        header = header and not record.raw


@dataclass(frozen=True)
class _Record:
    line: int
    raw: str
    fields: Sequence[str]
    stray_quote: bool = False
    many_fields: bool = False


def _records(lines: _Lines, delimiter: str, width: int, blanks: bool = False) -> Iterator[_Record]:
    """Yield lines as records. A quote that opens a record of wrong width, or never closes, costs its own line only."""
    while (line := lines.peek(0)) is not None:
        number, plain = lines.number, line.rstrip("\r\n")
        if '"' not in line:
            lines.take(1)
            if plain or blanks:
                many = line.count(delimiter) >= MAX_COLUMNS
                yield _Record(number, plain, () if many else plain.split(delimiter), many_fields=many)
            continue
        reader = csv.reader(lines.following(), delimiter=delimiter, strict=True)
        try:
            fields = next(reader)
        except (csv.Error, StopIteration):
            fields = []
        used = reader.line_num
        if not fields or (used > 1 and len(fields) != width):
            lines.take(1)
            yield _Record(number, plain, (), stray_quote=True)
        else:
            yield _Record(number, lines.take(used).rstrip("\r\n"), fields)


def _select(records: Iterator[_Record], order: Sequence[int]) -> Generator[Batch, None, int]:
    """Yield the records in batches, with their fields in this order. Return the number of rows."""
    batch, rows, refused, text = Batch(), 0, 0, 0
    width = len(order)
    for record in records:
        rows += 1
        if rows > MAX_ROWS:
            raise Unreadable(f"the file has more than {MAX_ROWS} rows")
        if record.stray_quote:
            reason = "a quotation mark is not closed or misplaced"
        elif record.many_fields:
            reason = f"too many fields: more than {MAX_COLUMNS}, but the header has {width}"
        elif len(record.fields) != width:
            amount = "few" if len(record.fields) < width else "many"
            reason = f"too {amount} fields: {len(record.fields)}, but the header has {width}"
        else:
            batch.cells.append([record.fields[i] for i in order])
            batch.lines.append(record.line)
            batch.raw.append(record.raw)
            text += len(record.raw)
            if len(batch.cells) >= _BATCH or text > MAX_TEXT:
                yield batch
                batch, text = Batch(), 0
            continue
        batch.refused.append(RefusedRow(record.line, (reason,), record.raw))
        refused += 1
        if refused > MAX_REFUSED:
            raise Unreadable(f"more than {MAX_REFUSED} rows have a fault, such as: {reason}")
        text += len(record.raw)
        if text > MAX_TEXT:
            yield batch
            batch, text = Batch(), 0
    yield batch
    return rows
