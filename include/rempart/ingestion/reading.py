"""One delivery's bytes as rows: each with its line number and its text as received, none dropped.

A fault of the file as a whole (unreadable, wrong columns) refuses every line of it; a fault of one row refuses that
row. A reason names a column or a rule and never a value; not even an unexpected column's name, since in a file
without a header that name is the first row's value.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rempart.pipeline import Source

MAX_BYTES = 1 << 29
"""Largest delivery, unpacked (512 MiB): a delivery is handled in memory."""
MAX_LINES_PER_ROW = 1000
"""A quoted field may hold newlines; past so many, the quote is taken for a stray one."""
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RefusedRow:
    """A row that is not accepted: its first line in the file (the header is line 1), why, and its text as received."""

    line: int
    reasons: tuple[str, ...]
    raw: str


@dataclass(frozen=True)
class Rows:
    """A delivery as read. `cells[i]` (in the order of the schema), `lines[i]` and `raw[i]` belong to one row."""

    cells: Sequence[Sequence[str]] = ()
    lines: Sequence[int] = ()
    raw: Sequence[str] = ()
    refused: Sequence[RefusedRow] = ()
    fault: str | None = None

    @property
    def delivered(self) -> int:
        """How many rows the delivery holds."""
        return len(self.cells) + len(self.refused)


def unpack(body: bytes) -> tuple[bytes, str | None]:
    """The text's bytes, gunzipped if they are gzip, and what is wrong with them (then: as much as could be read)."""
    if not body.startswith(b"\x1f\x8b"):
        return body, None if len(body) <= MAX_BYTES else f"the file is larger than {MAX_BYTES >> 20} MiB"
    text, rest = bytearray(), body
    while rest:  # a gzip file may have several members
        member = zlib.decompressobj(wbits=31)
        try:
            text += member.decompress(rest, MAX_BYTES - len(text) + 1)
        except zlib.error:
            return bytes(text), "the gzip file is damaged"
        if len(text) > MAX_BYTES:
            return bytes(text[:MAX_BYTES]), f"the file is larger than {MAX_BYTES >> 20} MiB unpacked"
        if not member.eof:
            return bytes(text), "the gzip file is truncated"
        rest = member.unused_data
    return bytes(text), None


def read(name: str, body: bytes, source: Source, columns: Sequence[str]) -> Rows:
    """The rows of a delivery. Accepts .csv and .csv.gz, a byte order mark, any line ends, columns in any order.

    Blank lines are no rows.
    """
    text, fault = unpack(body)
    if not name.lower().endswith((".csv", ".csv.gz")):
        fault = "the file's name ends neither in .csv nor in .csv.gz"
    if fault:
        return _refused(text, fault)
    if text.startswith(_UTF8_BOM):
        if source.encoding != "utf-8":
            return _refused(text, f"the file is UTF-8, the pipeline says {source.encoding}")
        text = text[len(_UTF8_BOM) :]
    try:
        decoded = text.decode(source.encoding)
    except UnicodeDecodeError:
        return _refused(text, f"the file is not {source.encoding} text")
    lines = list(io.StringIO(decoded, newline=""))  # splits at \n, \r\n and \r, and at nothing else
    first = next((i for i, line in enumerate(lines) if line.strip("\r\n")), None)
    if first is None:
        return Rows(fault="the file is empty")
    records = _records(lines, first, source.delimiter, len(columns))
    header = next(records).fields
    if wrong := _wrong_header(header, columns):
        return _refused(text, wrong)
    rows = _select(records, [header.index(column) for column in columns])
    return rows if rows.delivered else Rows(fault="the file holds a header and no rows")


@dataclass(frozen=True)
class Spans:
    """A delivery as text: its lines with their ends, its header, and each row's cells by the lines that it takes."""

    lines: Sequence[str]
    header: Sequence[str]
    rows: Sequence[tuple[range, Sequence[str]]]


