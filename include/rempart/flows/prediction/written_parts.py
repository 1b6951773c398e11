"""Write a stream of tables as Parquet files of limited size, each with its SHA-256."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rempart.ingestion.engine.parts import WrittenPart
from rempart.sites.digests import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1_000_000
"""Rows after which the next file begins."""


class PartWriter:
    """Writes tables with one schema into a folder. `parts`: what is complete, once the context has ended.

    `rows`: how many were written.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.parts: list[WrittenPart] = []
        self._folder, self._name, self._schema = folder, name, schema
        self.rows = self._rows = 0
        self._open: tuple[Path, Any] | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def write(self, table: pa.Table) -> None:
        """Write rows after those before. A table without rows writes nothing."""
        import pyarrow.parquet as pq

        if not table.num_rows:
            return
        if self._open is None:
            file = self._folder / f"{self._name}-{len(self.parts):06d}.parquet"
            self._open = file, pq.ParquetWriter(file, self._schema, compression="zstd", version="2.6")
        self._open[1].write_table(table.cast(self._schema))
        self._rows += table.num_rows
        self.rows += table.num_rows
        if self._rows >= ROWS:
            self._end()

    def _end(self) -> None:
        if self._open is None:
            return
        file, writer = self._open
        writer.close()
        self.parts.append(WrittenPart("", file, self._rows, file.stat().st_size, file_sha256(file)))
        self._open, self._rows = None, 0
