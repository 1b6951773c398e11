"""Predict the rows of a file that has the columns of a pipeline's source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import PredictionError
from rempart.flows.ingestion.header_faults import header_fault
from rempart.flows.prediction.champion import Champion
from rempart.ingestion.content import parquet_cut
from rempart.ingestion.engine import staging
from rempart.ingestion.engine.batches import LINE, RefusedRow
from rempart.ingestion.engine.deliveries import rows_of
from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.parsing import formats
from rempart.ingestion.reading import header_of
from rempart.ingestion.unpacking import Unreadable
from rempart.models.inputs import Input, absent
from rempart.models.predictions import is_reserved
from rempart.settings.columns import Column
from rempart.settings.pipeline import Pipeline
from rempart.sites.spool import spool_folder

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 16
"""Rows that are predicted at once."""
LINE_COLUMN = "line"
"""Name of the column with a row's line in the file: a CSV header is line 1. Of Parquet the row's number."""
_ENDINGS = (".parquet", ".csv")


@dataclass(frozen=True)
class ScoredFile:
    """The rows of a file that can be predicted, in batches, and those that cannot.

    `batches`: the line, the columns of the pipeline's key that the file has (see `key_column`), and the prediction.
    They are read once, and then `refused` is complete: each may have rows with a value of a feature that the model does
    not know. `absent`: columns that the model reads and that the file lacks; they are empty.
    """

    batches: Iterator[pa.Table]
    refused: Sequence[RefusedRow]
    absent: Sequence[str] = ()


@contextmanager
def scored(champion: Champion, pipeline: Pipeline, file: Path) -> Iterator[ScoredFile]:
    """Predict the rows of a file (CSV, JSON Lines or Parquet by its name) while the context is open.

    The file is read as a delivery of the pipeline: its dialect, names of columns, types and declared values. Columns
    that the model does not read may be left out, and those that may be empty. Raises PredictionError if the file as a
    whole cannot be read; then the errors of `Champion.predict`.
    """
    with spool_folder() as folder:
        header = ""
        try:
            named = _names_in(pipeline, file)
            read_as = _reading(pipeline, champion.model.inputs, named)
            header = _header_fault(named or (), read_as)
            limits = Limits()
            staged = staging.stage(
                rows_of(file, read_as, limits), read_as, folder / "rows.parquet", limits, lambda table: {}
            )
            fault = staged.fault
        except Unreadable as cause:
            fault = str(cause)
        except (OSError, ValueError) as cause:  # one of Arrow quotes what is in the file
            fault = f"it cannot be read ({getattr(cause, 'strerror', None) or type(cause).__name__})"
        if fault:
            needed = ", ".join(column.name for column in champion.model.inputs)
            raise PredictionError(
                f"predict the rows of {file.name}: {header or fault}",
                f"Correct the file. The model reads these columns of it: {needed}. Leave out columns that the pipeline "
                "file does not name. If one is a column of it by a new name, map this name in `source.header`.",
            )
        key = [column for column in pipeline.key if column in read_as.columns]
        lacking = tuple(each.name for each in absent(champion.model.inputs, read_as.columns))
        yield ScoredFile(_batches(champion, staged.file, key, staged.refused), staged.refused, lacking)


def _reading(pipeline: Pipeline, inputs: Sequence[Input], named: Sequence[str] | None) -> Pipeline:
    """Return the pipeline as which a file is read: its columns that the file has, without rules for the others.

    `named`: result of `_names_in`.
    """
    needed = {column.name: column for column in inputs}
    names = pipeline.source.names(pipeline.columns)
    there = None if named is None else {column for column, name in names.items() if name in named}
    columns: dict[str, Column] = {}
    for name, column in pipeline.columns.items():
        if name in needed:
            changes = {"nullable": needed[name].nullable, "values": list(needed[name].values) or None}
            columns[name] = column.model_copy(update=changes)
        elif name in pipeline.key or column.type == "array":
            columns[name] = column.model_copy(update={"nullable": True})
        else:
            columns[name] = Column(type="string", known=column.known, nullable=True)
    required = {name for name, column in needed.items() if not column.nullable}
    kept = {name: column for name, column in columns.items() if there is None or name in required or name in there}
    return pipeline.model_copy(update={"schema_": kept, "key": [], "partition_by": ""})


def _names_in(pipeline: Pipeline, file: Path) -> Sequence[str] | None:
    """Return the columns that a file names; None for JSON Lines, where each row names its own.

    Raises Unreadable, OSError.
    """
    match formats.of_name(file.name):
        case "parquet":
            return parquet_cut.names(file)
        case "csv":
            with file.open("rb") as stream:
                return header_of(file.name, stream, file.stat().st_size, pipeline.source)
    return None


def _header_fault(named: Sequence[str], pipeline: Pipeline) -> str:
    """Return which columns of a file the pipeline does not have, by name, and which the file lacks. Pure.

    Empty if all are known, or if most of the pipeline's are missing: the first line may be a row, whose values are not
    repeated.
    """
    fault = header_fault("", named, pipeline)
    return fault.what() if fault and fault.extra else ""


def ending_fault(output: Path) -> str | None:
    """Return why predictions cannot be written to a file of this name, or None."""
    return None if output.suffix in _ENDINGS else f"'{output.name}' ends in none of {', '.join(_ENDINGS)}"


def write(batches: Iterable[pa.Table], output: Path) -> int:
    """Write predictions to a Parquet or CSV file, which appears when it is complete. Return the number of rows.

    Without a batch no file is written. Raises PredictionError if the file cannot be written, and what `batches` raises.
    """
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    part, rows = output.with_name(f".{output.name}.part"), 0
    kind = pq.ParquetWriter if output.suffix == ".parquet" else csv.CSVWriter
    try:
        with ExitStack() as stack:
            writer = None
            for batch in batches:
                writer = writer or stack.enter_context(kind(part, batch.schema))
                writer.write_table(batch)
                rows += batch.num_rows
        if writer is not None:
            part.replace(output)
    except OSError as cause:
        raise PredictionError(
            f"write predictions to {output}: {cause.strerror or type(cause).__name__}",
            "Pass a file in a folder that you may write.",
        ) from cause
    finally:
        part.unlink(missing_ok=True)
    return rows


def key_column(name: str) -> str:
    """Return the name of a key's column beside a prediction: `key_NAME` if a prediction may have a column NAME."""
    return f"key_{name}" if name == LINE_COLUMN or is_reserved(name) else name


def _batches(champion: Champion, file: Path, key: Sequence[str], refused: list[RefusedRow]) -> Iterator[pa.Table]:
    """Yield the predictions, and add rows with an unknown value of a feature to `refused`."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(ROWS):
            rows = pa.Table.from_batches([batch])
            answers = champion.answers(rows)
            lines = rows[LINE].filter(answers.unknown).to_pylist()
            refused += [
                RefusedRow(line, (reason,), "") for line, reason in zip(lines, answers.reasons.to_pylist(), strict=True)
            ]
            if not (rows := rows.filter(pc.invert(answers.unknown))).num_rows:
                continue
            told = {key_column(name): rows[name] for name in key}
            found = dict(zip(answers.predicted.column_names, answers.predicted.columns, strict=True))
            yield pa.table({LINE_COLUMN: rows[LINE], **told, **found})
