"""Sample a delivery: CSV and JSON Lines (plain, gzip, zstd) and Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rempart.errors import PipelineError
from rempart.ingestion.engine import csv_rows
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.parsing import formats
from rempart.ingestion.reading import check_format, header_of
from rempart.ingestion.sampling import blocks
from rempart.ingestion.sampling.names import columns_of, shown
from rempart.ingestion.sampling.sample import MOST_BYTES, MOST_MEMORY, MOST_ROWS, Declared, Sample
from rempart.ingestion.unpacking import Unreadable
from rempart.settings.sources import Dialect, Source

if TYPE_CHECKING:
    import pyarrow as pa

_START = 1 << 20
"""Characters at the start of a CSV file in which its header and its first row are looked for."""
_BATCH = 64
"""Rows of a Parquet file that are unpacked at once."""
CSV, JSONL, PARQUET = (tuple(formats.ENDINGS[kind]) for kind in ("csv", "jsonl", "parquet"))
ENDINGS = "Pass a .csv, .tsv, .txt, .jsonl, .ndjson (plain, .gz or .zst) or .parquet file."
_NO_FILE = "Correct the path. A relative one begins at the folder in which you run the command."
_OTHERS = {
    "cp1252": ". cp1252 is latin-1 (ISO-8859-1) with the euro sign and curly quotes. If unsure, keep cp1252",
    "latin-1": ", and has bytes that cp1252 lacks. latin-1 is ISO-8859-1",
}
"""What a draft says of an encoding that it guessed."""
_NAME = r"[a-z][a-z0-9_]{0,49}"
_RENAME = "Rename them in the first line, such as booking_id."
_NO_HEADER = (
    "If the file has no header, add one. If it has: no number or date stands in the second line, so the first could be "
    "a row, too. Rename them in the first line, such as booking_id."
)
_FIRST_ROWS = 100
"""Lines in which the header and the first row end: a quoted field may have line breaks."""
_MISSING = {"na", "nan", "null", "none", "nil"}


def of_file(file: Path) -> Sample:
    """Return a sample of a file, by the ending of its name. Raises PipelineError, which quotes no value of the file."""
    name = file.name.lower()
    kinds = ((CSV, _csv), (JSONL, _json_lines), (PARQUET, _parquet))
    try:
        with file.open("rb"):
            pass
        for endings, read in kinds:
            if name.endswith(endings):
                return read(file)
    except Unreadable as fault:
        raise _refused(file, str(fault)) from None
    except FileNotFoundError as cause:
        raise PipelineError(f"read {shown(file)}: there is no such file", _NO_FILE) from cause
    except OSError as cause:
        raise PipelineError(f"read {shown(file)}: {cause.strerror or 'it is damaged'}", ENDINGS) from cause
    if name.endswith(formats.SPREADSHEETS):
        save = f"{formats.SAVE_SHEET[0].upper()}{formats.SAVE_SHEET[1:]}, and pass that file."
        raise _refused(file, "it is a spreadsheet, whose cells have no fixed types", save)
    raise _refused(file, "its name does not end in .csv, .tsv, .txt, .jsonl, .ndjson or .parquet", ENDINGS)


def _refused(
    file: Path, why: str, hint: str = "Correct the file, or pass one with some ordinary rows."
) -> PipelineError:
    return PipelineError(shown(f"draft a pipeline from {file.name}: {why}"), shown(hint))


def check_names(what: str, names: Sequence[str], hint: str = _RENAME) -> None:
    """Raise PipelineError if a name cannot be a column.

    The message does not contain the names: they may be values, of a file without a header.
    """
    told = [str(i) for i, name in enumerate(names, 1) if not re.fullmatch(_NAME, name)]
    if not told:
        return
    raise PipelineError(
        f"draft a pipeline from {shown(what)}: the names of columns {', '.join(told[:20])} have characters other than "
        "lower case letters, digits and _",
        hint,
    )


def is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether the first line surely has names: text everywhere, above a number or a date in the second. Pure."""
    texts = all(re.match(r"[^\W\d]", cell) and cell.lower() not in _MISSING for cell in first)
    return texts and len(first) == len(second) and any(re.fullmatch(r"-?\d[\d.,:/T+ -]*", cell) for cell in second)


