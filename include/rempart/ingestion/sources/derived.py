"""Source of a derived pipeline: the rows of its SQL file over the current snapshots of its inputs, as one delivery.

The state names the inputs' snapshots, the query and the erasures, so nothing is extracted until one of them changes.
The delivery is named after the state, and its rows have a stable order: the same snapshots give the same delivery. It
holds all rows, so it stands for the whole: see `rempart.flows.ingestion.derived_run`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rempart import canonical_json
from rempart.errors import CapabilityMissing, IngestError
from rempart.ingestion.derived import inputs as files
from rempart.ingestion.derived.binding import Query
from rempart.ingestion.derived.execution import execute
from rempart.ingestion.sources.port import Derive, Extraction, Input, Lake, Origin, Sink, State, Surroundings
from rempart.settings.pipeline import Pipeline
from rempart.sites.spool import spool_folder

_BLOCK = 8 << 20
INPUT = "input "
"""Begins the name of an input in a state; its value is the input's snapshot."""
ERASURES = "erasures"


def open_derived(pipeline: Pipeline, around: Surroundings) -> Derived:
    """Bind a derived pipeline's query and open its inputs.

    Raises PipelineError, IngestError for an input without a snapshot, PlacementDenied, SiteError.
    """
    if around.lake is None:
        raise TypeError("a derived source needs a lake")
    found = files.bound(pipeline, files.declared_inputs(pipeline))
    lake = around.lake(found)
    inputs = {name: lake.input(spec) for name, spec in found.inputs.items()}
    return Derived(found.sql, found.query, inputs, pipeline.key, lake, around.derive)


def is_derived_name(file: str) -> bool:
    """Return whether a delivery has a name as `delivery_name` gives it. Pure."""
    return re.fullmatch(r"[0-9a-f]{32}\.parquet", file) is not None


def delivery_name(state: State) -> str:
    """Return the name of the delivery with the rows of a state."""
    return f"{hashlib.sha256(canonical_json.encode(dict(state))).hexdigest()[:32]}.parquet"


@dataclass(frozen=True)
class Derived:
    """Derived rows. `sql`: the file's name; `key`: columns that identify a row; `derive`: executes the query, by
    default on this machine.
    """

    sql: str
    query: Query
    inputs: Mapping[str, Input]
    key: Sequence[str]
    lake: Lake
    derive: Derive | None = None

    @property
    def origin(self) -> Origin:
        """Return where the inputs' snapshots are."""
        return self.lake.origin

    @property
    def state(self) -> State:
        """Return what the rows are derived from."""
        query = hashlib.sha256(self.query.text.encode()).hexdigest()
        named = {f"{INPUT}{name}": found.snapshot for name, found in sorted(self.inputs.items())}
        return {"query": query, ERASURES: self.lake.erasures} | named

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        """Extract all rows if the query or an input changed since `state`.

        Raises IngestError if the query fails, or gives no row although it gave some before: then somebody must look.
        """
        current = self.state
        if dict(state) == dict(current):
            return Extraction([], state)
        with spool_folder() as folder:
            out = folder / "derived.parquet"
            if self.derive:
                rows = self.derive(self.sql, self.query, self.inputs, self.key, out)
            else:
                read = {name: (found.columns, found.parts(folder / name)) for name, found in self.inputs.items()}
                rows = execute(self.sql, self.query, read, self.key, out, self.lake.resources(folder))
            if not rows and state:
                raise IngestError(
                    f"{self.sql}: the query gives no row of the current {', '.join(self.inputs)}, and it gave some "
                    "before. The snapshot stays as it is",
                    "Look at the inputs and at the query: an empty result would take every row out of the snapshot.",
                )
            if not rows:
                return Extraction([], state)
            return Extraction([sink.deliver(delivery_name(current), _blocks(out))], current)

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        raise CapabilityMissing(
            f"compare the keys of the rows of {self.sql}: each delivery holds all rows",
            "Run the pipeline: rows that are no longer derived leave its snapshot.",
        )


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
