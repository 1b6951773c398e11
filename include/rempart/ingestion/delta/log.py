"""Plan versions of a Delta log, and replay them: pure functions over bytes.

Version N is the object `N.json`, with one action a line (protocol: reader 1, writer 2). A data file carries its number
of rows and no column statistics, since those hold values of the data. Nothing uses deletion vectors. The same snapshot
on the same state gives the same bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from rempart import canonical_json
from rempart.errors import IntegrityError
from rempart.ingestion import snapshots
from rempart.ingestion.delta.schema import schema_string
from rempart.ingestion.snapshots import Part, SnapshotColumn

READER, WRITER = 1, 2
"""Protocol versions: every reader of Delta Lake has them."""
PARTITION = "partition"
"""Tag of a data file: the partition of the snapshot. To readers the table has no partition columns."""


@dataclass(frozen=True)
class DataFile:
    """A data file of the table. `path` is relative to the table's root, `modified` in milliseconds since 1970."""

    path: str
    size: int
    rows: int | None
    partition: str | None
    modified: int


@dataclass(frozen=True)
class Table:
    """The table's metadata. `created` in milliseconds since 1970."""

    id: str
    name: str
    schema: str
    created: int


@dataclass(frozen=True)
class State:
    """The table after a version: -1 before the first. `snapshot` and `timestamp` are of the newest version."""

    version: int = -1
    table: Table | None = None
    files: Mapping[str, DataFile] = field(default_factory=dict)
    snapshot: str | None = None
    timestamp: int = -1


