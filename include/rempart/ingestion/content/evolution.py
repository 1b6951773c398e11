"""How rows that were accepted under an earlier schema are read under the present one. Only declared changes count.

A column may be added if it may be null, be removed (`removed_columns`), be renamed (`renamed_from`), or get a wider
type. Whatever else differs is refused with the whole difference, before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.counts import counted
from rempart.engine_connection import EngineConnection
from rempart.errors import IngestError
from rempart.ingestion.engine import identity
from rempart.ingestion.engine.database import literal, opened, parquet
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.parsing.schema import SnapshotColumn, arrow_schema, snapshot_columns
from rempart.ingestion.snapshots import Snapshot
from rempart.settings.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

_BY_VALUE = {("integer", "number"), ("string", "category"), ("category", "string")}
"""Types of which each value is looked at: a number of 64 bits does not hold each integer."""


@dataclass(frozen=True)
class Evolution:
    """The difference of two schemas. `origins`: of each present column the earlier one, None for an added column.

    `changes`: what is declared, `faults`: what is not, as text without values of rows.
    """

    origins: Mapping[str, str | None]
    changes: tuple[str, ...]
    faults: tuple[str, ...]


def evolution(before: Mapping[str, SnapshotColumn], pipeline: Pipeline) -> Evolution:
    """Compare the columns of a snapshot with those of a pipeline. Pure."""
    origins: dict[str, str | None] = {}
    changes: list[str] = []
    faults: list[str] = []
    for name, has in snapshot_columns(pipeline).items():
        earlier = pipeline.columns[name].renamed_from
        origin = origins[name] = name if name in before else earlier if earlier in before else None
        if origin is None:
            (changes if has.nullable else faults).append(
                f"+ {name}: {has.type}" + ("" if has.nullable else ", not nullable: earlier rows have no value there")
            )
            continue
        had = before[origin]
        if origin != name:
            changes.append(f"{origin} → {name}")
        if had.type != has.type:
            (changes if _widens(had.type, has.type) else faults).append(f"{name}: {had.type} → {has.type}")
        if had.nullable != has.nullable:
            changes.append(f"{name}: {'' if has.nullable else 'not '}nullable")
    for name in before:
        if name not in origins.values():
            declared = name in pipeline.removed_columns
            (changes if declared else faults).append(f"- {name}" + ("" if declared else ", not declared as removed"))
    return Evolution(origins, tuple(changes), tuple(faults))


def check(before: Snapshot | None, pipeline: Pipeline) -> None:
    """Raise IngestError with the whole difference if a snapshot's schema may not become the pipeline's."""
    if before:
        _checked(before.columns, before.id, pipeline)


def _checked(columns: Mapping[str, SnapshotColumn], snapshot_id: str, pipeline: Pipeline) -> Evolution:
    found = evolution(columns, pipeline)
    if found.faults:
        declared = f" (declared: {'; '.join(found.changes)})" if found.changes else ""
        raise IngestError(
            f"Snapshot {snapshot_id} of '{pipeline.name}' has another schema than {pipeline.name}.yaml, and this "
            f"change is not declared: {'; '.join(found.faults)}{declared}. Nothing was ingested",
            f"In {pipeline.name}.yaml, give an added column `nullable: true`, a renamed one `renamed_from`, and list a "
            "removed one under `removed_columns`. For another change of a type, deliver the values under another name "
            "(docs/how-to/rows-that-change.md).",
        )
    return found


def conform(table: pa.Table, earlier: Mapping[str, SnapshotColumn], snapshot_id: str, pipeline: Pipeline) -> pa.Table:
    """Convert rows accepted under an earlier schema to the present one. Raises IngestError if that is not exact.

    These rows get null in an added column and lose a removed one; a new order of columns applies to them.
    """
    import pyarrow as pa

    origins, columns = _checked(earlier, snapshot_id, pipeline).origins, snapshot_columns(pipeline)
    schema = arrow_schema(columns)
    arrays = []
    for field in schema:
        origin = origins[field.name]
        if origin is None:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        values = table[origin]
        if not columns[field.name].nullable and values.null_count:
            raise IngestError(
                f"Snapshot {snapshot_id} of '{pipeline.name}': column '{field.name}' has empty values, which the "
                "pipeline no longer allows. Nothing was ingested",
                f"Run `rempart pipeline rejudge {pipeline.name}`: rows that are empty there go to quarantine. Or make "
                f"the column `nullable: true` again in {pipeline.name}.yaml.",
            )
        try:
            arrays.append(values.cast(field.type))
        except pa.ArrowInvalid:  # the error quotes a value
            inexact = f"has values that {columns[field.name].type} does not hold exactly"
            raise _inexact(snapshot_id, pipeline, field.name, inexact) from None
    return pa.table(arrays, schema=schema)


def check_values(before: Snapshot, pipeline: Pipeline, files: Collection[Path], resources: Resources) -> None:
    """Raise IngestError if a category has values in earlier rows that the pipeline does not list.

    `files`: Parquet parts of the earlier rows in the present schema.
    """
    if listed_columns(pipeline) and files:
        with opened(resources, sorted({file.parent for file in files})) as connection:
            check_listed(connection, parquet(sorted(files)), pipeline, before.id)


def listed_columns(pipeline: Pipeline) -> Mapping[str, Sequence[str]]:
    """Return the columns whose values are listed, with the values."""
    return {name: column.values for name, column in pipeline.columns.items() if column.values is not None}


def check_listed(connection: EngineConnection, relation: str, pipeline: Pipeline, snapshot_id: str) -> None:
    """Raise IngestError if rows of a snapshot (`relation`: SQL) have values that the pipeline does not list.

    The pipeline has such columns.
    """
    listed = listed_columns(pipeline)
    counts = ", ".join(
        f"count(*) FILTER (WHERE {identity.quote(name)} NOT IN ({', '.join(map(literal, values))}))"
        for name, values in listed.items()
    )
    (found,) = connection.execute(f"SELECT {counts} FROM {relation}").fetchall()  # noqa: S608 - names and values of a checked file
    if faults := [f"{name} in {counted(rows, 'row')}" for name, rows in zip(listed, found, strict=True) if rows]:
        raise IngestError(
            f"Snapshot {snapshot_id} of '{pipeline.name}' has values that `values` does not list: {'; '.join(faults)}. "
            "Nothing was ingested",
            f"List them again in {pipeline.name}.yaml. Or run `rempart pipeline rejudge {pipeline.name}`: rows with "
            "such a value go to quarantine.",
        )


def _widens(had: str, has: str) -> bool:
    """Return whether each value of a type has exactly one in another, or is looked at."""
    if (had, has) in _BY_VALUE:
        return True
    sizes = [re.fullmatch(r"decimal\((\d+),(\d+)\)", type_) for type_ in (had, has)]
    if sizes[1] is None:
        return False
    digits, scale = int(sizes[1][1]), int(sizes[1][2])
    if had == "integer":
        return digits - scale >= 19
    return sizes[0] is not None and scale >= int(sizes[0][2]) and digits - scale >= int(sizes[0][1]) - int(sizes[0][2])


def _inexact(snapshot_id: str, pipeline: Pipeline, column: str, what: str) -> IngestError:
    return IngestError(
        f"Snapshot {snapshot_id} of '{pipeline.name}': column '{column}' {what}. Nothing was ingested",
        f"Take the change at schema.{column} in {pipeline.name}.yaml back, or deliver the values under another name.",
    )