def spans(body: bytes, source: Source, width: int) -> Spans | None:
    """Where each row stands in a delivery, well formed or not; `width` columns make a row. None for what is no text.

    Lines are counted from 0.
    """
    text, fault = unpack(body)
    if fault:
        return None
    try:
        decoded = text.decode(source.encoding)
    except UnicodeDecodeError:
        return None
    lines = list(io.StringIO(decoded, newline=""))
    first = next((i for i, line in enumerate(lines) if line.strip("\ufeff\r\n")), None)
    if first is None:
        return Spans(lines, (), ())
    bare = [line.removeprefix("\ufeff") if i == first else line for i, line in enumerate(lines)]
    records = _records(bare, first, source.delimiter, width)
    header = next(records).fields
    rows = []
    for record in records:
        begun, taken = record.line - 1, sum(1 for _ in io.StringIO(record.raw, newline=""))
        rows.append((range(begun, begun + taken), record.fields or record.raw.split(source.delimiter)))
    return Spans(lines, header, rows)


def _wrong_header(header: Sequence[str], columns: Sequence[str]) -> str | None:
    missing = [column for column in columns if column not in header]
    unexpected = [str(i) for i, name in enumerate(header, 1) if name not in columns]
    twice = [column for column in columns if header.count(column) > 1]
    faults = [
        missing and f"missing columns: {', '.join(missing)}",
        unexpected and f"columns that the schema does not name, at positions {', '.join(unexpected[:20])}",
        twice and f"columns that stand twice: {', '.join(twice)}",
    ]
    return "; ".join(fault for fault in faults if fault) or None


def _refused(text: bytes, fault: str) -> Rows:
    """Every line after the header, refused for one reason; bytes that are no UTF-8 are written as \\xNN."""
    lines = [(i, line.rstrip(b"\r")) for i, line in enumerate(text.split(b"\n"), 1)]
    lines = [(i, line) for i, line in lines if line.strip(b"\0\r")]  # in UTF-16 a lone NUL follows the last newline
    refused = tuple(RefusedRow(i, (fault,), line.decode("utf-8", "backslashreplace")) for i, line in lines[1:])
    return Rows(refused=refused, fault=fault)


@dataclass(frozen=True)
class _Record:
    line: int
    raw: str
    fields: Sequence[str]
    stray_quote: bool = False


def _records(lines: Sequence[str], start: int, delimiter: str, width: int) -> Iterator[_Record]:
    """Lines as records. A quote that opens a record of the wrong width, or never closes, costs its own line only."""
    i = start
    while i < len(lines):
        line = lines[i]
        plain = line.rstrip("\r\n")
        if '"' not in line:
            if plain:
                yield _Record(i + 1, plain, plain.split(delimiter))
            i += 1
            continue
        following = (lines[k] for k in range(i, min(i + MAX_LINES_PER_ROW, len(lines))))
        reader = csv.reader(following, delimiter=delimiter, strict=True)
        try:
            fields = next(reader)
        except csv.Error:
            fields = []
        used = reader.line_num
        if not fields or (used > 1 and len(fields) != width):
            yield _Record(i + 1, plain, (), stray_quote=True)
            i += 1
        else:
            yield _Record(i + 1, "".join(lines[i : i + used]).rstrip("\r\n"), fields)
            i += used


def _select(records: Iterator[_Record], order: Sequence[int]) -> Rows:
    cells: list[list[str]] = []
    lines: list[int] = []
    raw: list[str] = []
    refused: list[RefusedRow] = []
    width = len(order)
    for record in records:
        if record.stray_quote:
            refused.append(RefusedRow(record.line, ("a quotation mark is not closed or stands astray",), record.raw))
        elif len(record.fields) != width:
            amount = "few" if len(record.fields) < width else "many"
            reason = f"too {amount} fields: {len(record.fields)}, the header has {width}"
            refused.append(RefusedRow(record.line, (reason,), record.raw))
        else:
            cells.append([record.fields[i] for i in order])
            lines.append(record.line)
            raw.append(record.raw)
    return Rows(cells, lines, raw, tuple(refused))
