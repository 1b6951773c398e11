"""Remove the rows of some keys from an object: file in, file out, some rows in memory.

A delivery loses the lines of these rows and keeps all others byte for byte; a quarantine file, a part of a snapshot and
a training set lose their rows. A delivery that cannot be searched has a `fault`: ingestion refuses it, and an erasure
stays pending until a person has checked it.
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO

from rempart.ingestion import cells, isolated, reading, snapshots
from rempart.ingestion.content import json_lines
from rempart.ingestion.engine.deliveries import ERASED
from rempart.ingestion.parsing.typed import iso
from rempart.ingestion.reading import LINE, Piece
from rempart.ingestion.snapshots import Part, PartitionContent, Snapshot
from rempart.ingestion.unpacking import Unreadable, line_count, packing
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ERASED", "Cut", "IsErased", "Kind"]
Kind = Literal["delivery", "quarantine", "part", "training set", "manifest", "prediction", "prediction log"]
IsErased = Callable[[Sequence[Any]], bool]
"""Returns whether the row with this key (typed values, in the order of the pipeline's `key`) was erased."""
ContentOf = Callable[[Snapshot, str, Sequence[Part]], PartitionContent]
_BATCH = 5_000
"""Lines or rows of a delivery that are judged at once."""
_CHARACTERS = 4 << 20
"""Characters of lines at which fewer are judged at once."""
_TEXT = ("string", "category")
"""Types whose values keep blanks around them."""
CONFLICTS = "conflicts/"
"""Begins the keys of the copies that a reconciliation of two sites kept aside, in each bucket."""
_CONFLICT = re.compile(r"^(conflicts/[^/]+/)+")


@dataclass(frozen=True)
class Cut:
    """Rest of an object after `rows` were removed: `body` or `file`; both None if nothing was removed.

    `lines` of a delivery were removed, and `header` are its columns. `unread` rows had no readable key and were not
    searched. `fault`: why the delivery as a whole could not be searched.
    """

    body: bytes | None = None
    rows: int = 0
    unread: int = 0
    lines: frozenset[int] = frozenset()
    file: Path | None = None
    header: Sequence[str] = ()
    fault: str | None = None


def original(key: str) -> str:
    """Return the key of an object of which a reconciliation kept this copy; of another object its own key. Pure."""
    return _CONFLICT.sub("", key)


def kind_of(key: str, pipeline: str) -> Kind | None:
    """Return the kind of a pipeline's rows in a lake object, or None.

    The Delta log has no kind: it names parts, and an erasure writes it anew.
    """
    key = original(key)
    if key.startswith(f"raw/{pipeline}/"):
        return "delivery"
    if key.startswith(f"quarantine/{pipeline}/"):
        return "quarantine"
    if key.startswith(f"training/{pipeline}/"):
        return "training set"
    if key.startswith(f"predictions/{pipeline}/"):
        return "prediction" if key.rsplit("/", 2)[-2] in ("parts", "quarantine") else None
    if key.startswith(f"predictions-log/{pipeline}/"):
        return "prediction log"
    folder = snapshots.folder(pipeline)
    if key.startswith(f"{folder}parts/"):
        return "part"
    other = key.endswith("/current.json") or key.startswith(f"{folder}_delta_log/")
    return "manifest" if key.startswith(folder) and not other else None


def keys_of(table: pa.Table | pa.RecordBatch, key: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Return the key of each row, in order."""
    return zip(*(table[column].to_pylist() for column in key), strict=True)


def split(table: pa.Table, key: Sequence[str], gone: IsErased) -> tuple[pa.Table, pa.Table]:
    """Return the rows of a table without the erased keys (the table itself if it has none), and the erased rows."""
    import pyarrow as pa

    struck = [gone(values) for values in keys_of(table, key)]
    if not any(struck):
        return table, table.slice(0, 0)
    return table.filter(pa.array([not is_struck for is_struck in struck])), table.filter(pa.array(struck))


def cut_table(file: Path, kind: Kind, key: Sequence[str], gone: IsErased, out: Path) -> Cut:
    """Write a part or a training set (Parquet) without these rows to `out`, in their order."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow.remove_metadata() if kind == "part" else opened.schema_arrow
        if not set(key) <= set(schema.names):  # of another time, with another key
            return Cut(unread=opened.metadata.num_rows)
        struck, first = array("q"), 0
        for batch in opened.iter_batches(_BATCH, columns=list(key)):
            struck.extend(first + row for row, values in enumerate(keys_of(batch, key)) if gone(values))
            first += batch.num_rows
        if not struck:
            return Cut()
        snapshots.write(_without(opened, struck), schema, out)
    return Cut(rows=len(struck), file=out)


def _without(opened: pq.ParquetFile, places: array[int]) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file, some at a time, without those at these places (ascending)."""
    import numpy as np
    import pyarrow as pa

    left, first = np.frombuffer(places, np.int64), 0
    for batch in opened.iter_batches(_BATCH):
        here = left[np.searchsorted(left, first) : np.searchsorted(left, first + batch.num_rows)] - first
        kept = np.ones(batch.num_rows, bool)
        kept[here] = False
        yield pa.Table.from_batches([batch.filter(pa.array(kept))] if len(here) else [batch])
        first += batch.num_rows


def header_of(stream: BinaryIO, size: int, pipeline: Pipeline) -> Sequence[str] | None:
    """Return the columns of a delivery in its own order; None if it cannot be read."""
    try:
        batches = reading.pieces(stream, size, pipeline.source, len(pipeline.columns))
        return next((batch.fields for batch in batches if batch.header), None) or None
    except Unreadable:
        return None


def cut_delivery(file: Path, pipeline: Pipeline, gone: IsErased, out: Path | None = None) -> Cut:
    """Return which lines of a delivery hold these rows, and write the others to `out`, packed as they were.

    `lines` are counted from 1, as ingestion does. The file is read as a stream; memory does not grow with it. The
    format and the dialect are those of the pipeline's source.
    """
    if pipeline.source.format == "parquet":
        return _cut_parquet(file, pipeline, gone, out)
    size = file.stat().st_size
    with ExitStack() as opened:
        stream = opened.enter_context(file.open("rb"))
        encoding = pipeline.source.encoding if pipeline.source.format == "csv" else "utf-8"
        left = opened.enter_context(_writing(out, encoding, stream.peek(4)[:4])) if out else None
        cut, batch = _Cutting(pipeline, gone, left), list[Piece]()
        if pipeline.source.format == "csv":
            pieces = reading.pieces(stream, size, pipeline.source, len(pipeline.columns))
        else:
            cut.header = _key_names(pipeline)
            pieces = json_lines.pieces(stream, size, cut.header)
        try:
            waiting = 0
            for piece in pieces:
                batch.append(piece)
                waiting += len(piece.text)
                if len(batch) >= _BATCH or waiting >= _CHARACTERS:
                    cut.take(batch)
                    batch.clear()
                    waiting = 0
            cut.take(batch)
        except Unreadable as fault:
            stream.seek(0)
            return Cut(unread=max(1, line_count(stream, size)), fault=str(fault))
    if not cut.rows:
        return Cut(unread=cut.unread, header=cut.header)
    return Cut(None, cut.rows, cut.unread, frozenset(cut.lines), out, cut.header)


def _cut_parquet(file: Path, pipeline: Pipeline, gone: IsErased, out: Path | None) -> Cut:
    """Cut a Parquet delivery. A process of its own reads and writes it, and this one sees the keys only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = file.with_name(f"{file.name}.keys")
    try:
        if fault := isolated.keys(file, pipeline.source.names(pipeline.key), keys):
            return Cut(unread=1, fault=fault)
        lines, unread = list[int](), 0
        with pq.ParquetFile(keys) as opened:
            for batch in opened.iter_batches(_BATCH):
                typed = typed_keys(_trimmed(pa.Table.from_batches([batch]), pipeline), pipeline)
                unread += typed.count(None)
                numbers = batch[LINE].to_pylist()
                lines += [line for line, key in zip(numbers, typed, strict=True) if key is not None and gone(key)]
    finally:
        keys.unlink(missing_ok=True)
    if lines and out is not None and (fault := isolated.cut(file, lines, out)):
        return Cut(unread=len(lines), fault=fault)
    if not lines:
        return Cut(unread=unread, header=_key_names(pipeline))
    return Cut(None, len(lines), unread, frozenset(lines), out, _key_names(pipeline))


def _key_names(pipeline: Pipeline) -> Sequence[str]:
    """Return the names that deliveries give the key."""
    return tuple(pipeline.source.names(pipeline.key).values())


def _trimmed(keys: pa.Table, pipeline: Pipeline) -> pa.Table:
    """Return keys without blanks around the texts of numbers, dates and times."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in pipeline.key:
        if pa.types.is_string(keys[name].type) and pipeline.columns[name].type not in _TEXT:
            place = keys.column_names.index(name)
            keys = keys.set_column(place, name, pc.utf8_trim_whitespace(keys[name]))
    return keys


@dataclass
class _Cutting:
    """Takes pieces of a delivery in order; writes those that are not erased."""

    pipeline: Pipeline
    gone: IsErased
    left: TextIO | None
    header: Sequence[str] = ()
    rows: int = 0
    unread: int = 0
    lines: list[int] = field(default_factory=list)

    def take(self, batch: Sequence[Piece]) -> None:
        self.header = next(
            (delivered_line.fields or () for delivered_line in batch if delivered_line.header), self.header
        )
        rows = [
            i
            for i, delivered_line in enumerate(batch)
            if delivered_line.fields is not None and not delivered_line.header
        ]
        struck, unread = _struck([batch[i].fields or () for i in rows], self.header, self.pipeline, self.gone)
        self.unread += len(unread)
        self.rows += len(struck)
        out = {rows[row] for row in struck}
        for i, delivered_line in enumerate(batch):
            if i in out:
                count = sum(1 for _ in io.StringIO(delivered_line.text, newline=""))
                self.lines += range(delivered_line.line, delivered_line.line + count)
            elif self.left is not None:
                self.left.write(delivered_line.text)


@contextmanager
def _writing(file: Path, encoding: str, start: bytes) -> Iterator[TextIO]:
    """Open a text file, packed if the delivery that begins with `start` was."""
    with ExitStack() as opened:
        raw: Any = opened.enter_context(file.open("wb"))
        raw = opened.enter_context(packing(raw, start))
        yield opened.enter_context(io.TextIOWrapper(raw, encoding=encoding, newline=""))


def cut_quarantine(
    file: Path, header: Sequence[str] | None, pipeline: Pipeline, gone: IsErased, out: Path | None = None
) -> Cut:
    """Write a quarantine file without these rows to `out`, in their order.

    `header`: its delivery's names of columns (default: as declared). The format and the dialect of the rows are those
    of the pipeline's source.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        places, unread, first = array("q"), 0, 0
        for batch in opened.iter_batches(_BATCH, columns=["raw"]):
            struck, lacking = _quarantined([text or "" for text in batch["raw"].to_pylist()], header, pipeline, gone)
            places.extend(first + row for row in sorted(struck))
            unread += len(lacking)
            first += batch.num_rows
        if not places:
            return Cut(unread=unread)
        if out is not None:
            with pq.ParquetWriter(out, opened.schema_arrow, compression="zstd") as writer:
                for left in _without(opened, places):
                    writer.write_table(left)
    return Cut(None, len(places), unread, file=out)


def _quarantined(
    raw: Sequence[str], header: Sequence[str] | None, pipeline: Pipeline, gone: IsErased
) -> tuple[set[int], set[int]]:
    """Return which quarantined rows were erased, and which have no readable key."""
    if pipeline.source.format == "csv":
        rows = [_fields(text, pipeline.source.delimiter) if text else () for text in raw]
    else:
        # rows of Parquet have no text of their own: they were written under the names of the schema
        names = _key_names(pipeline) if pipeline.source.format == "jsonl" else pipeline.key
        rows, header = [json_lines.key_texts(text, names) for text in raw], _key_names(pipeline)
    struck, unread = _struck(rows, header or tuple(pipeline.source.names(pipeline.columns).values()), pipeline, gone)
    if pipeline.source.format == "parquet":  # typed values were written in ISO form
        as_iso = pipeline.model_copy(update={"source": iso(pipeline.source)})
        more, lacking = _struck(rows, header or (), as_iso, gone)
        struck, unread = struck | more, unread & lacking
    return struck, unread - {row for row, text in enumerate(raw) if not text}  # some were erased before


def _fields(text: str, delimiter: str) -> Sequence[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return text.split(delimiter, reading.MAX_COLUMNS)


def _struck(
    rows: Sequence[Sequence[str]], header: Sequence[str], pipeline: Pipeline, gone: IsErased
) -> tuple[set[int], set[int]]:
    """Return which text rows were erased, and which have no readable key. `header`: the delivery's names."""
    names = _key_names(pipeline)
    if not set(names) <= set(header):
        return set(), set(range(len(rows)))
    places = [list(header).index(name) for name in names]
    short = {row for row, fields in enumerate(rows) if len(fields) <= max(places)}
    readable = [row for row in range(len(rows)) if row not in short]
    text = [pipeline.columns[column].type in _TEXT for column in pipeline.key]
    cut_out = [[rows[row][place] for place in places] for row in readable]
    typed = typed_keys(
        [[c if t else c.strip() for c, t in zip(values_of_key, text, strict=True)] for values_of_key in cut_out],
        pipeline,
    )
    unread = short | {row for row, values in zip(readable, typed, strict=True) if values is None}
    return {row for row, values in zip(readable, typed, strict=True) if values is not None and gone(values)}, unread


def typed_keys(rows: Sequence[Sequence[str]] | pa.Table, pipeline: Pipeline) -> list[tuple[Any, ...] | None]:
    """Return typed keys of rows; None for an invalid key.

    `rows`: text in the order of the pipeline's `key`, or a table that has these columns with types of their own.
    """
    columns = {name: pipeline.columns[name] for name in pipeline.key}
    table, against = cells.convert(rows, columns, required=pipeline.key, dialect=pipeline.source)
    return [None if row in against else values for row, values in enumerate(keys_of(table, pipeline.key))]


def succeed(before: Iterable[Snapshot], parts: Mapping[str, Part], content: ContentOf) -> dict[str, Snapshot]:
    """Return the replacement of each snapshot with a cut part (`parts`: its replacement, by SHA-256).

    By the id of the replaced snapshot. A replacement follows the replacement of its predecessor. `content` returns the
    content of a partition of the replacement, given the replaced snapshot.
    """
    replacements: dict[str, Snapshot] = {}
    for snapshot in before:
        touched = {part.partition for part in snapshot.parts if part.sha256 in parts}
        if not touched:
            continue
        after = (replace(parts.get(part.sha256, part), partition=part.partition) for part in snapshot.parts)
        left = tuple(part for part in after if part.rows)
        contents = []
        for now in snapshot.partitions:
            if now.partition not in touched:
                contents.append(now)
            elif those := [part for part in left if part.partition == now.partition]:
                contents.append(content(snapshot, now.partition, those))
        cut = replace(snapshot, parts=left, partitions=tuple(contents), rows=sum(part.rows for part in left))
        replacements[snapshot.id] = replace(cut, id=snapshots.content_id(cut))
    return {
        name: replace(snapshot, previous=_after(replacements, snapshot.previous))
        for name, snapshot in replacements.items()
    }


def _after(replacements: Mapping[str, Snapshot], name: str | None) -> str | None:
    return replacements[name].id if name is not None and name in replacements else name
