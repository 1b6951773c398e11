"""Checkpoints of a Delta log: the whole state as one Parquet object, so that a reader needs no earlier version."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rempart.ingestion.delta.log import (
    READER,
    WRITER,
    DataFile,
    State,
    Table,
    added,
    check_protocol,
    data_file,
    folder,
    meta_data,
)

if TYPE_CHECKING:
    import pyarrow as pa

EVERY = 10
"""Versions after which a checkpoint is written: a writer replays at most so many, and a reader reads as many."""
_NAME = re.compile(r"(\d{20})(\.json|\.checkpoint\.parquet)")


def checkpoint_key(pipeline: str, version: int) -> str:
    """Return the key of the checkpoint of one version."""
    return f"{folder(pipeline)}{version:020d}.checkpoint.parquet"


def listed(pipeline: str, keys: Iterable[str]) -> tuple[list[int], list[int]]:
    """Return the numbers of the versions and of the checkpoints among keys, in order. Other objects are left out."""
    versions, checkpoints = list[int](), list[int]()
    for key in keys:
        if found := _NAME.fullmatch(key.removeprefix(folder(pipeline))):
            (versions if found[2] == ".json" else checkpoints).append(int(found[1]))
    return sorted(versions), sorted(checkpoints)


def is_due(version: int, checkpoints: list[int]) -> bool:
    """Return whether a checkpoint should be written after this version."""
    return version - (checkpoints[-1] if checkpoints else 0) >= EVERY


def encode(state: State) -> bytes:
    """Return the checkpoint of a state, which has a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = [{"protocol": {"minReaderVersion": READER, "minWriterVersion": WRITER}}]
    if state.table:
        rows.append({"metaData": meta_data(state.table)})
    rows += [{"add": added(state.files[path], False)} for path in sorted(state.files)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), sink, compression="zstd")
    return bytes(sink.getvalue())


def decode(body: bytes, version: int) -> State:
    """Return the state in a checkpoint, without its snapshot. Raises ValueError for other bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: Table | None = None
    files = dict[str, DataFile]()
    try:
        for row in pq.read_table(pa.BufferReader(body)).to_pylist():
            if protocol := row.get("protocol"):
                check_protocol(protocol)
            if meta := row.get("metaData"):
                table = Table(meta["id"], meta["name"], meta["schemaString"], meta["createdTime"])
            if add := row.get("add"):
                files[add["path"]] = data_file(add)
    except (pa.ArrowException, KeyError, TypeError) as cause:
        raise ValueError("it is no checkpoint of Delta Lake") from cause
    return State(version, table, files)


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, whole, flag = pa.string(), pa.int64(), pa.bool_()
    texts = pa.map_(text, text)
    return pa.schema(
        {
            "protocol": pa.struct({"minReaderVersion": pa.int32(), "minWriterVersion": pa.int32()}),
            "metaData": pa.struct(
                {
                    "id": text,
                    "name": text,
                    "format": pa.struct({"provider": text, "options": texts}),
                    "schemaString": text,
                    "partitionColumns": pa.list_(text),
                    "configuration": texts,
                    "createdTime": whole,
                }
            ),
            "add": pa.struct(
                {
                    "path": text,
                    "partitionValues": texts,
                    "size": whole,
                    "modificationTime": whole,
                    "dataChange": flag,
                    "stats": text,
                    "tags": texts,
                }
            ),
            "remove": pa.struct({"path": text, "deletionTimestamp": whole, "dataChange": flag}),
            "txn": pa.struct({"appId": text, "version": whole, "lastUpdated": whole}),
        }
    )