class TableContent(Protocol):
    """What a version of a table shows: a snapshot, or the predictions of a model. `pipeline`: the table's name."""

    @property
    def id(self) -> str: ...
    @property
    def pipeline(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def columns(self) -> Mapping[str, SnapshotColumn]: ...
    @property
    def parts(self) -> Sequence[Part]: ...


def root(table: str) -> str:
    """Return the root of a pipeline's table of snapshots, or of a table whose name is a folder and ends with a slash.

    Data files lie below it, because readers refuse paths that leave it.
    """
    return table if table.endswith("/") else snapshots.folder(table)


def folder(pipeline: str) -> str:
    """Return the folder of the log."""
    return f"{root(pipeline)}_delta_log/"


def version_key(pipeline: str, version: int) -> str:
    """Return the key of one version's object."""
    return f"{folder(pipeline)}{version:020d}.json"


def commit(state: State, snapshot: TableContent) -> bytes | None:
    """Return the next version, which turns the state into the snapshot. None if the table already equals it."""
    return _version(state, snapshot, whole=False)


def whole(state: State, snapshot: TableContent) -> bytes:
    """Return a next version that names every data file of the snapshot, so that no earlier version is needed.

    It also removes the files of `state`, for a reader that goes on from there.
    """
    return _version(state, snapshot, whole=True) or b""


def chain(line: Iterable[TableContent]) -> Iterator[tuple[int, bytes]]:
    """Yield the versions of a new log, from the line of snapshots, oldest first."""
    state = State()
    for snapshot in line:
        if body := commit(state, snapshot):
            state = apply(state, body)
            yield state.version, body


def apply(state: State, body: bytes) -> State:
    """Return the state after the next version. Raises ValueError for bytes that are no version of such a log."""
    table, snapshot, timestamp = state.table, None, state.timestamp
    removed, added = set[str](), dict[str, DataFile]()
    for line in filter(None, body.split(b"\n")):
        try:
            ((kind, action),) = json.loads(line).items()
            match kind:
                case "protocol":
                    check_protocol(action)
                case "metaData":
                    table = Table(action["id"], action["name"], action["schemaString"], action["createdTime"])
                case "add":
                    added[action["path"]] = data_file(action)
                case "remove":
                    removed.add(action["path"])
                case "commitInfo":
                    snapshot, timestamp = action.get("snapshot"), int(action["timestamp"])
        except (KeyError, TypeError, AttributeError) as cause:
            raise ValueError("a line is no action of Delta Lake") from cause
    files = {path: file for path, file in state.files.items() if path not in removed}
    return State(state.version + 1, table, files | added, snapshot, timestamp)


def check_protocol(action: Mapping[str, Any]) -> None:
    """Raise ValueError for a protocol that this log does not use."""
    if (action["minReaderVersion"], action["minWriterVersion"]) != (READER, WRITER):
        raise ValueError("another program raised the protocol of the table")


def data_file(action: Mapping[str, Any]) -> DataFile:
    """Return the data file of an `add` action. Raises ValueError for a deletion vector."""
    if action.get("deletionVector"):
        raise ValueError("another program deleted rows by a deletion vector")
    stats, tags = json.loads(action.get("stats") or "{}"), dict(action.get("tags") or {})
    return DataFile(
        action["path"], action["size"], stats.get("numRecords"), tags.get(PARTITION), action["modificationTime"]
    )


def added(file: DataFile, data_change: bool) -> dict[str, Any]:
    """Return the `add` action of a data file."""
    return {
        "path": file.path,
        "partitionValues": {},
        "size": file.size,
        "modificationTime": file.modified,
        "dataChange": data_change,
        "stats": json.dumps({"numRecords": file.rows}, separators=(",", ":")),
        "tags": {PARTITION: file.partition or ""},
    }


def meta_data(table: Table) -> dict[str, Any]:
    """Return the `metaData` action of a table."""
    return {
        "id": table.id,
        "name": table.name,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": table.schema,
        "partitionColumns": [],
        "configuration": {},
        "createdTime": table.created,
    }


def _version(state: State, snapshot: TableContent, *, whole: bool) -> bytes | None:
    moment = max(_milliseconds(snapshot.created_at), state.timestamp + 1)  # versions are ordered by time, too
    wanted = _files(snapshot, moment)
    table = Table(
        str(uuid.uuid5(uuid.NAMESPACE_URL, f"rempart:{root(snapshot.pipeline)}")),
        snapshot.pipeline,
        schema_string(snapshot.columns),
        state.table.created if state.table else moment,
    )
    gone = [path for path in state.files if path not in wanted]
    new = [
        file for path, file in wanted.items() if whole or path not in state.files or state.files[path].size != file.size
    ]
    if not (whole or gone or new or table != state.table):
        return None
    data_change = snapshot.id != state.snapshot  # the same rows in other files are no change of data
    actions: list[dict[str, Any]] = [_info(snapshot, moment, bool(gone))]
    if whole or state.table is None:
        actions.append({"protocol": {"minReaderVersion": READER, "minWriterVersion": WRITER}})
    if whole or table != state.table:
        actions.append({"metaData": meta_data(table)})
    actions += [
        {"remove": {"path": path, "deletionTimestamp": moment, "dataChange": data_change}} for path in sorted(gone)
    ]
    actions += [{"add": added(file, data_change)} for file in sorted(new, key=lambda file: file.path)]
    return b"".join(canonical_json.encode(action) + b"\n" for action in actions)


def _info(snapshot: TableContent, moment: int, overwrites: bool) -> dict[str, Any]:
    """Return what a version says about itself: no person, no machine, no value of the data."""
    info = {
        "timestamp": moment,
        "operation": "WRITE",
        "operationParameters": {"mode": "Overwrite" if overwrites else "Append"},
        "engineInfo": "Rempart",
        "snapshot": snapshot.id,
    }
    return {"commitInfo": info}


def _files(snapshot: TableContent, moment: int) -> dict[str, DataFile]:
    """Return the data files of a snapshot by path. Raises IntegrityError for a part that a reader could not name."""
    files: dict[str, DataFile] = {}
    for part in snapshot.parts:
        path = part.key.removeprefix(root(snapshot.pipeline))
        if path == part.key or path in files:
            raise IntegrityError(
                f"list the data files of snapshot {snapshot.id} of '{snapshot.pipeline}': {part.key} is "
                + ("named twice" if path in files else f"not below {root(snapshot.pipeline)}"),
                "Report this as a bug.",
            )
        files[path] = DataFile(path, part.bytes, part.rows, part.partition, moment)
    return files


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