def _csv(file: Path) -> Sample:
    import pyarrow as pa

    read = blocks.lines(file, MOST_BYTES)
    encoding = next(encoding for encoding in ("utf-8", "cp1252", "latin-1") if _decodes(read.body, encoding))
    check_format(read.body[:16], "CSV")
    first = [line for line in _first_lines(read.body.decode(encoding)) if line]
    if not first:
        raise Unreadable("the file is empty")
    if "\x00" in first[0]:
        raise Unreadable("its first line has a NUL character: it may be UTF-16, and has to be UTF-8")
    delimiter = max(",;\t|", key=first[0].count)
    source = Source.model_validate({"prefix": "x/", "encoding": encoding, "delimiter": delimiter})
    header = header_of(file.name, io.BytesIO(read.body), len(read.body), source)
    if not header:
        why = "a quotation mark in its first line is not closed there"
        raise _refused(file, why, "Write each name of the header on one line, without a line break.")
    if not is_header(header, _second(first[:_FIRST_ROWS], delimiter)):
        check_names(file.name, header, _NO_HEADER)
    names = columns_of(header)
    columns = [names[name] for name in header]
    source = source.model_copy(update={"header": names})
    tables, rows, refused = [], 0, 0
    for batch in csv_rows.read(io.BytesIO(read.body), len(read.body), source, columns, Limits()):
        tables.append(batch.table.select(columns))
        rows += batch.table.num_rows
        refused += len(batch.refused)
    if not rows:
        raise _refused(file, "no row has as many fields as the first line")
    about = rows if read.whole else round(rows * read.size / max(1, len(read.body)))
    table = thinned(pa.concat_tables(tables), MOST_ROWS)
    lines = {
        "format": "csv",
        "encoding": encoding,
        "delimiter": json.dumps(delimiter),
    }
    dialect = Dialect(encoding=source.encoding, delimiter=delimiter)
    whole = read.whole and rows == table.num_rows
    if not read.whole and b'"' in read.body:
        refused = 0  # the blocks of a sample may begin and end within a quoted field of several lines
    asks = {} if encoding == "utf-8" else {"encoding": f"it is not UTF-8{_OTHERS[encoding]}"}
    return Sample(file.name, table, dialect, lines, about, whole, refused=refused, questions=asks, header=names)


def _first_lines(text: str) -> Sequence[str]:
    """Return the lines at the start of a text, split where a reader splits them."""
    return re.split(r"\r\n|\r|\n", text[:_START].removeprefix("\ufeff"))


def _second(lines: Sequence[str], delimiter: str) -> Sequence[str]:
    """Return the fields of the second row, which may have several lines; none if quotes are wrong, or a field is too
    long."""
    rows = csv.reader(lines, delimiter=delimiter)
    try:
        next(rows, [])
        return next(rows, [])
    except csv.Error:
        return []


def thinned(table: pa.Table, most: int) -> pa.Table:
    """Return at most so many rows of a table, at equal distances."""
    import numpy as np
    import pyarrow as pa

    if table.num_rows <= most:
        return table
    return table.take(pa.array(np.linspace(0, table.num_rows - 1, most).astype(np.int64)))


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        return text.decode(encoding) is not None
    except UnicodeDecodeError:
        return False


