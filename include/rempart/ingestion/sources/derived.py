"""Source of a derived pipeline: the rows of its SQL file over the current snapshots of its inputs, as one delivery.

The state names the inputs' snapshots and the query, so nothing is extracted until one of them changes. The delivery is
named after the state, and its rows have a stable order: the same snapshots give the same delivery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rempart import canonical_json
from rempart.errors import CapabilityMissing
from rempart.ingestion.derived.binding import Query
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.snapshots import Part, Snapshot
from rempart.ingestion.sources.port import Extraction, Origin, Sink, State

_BLOCK = 8 << 20
Fetch = Callable[[Part, Path], None]
"""Writes a part to a file, checked against its SHA-256."""


@dataclass(frozen=True)
class Derived:
    """Derived rows. `sql`: the file's name; `key`: columns that identify a row; `folder`: for parts and the result."""

    sql: str
    query: Query
    inputs: Mapping[str, Snapshot]
    key: Sequence[str]
    fetch: Fetch
    folder: Path
    resources: Resources
    origin: Origin

    @property
    def state(self) -> State:
        """Return what the rows are derived from."""
        query = hashlib.sha256(self.query.text.encode()).hexdigest()
        return {"query": query} | {f"input {name}": snapshot.id for name, snapshot in sorted(self.inputs.items())}

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        """Extract all rows if the query or an input changed since `state`."""
        current = self.state
        if dict(state) == dict(current):
            return Extraction((), state)
        files = {name: self._fetched(snapshot) for name, snapshot in self.inputs.items()}
        out = self.folder / "derived.parquet"
        inputs = {name: (snapshot.columns, files[name]) for name, snapshot in self.inputs.items()}
        rows = execute(self.sql, self.query, inputs, self.key, out, self.resources)
        if not rows:
            return Extraction((), current)
        named = hashlib.sha256(canonical_json.encode(dict(current))).hexdigest()[:32]
        return Extraction([sink.deliver(f"{named}.parquet", _blocks(out))], current)

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        raise CapabilityMissing(
            f"compare the keys of the rows of {self.sql}: this version does not find rows that are no longer derived",
            "Remove such rows by `rempart pipeline erase`, or derive again into a new pipeline.",
        )

    def _fetched(self, snapshot: Snapshot) -> list[Path]:
        """Fetch the parts of a snapshot, each once. Return their files in the order of the parts."""
        files = []
        for part in snapshot.parts:
            file = self.folder / f"{part.sha256}.parquet"
            if not file.exists():
                self.fetch(part, file)
            files.append(file)
        return files


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
