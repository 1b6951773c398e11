"""The port for sources: what every kind of source does, and what it may rely on.

A source extracts; it never types, judges or deduplicates. It writes deliveries through a `Sink` and returns the state
from which the next extraction goes on. The caller stores that state only together with the snapshot that holds the
deliveries' rows: a crash before that repeats the extraction, and a repeated delivery is recognised by its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.parsing.schema import SnapshotColumn
from rempart.settings.config import Config, Connections
from rempart.settings.pipeline import Pipeline
from rempart.sovereignty.policy import Decision

if TYPE_CHECKING:
    from rempart.ingestion.derived.binding import Query
    from rempart.ingestion.derived.inputs import Derivation

State = Mapping[str, str]
"""Where the next extraction goes on: a cursor's value, an ETag, the SHA-256 of fetched objects. Empty at first.

It is stored as JSON. Erasure does not reach it, so it holds digests of rows, and no value of a row but the cursor.
"""


@dataclass(frozen=True)
class Origin:
    """Evidence of what was taken: from which operator and place, and under whose law the policy saw it."""

    operator: str
    place: str
    jurisdiction: str
    owner_jurisdiction: str


@dataclass(frozen=True)
class Delivery:
    """One delivery that an extraction wrote: its key in the landing bucket, its bytes, and their SHA-256."""

    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Extraction:
    """The result of one extraction. `state` replaces the earlier one once the snapshot is committed.

    `complete` is False where a limit ended the extraction early; the next one goes on from `state`. `absent_keys`: keys
    that a comparison found here and no longer at the source.
    """

    deliveries: Sequence[Delivery]
    state: State
    complete: bool = True
    absent_keys: Sequence[tuple[object, ...]] = field(default=(), repr=False)


@dataclass(frozen=True)
class Input:
    """The current rows of another pipeline. `parts` writes them to files in a folder, in the columns given here."""

    snapshot: str
    columns: Mapping[str, SnapshotColumn]
    parts: Callable[[Path], Sequence[Path]] = field(repr=False)


class Derive(Protocol):
    """Executes a bound query over the snapshots of its inputs."""

    def __call__(self, sql: str, query: Query, inputs: Mapping[str, Input], order: Sequence[str], out: Path) -> int:
        """Write the rows of the query of a SQL file to `out`, sorted by `order` and then by all columns; their number.

        Raises IngestError without values of rows.
        """
        ...


class Lake(Protocol):
    """The snapshots of other pipelines, as a derived one reads them: without erased rows, and recorded as evidence."""

    @property
    def origin(self) -> Origin:
        """Return where the snapshots are."""
        ...

    @property
    def erasures(self) -> str:
        """Return a digest of all erasures that the rows of the inputs respect."""
        ...

    def input(self, pipeline: Pipeline) -> Input:
        """Return the current snapshot of a pipeline. Raises IngestError if it has none, SiteError."""
        ...

    def resources(self, folder: Path) -> Resources:
        """Return what the engine may use; it spills to a folder below `folder`."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a source is opened with: the configuration, Airflow's connections, the time, and the record of decisions.

    `record` writes a policy decision as evidence. It raises PlacementDenied for a denial. `lake` opens the snapshots
    of a derived pipeline's inputs. `derive` executes its query; by default this machine does.
    """

    config: Config
    connections: Connections
    now: datetime
    record: Callable[[Decision], None]
    lake: Callable[[Derivation], Lake] | None = None
    derive: Derive | None = None


class Sink(Protocol):
    """Takes the deliveries of one extraction. Nothing is visible in the landing bucket before `deliver` returns."""

    def deliver(self, name: str, blocks: Iterator[bytes]) -> Delivery:
        """Store one delivery in blocks, atomically and with its SHA-256, and return it.

        The same name and bytes again change nothing. Raises SiteError.
        """
        ...


class Source(Protocol):
    """A place from which rows or files are extracted.

    The same content and state give the same deliveries, byte for byte: no time, no random id, rows in a stable order.
    """

    @property
    def origin(self) -> Origin:
        """Return where the data come from."""
        ...

    def extract(self, state: State, sink: Sink, now: datetime) -> Extraction:
        """Extract what is new since `state` into deliveries.

        Memory does not grow with the rows. May be killed at any moment: the next call with the same state repeats or
        continues it, and loses nothing. Raises SourceUnavailable (a retry can help), PlacementDenied (the policy's
        `origins`), EgressDenied, and IngestError (the place refused, or answered what it must not).
        """
        ...

    def compare_keys(self, known: Iterator[tuple[object, ...]], state: State, sink: Sink) -> Extraction:
        """Extract rows that `state` skipped, and return the keys that are no longer at the source.

        `known` yields the keys of the current snapshot in order. Raises CapabilityMissing for a kind without it.
        """
        ...


class Reader(Protocol):
    """One format of deliveries. Erasure needs `cut` beside `read`, so a format without it cannot be registered."""

    def cut(self, stream: BinaryIO, out: BinaryIO, struck: frozenset[int]) -> int:
        """Write a delivery without the rows at these positions, other bytes as they were, and return how many went."""
        ...