def _json_lines(file: Path) -> Sample:
    import pyarrow as pa

    read = blocks.lines(file, MOST_BYTES)
    check_format(read.body[:16], "JSON Lines")
    found: list[Mapping[str, Any]] = []
    lines = 0
    for line in read.body.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.strip():
            lines += 1
            if (row := _object(line)) is not None:
                found.append(row)
    if not found:
        raise Unreadable("no line is a JSON object" if lines else "the file is empty")
    names = list(dict.fromkeys(name for row in found for name in row))
    about = len(found) if read.whole else round(len(found) * read.size / max(1, len(read.body)))
    kept = found[:: -(-len(found) // MOST_ROWS)]
    header, declared, columns = columns_of(names), {}, {}
    for name in names:
        values = [row.get(name) for row in kept]
        declared[header[name]] = _declared_json(file, name, values)
        columns[header[name]] = pa.array([_json_text(value) for value in values], pa.string())
    known = {name: kind for name, kind in declared.items() if kind is not None}
    whole, form = read.whole and len(kept) == about, {"format": "jsonl"}
    return Sample(
        file.name, pa.table(columns), Dialect(), form, about, whole, known, refused=lines - len(found), header=header
    )


class _Number(str):
    """The text of a number in JSON."""

    __slots__ = ()


def _object(line: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
        if b"\\u" in line:
            json.dumps(found, ensure_ascii=False).encode()  # half a character is no text
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found else None


def _declared_json(file: Path, name: str, values: Sequence[Any]) -> Declared | None:
    """Return the type that JSON gives a column; None if its text has to be looked at."""
    kinds = {type(value) for value in values if value is not None}
    if dict in kinds:
        raise _refused(file, f"'{name}' holds objects", f"Give each field of '{name}' a column of its own.")
    if kinds == {list}:
        items = {type(item) for value in values for item in value or ()}
        if items <= {_Number}:
            return Declared("array(number)")
        if items <= {str}:
            return Declared("array(string)")
        raise _refused(file, f"'{name}' holds arrays of mixed or nested items", "Use arrays of numbers or of strings.")
    return Declared("string") if kinds == {str} else None


def _json_text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case list():
            items = [str(item) if isinstance(item, _Number) else json.dumps(item) for item in value]
            return f"[{', '.join(items)}]"
    return str(value)


def _parquet(file: Path) -> Sample:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            rows, schema = opened.metadata.num_rows, opened.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                raise Unreadable("a column occurs twice")
            if not rows:
                raise Unreadable("the file has no rows")
            header = columns_of(schema.names)
            declared = {header[field.name]: _declared_arrow(file, field) for field in schema}
            table = pa.Table.from_batches(list(spread(opened, rows)), schema)
        columns = {column: arrow_text(table[name]) for name, column in header.items()}
    except (pa.ArrowException, UnicodeDecodeError):
        raise Unreadable("the file is not Parquet, is damaged, or holds texts that are no UTF-8") from None
    known = {name: kind for name, kind in declared.items() if kind is not None}
    form, whole = {"format": "parquet"}, table.num_rows == rows
    return Sample(file.name, pa.table(columns), Dialect(), form, rows, whole, known, text=False, header=header)


def spread(opened: Any, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a small file, else the first ones of row groups at equal distances; up to `MOST_MEMORY`."""
    groups = opened.num_row_groups
    small = rows <= MOST_ROWS
    chosen = [list(range(groups))] if small else [[group] for group in sorted({i * groups // 10 for i in range(10)})]
    for some in chosen:
        rows_left, bytes_left = MOST_ROWS // len(chosen), MOST_MEMORY // len(chosen)
        for batch in opened.iter_batches(_BATCH, row_groups=some):
            taken = batch.slice(0, rows_left)
            yield taken
            rows_left, bytes_left = rows_left - taken.num_rows, bytes_left - batch.nbytes
            if rows_left <= 0 or bytes_left <= 0:
                break


def _declared_arrow(file: Path, field: pa.Field) -> Declared | None:
    import pyarrow as pa

    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type):
            return Declared("array(number)")
        if _is_text(kind.value_type):
            return Declared("array(string)")
    elif pa.types.is_integer(kind):
        return Declared("integer")
    elif pa.types.is_floating(kind):
        return Declared("number")
    elif pa.types.is_decimal(kind) and kind.precision <= 38 and 0 <= kind.scale <= kind.precision:
        return Declared(f"decimal({kind.precision},{kind.scale})")
    elif pa.types.is_boolean(kind):
        return Declared("boolean")
    elif _is_text(kind) or pa.types.is_null(kind):
        return Declared("string")
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return None
    raise _refused(
        file,
        f"no column of a pipeline can hold '{field.name}', which is {kind}",
        "Write it as a number, a text, a time, or an array of numbers or strings.",
    )


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def arrow_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as text, as a CSV file would have it. An instant ends in Z, a local time does not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.string())])
    if pa.types.is_timestamp(column.type):
        text = column.cast(pa.timestamp("us"), safe=False).cast(pa.string())
        return pc.binary_join_element_wise(text, "Z", "") if column.type.tz else text
    if pa.types.is_date(column.type):
        column = column.cast(pa.date32())
    text = column.cast(pa.string())
    text.validate(full=True)
    return text
