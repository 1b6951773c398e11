"""Predictions in the lake: immutable Parquet parts, a manifest of each scoring, and one open table (Delta Lake).

A scoring is what a champion predicted for rows of a snapshot. Its manifest is written after its parts, and the table
shows the scorings whose manifest exists. So a run that is killed leaves the former table.

    predictions/ROWS/MODEL/parts/SHA256.parquet         predictions of rows of pipeline ROWS by model MODEL
    predictions/ROWS/MODEL/quarantine/SHA256.parquet    keys of rows that could not be predicted, with reasons
    predictions/ROWS/MODEL/ID.json                      manifest of a scoring
    predictions/ROWS/MODEL/_delta_log/                  the table of all predictions
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from typing import Any

from rempart import canonical_json
from rempart.errors import IntegrityError, ObjectMissing
from rempart.ingestion.snapshots import Part, Snapshot, SnapshotColumn
from rempart.models import predictions
from rempart.models.loading import LoadedModel
from rempart.sites.once import put_again
from rempart.sites.port import Site

FORMAT = 1
VERSION, SHA256, SNAPSHOT, SCORED_AT, MOMENT, REASON = (
    "version", "sha256", "snapshot", "scored_at", "moment", "reason",
)  # fmt: skip
_RESERVED = frozenset((VERSION, SHA256, SNAPSHOT, SCORED_AT, MOMENT, REASON, "model"))


@dataclass(frozen=True)
class ScoringQuestion:
    """What a scoring is about. The same question is answered once: `id` is its hash.

    `model` and `rows_of`: names of the pipelines of the model and of the rows. `labels`: snapshot of the labels whose
    rows are left out. `since` and `until`: the window as it was given.
    """

    model: str
    sha256: str
    rows_of: str
    snapshot: str
    labels: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def id(self) -> str:
        return hashlib.sha256(canonical_json.encode(asdict(self))).hexdigest()[:32]


@dataclass(frozen=True)
class Scoring:
    """A manifest as read. `rows` were predicted, `refused` rows are in quarantine. `columns`: of the predictions.

    `based_on`: id of the scoring that has the rows of partitions which did not change; None if it stands alone.
    `reasons`: why rows were refused, by the number of rows when they were.
    """

    asked: ScoringQuestion
    version: str
    at: datetime
    classification: str
    keep_until: date
    columns: Mapping[str, SnapshotColumn]
    parts: tuple[Part, ...]
    quarantine: tuple[Part, ...]
    based_on: str | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def refused(self) -> int:
        return sum(part.rows for part in self.quarantine)

    @property
    def digest(self) -> str:
        """Return a hash of the files: of the SHA-256 of each part, predictions first."""
        return hashlib.sha256(" ".join(part.sha256 for part in (*self.parts, *self.quarantine)).encode()).hexdigest()


@dataclass(frozen=True)
class PredictionTable:
    """What the open table shows: the predictions of every scoring. It implements `delta.log.TableContent`."""

    pipeline: str
    id: str
    created_at: datetime
    columns: Mapping[str, SnapshotColumn]
    parts: tuple[Part, ...]


def folder(rows_of: str, model: str = "") -> str:
    """Return the root of a table, which is its name as well; without a model, of all tables of a pipeline's rows."""
    return f"predictions/{rows_of}/{model}/" if model else f"predictions/{rows_of}/"


def key_column(name: str) -> str:
    """Return the name of a key's column beside a prediction: `key_NAME` if a prediction may have a column NAME."""
    return f"key_{name}" if name in _RESERVED or predictions.is_reserved(name) else name


def names_of(key: Sequence[str]) -> list[str]:
    """Return the names of a key's columns beside a prediction, in order."""
    return [key_column(name) for name in key]


def key_columns(snapshot: Snapshot, key: Sequence[str]) -> dict[str, SnapshotColumn]:
    """Return the columns that identify a row of a snapshot, by their names beside a prediction."""
    return {key_column(name): snapshot.columns[name] for name in key}


def table_columns(model: LoadedModel, keys: Mapping[str, SnapshotColumn]) -> dict[str, SnapshotColumn]:
    """Return the columns of a table of predictions, in order."""
    kinds = {"double": "number", "string": "string"}
    predicted = predictions.columns(model.task, model.target, intervals=model.coverage is not None)
    return {
        **keys,
        **{name: SnapshotColumn(kinds[kind], True) for name, kind in predicted.items()},
        MOMENT: SnapshotColumn("timestamp", True),
        VERSION: SnapshotColumn("string", False),
        SHA256: SnapshotColumn("string", False),
        SNAPSHOT: SnapshotColumn("string", False),
        SCORED_AT: SnapshotColumn("timestamp", False),
    }


def manifest(scoring: Scoring) -> bytes:
    """Return the manifest as stored."""

    def told(parts: Iterable[Part]) -> list[list[Any]]:
        return [[part.sha256, part.rows, part.bytes] for part in parts]

    return canonical_json.encode(
        {
            "format": FORMAT,
            "asked": asdict(scoring.asked),
            "version": scoring.version,
            "at": scoring.at.isoformat(),
            "classification": scoring.classification,
            "keep_until": scoring.keep_until.isoformat(),
            "columns": [[name, column.type, column.nullable] for name, column in scoring.columns.items()],
            "parts": told(scoring.parts),
            "quarantine": told(scoring.quarantine),
            "based_on": scoring.based_on,
            "reasons": dict(scoring.reasons),
        }
    )


