"""Read rows of a snapshot's parts in executors: in the present schema, and apart from those of erased people.

An order tells which rows were erased by their positions in a part. Neither a key nor the secret of a pseudonym leaves
the platform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rempart.ingestion.content import evolution
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema, snapshot_columns
from rempart.settings.pipeline import Pipeline
from rempart.spark.order import InputObject
from rempart.spark.sites import OpenSite, parquet_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

GONE = "_gone"
"""Column of known rows: whether the row was erased."""


@dataclass(frozen=True)
class KnownForm:
    """Form of the rows of a snapshot's parts. `snapshot`: its id. `columns`: type and nullability of each.

    `gone`: by the SHA-256 of a part the positions of its erased rows, from 0.
    """

    snapshot: str = ""
    columns: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    gone: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @staticmethod
    def of(snapshot_id: str, columns: Mapping[str, SnapshotColumn], gone: Mapping[str, Sequence[int]]) -> KnownForm:
        """Return the form of a snapshot's rows."""
        told = {name: (column.type, column.nullable) for name, column in columns.items()}
        return KnownForm(snapshot_id, told, {sha256: tuple(found) for sha256, found in gone.items() if found})

    @property
    def snapshot_columns(self) -> dict[str, SnapshotColumn]:
        return {name: SnapshotColumn(type_, nullable) for name, (type_, nullable) in self.columns.items()}


def known_rows(
    session: SparkSession,
    open_site: OpenSite,
    parts: Sequence[InputObject],
    pipeline: Pipeline,
    form: KnownForm,
    *,
    named: str | None = None,
) -> DataFrame:
    """Return the rows of parts in the pipeline's schema, with `GONE`. `named`: a column with the SHA-256 of their part.

    Reading them raises IngestError for a value that the present schema does not hold exactly.
    """
    import pyarrow as pa

    schema = arrow_schema(snapshot_columns(pipeline)).append(pa.field(GONE, pa.bool_()))
    read = arrow_schema(form.snapshot_columns)
    return parquet_rows(session, open_site, parts, schema, named=named, read=read, change=_PresentForm(pipeline, form))


@dataclass(frozen=True)
class _PresentForm:
    """Brings rows of a part to the present schema and marks erased ones. `first`: position of the first of them."""

    pipeline: Pipeline
    form: KnownForm

    def __call__(self, rows: pa.Table, sha256: str, first: int) -> Any:
        import numpy as np
        import pyarrow as pa

        table = evolution.conform(rows, self.form.snapshot_columns, self.form.snapshot, self.pipeline)
        gone = np.zeros(rows.num_rows, np.bool_)
        positions = np.asarray(self.form.gone.get(sha256, ()), np.int64) - first
        gone[positions[(positions >= 0) & (positions < rows.num_rows)]] = True
        return table.append_column(GONE, pa.array(gone))