def parse(body: bytes) -> Scoring:
    """Return the scoring in a manifest's bytes. Raises ValueError for invalid bytes."""
    try:
        found = canonical_json.read(body)
        if found["format"] != FORMAT:
            raise ValueError(f"it is a manifest of format {found['format']}")
        asked = ScoringQuestion(**found["asked"])
        root = folder(asked.rows_of, asked.model)

        def parts(name: str, below: str) -> tuple[Part, ...]:
            return tuple(part(root, below, sha256, rows, size) for sha256, rows, size in found[name])

        return Scoring(
            asked,
            str(found["version"]),
            datetime.fromisoformat(found["at"]),
            str(found["classification"]),
            date.fromisoformat(found["keep_until"]),
            {name: SnapshotColumn(kind, nullable) for name, kind, nullable in found["columns"]},
            parts("parts", "parts"),
            parts("quarantine", "quarantine"),
            found.get("based_on"),
            {str(reason): int(rows) for reason, rows in found.get("reasons", {}).items()},
        )
    except (KeyError, TypeError, AttributeError) as cause:
        raise ValueError("it is not a manifest") from cause


def part(root: str, below: str, sha256: str, rows: int, size: int) -> Part:
    """Return a part of a scoring. `below`: `parts` or `quarantine`."""
    return Part("", f"{root}{below}/{sha256}.parquet", sha256, rows, size)


def key_of(asked: ScoringQuestion) -> str:
    """Return the key of a scoring's manifest."""
    return f"{folder(asked.rows_of, asked.model)}{asked.id}.json"


def find(site: Site, bucket: str, asked: ScoringQuestion) -> Scoring | None:
    """Return a scoring that was committed, or None. Raises SiteError, IntegrityError for a damaged manifest."""
    try:
        return _read(site, bucket, key_of(asked))
    except ObjectMissing:
        return None


def all_of(site: Site, bucket: str, root: str) -> list[Scoring]:
    """Return every scoring of a table, oldest first. Raises SiteError, IntegrityError for a damaged manifest."""
    keys = [info.key for info in site.list(bucket, root) if _is_manifest(info.key, root)]
    return sorted((_read(site, bucket, key) for key in keys), key=lambda found: (found.at, found.id))


def complete(scorings: Sequence[Scoring], expired: Collection[str]) -> set[str]:
    """Return the ids of those that stand alone, or on others that are all there or are among the `expired`. Pure.

    `scorings`: oldest first.
    """
    found = set[str]()
    for each in scorings:
        if each.based_on is None or each.based_on in found or each.based_on in expired:
            found.add(each.id)
    return found


def rows_scored_by(site: Site, bucket: str, model: str) -> list[str]:
    """Return the pipelines of whose rows a model has predictions. Raises SiteError."""
    keys = (info.key.split("/") for info in site.list(bucket, "predictions/"))
    return sorted({names[1] for names in keys if len(names) > 3 and names[2] == model})


def roots(site: Site, bucket: str, rows_of: str) -> list[str]:
    """Return the roots of all tables with predictions of a pipeline's rows. Raises SiteError."""
    top = folder(rows_of)
    return sorted({top + info.key.removeprefix(top).split("/")[0] + "/" for info in site.list(bucket, top)})


def _is_manifest(key: str, root: str) -> bool:
    rest = key.removeprefix(root)
    return "/" not in rest and rest.endswith(".json")


def _read(site: Site, bucket: str, key: str) -> Scoring:
    body = site.read(bucket, key)
    try:
        found = parse(body)
    except ValueError as cause:
        raise IntegrityError(
            f"read manifest {bucket}/{key} at site '{site.name}': {cause}",
            "Restore the object from its replica or a restore point.",
        ) from cause
    return found


def store(site: Site, bucket: str, scoring: Scoring) -> None:
    """Write a manifest, read back. Its parts must be there. Raises SiteError, IntegrityError."""
    kept = {"retain-until": scoring.keep_until.isoformat()}
    put_again(site, bucket, key_of(scoring.asked), manifest(scoring), metadata=kept, content_type="application/json")


def table(root: str, scorings: Sequence[Scoring]) -> PredictionTable | None:
    """Return the table of these scorings, oldest first, or None without any. Pure.

    A column that later scorings lack is null there. A scoring that has a column of another type than the newest, as of
    a model that once predicted a number and now a class, has its files still, and is not in the table.
    """
    if not scorings:
        return None
    columns: dict[str, SnapshotColumn] = {}
    shown = list[Scoring]()
    for found in reversed(scorings):
        if all(columns.get(name, column).type == column.type for name, column in found.columns.items()):
            columns = {**columns, **{name: column for name, column in found.columns.items() if name not in columns}}
            shown.append(found)
    missing = {name for found in shown for name in columns if name not in found.columns}
    columns = {name: replace(column, nullable=column.nullable or name in missing) for name, column in columns.items()}
    named = {each.key: each for found in shown for each in found.parts}
    newest = scorings[-1]
    return PredictionTable(root, newest.id, newest.at, columns, tuple(named[key] for key in sorted(named)))
