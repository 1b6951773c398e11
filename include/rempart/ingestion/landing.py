"""The landing bucket and the quarantine: what waits, in which order it is taken in, and what is kept of refused rows.

A delivery is known by its SHA-256: the same bytes again, under any name, are the same delivery and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from rempart.errors import ObjectMissing
from rempart.ingestion.reading import RefusedRow
from rempart.sites.port import ObjectInfo, Site


@dataclass(frozen=True)
class Arrival:
    """One file in the landing bucket, as it was when read."""

    key: str
    sha256: str
    size: int
    landed_at: datetime
    etag: str

    @property
    def name(self) -> str:
        """The file's name, without its folders."""
        return self.key.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class LandingPlan:
    """What a run does with the files that wait: take in `new`, in order; `known` ones need nothing."""

    new: tuple[Arrival, ...]
    known: tuple[Arrival, ...]


def plan(arrivals: Sequence[Arrival], known: Collection[str]) -> LandingPlan:
    """Oldest first (then by key), so that of two rows with one key the first delivered stands."""
    new: dict[str, Arrival] = {}
    repeated: list[Arrival] = []
    for arrival in sorted(arrivals, key=lambda a: (a.landed_at, a.key)):
        if arrival.sha256 in known or arrival.sha256 in new:
            repeated.append(arrival)
        else:
            new[arrival.sha256] = arrival
    return LandingPlan(tuple(new.values()), tuple(repeated))


def raw_key(pipeline: str, arrival: Arrival) -> str:
    return f"raw/{pipeline}/{arrival.sha256}/{arrival.name}"


def quarantine_key(pipeline: str, sha256: str) -> str:
    return f"quarantine/{pipeline}/{sha256}.parquet"


def waiting(site: Site, bucket: str, prefix: str) -> list[ObjectInfo]:
    """Files under a landing prefix; empty objects that stand for folders are no files."""
    return [found for found in site.list(bucket, prefix) if not (found.key.endswith("/") and not found.size)]


def quarantine(
    site: Site, bucket: str, pipeline: str, sha256: str, refused: Sequence[RefusedRow], retain_until: date
) -> None:
    """Keep a delivery's refused rows with their line, reasons and text as received."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted(refused, key=lambda row: row.line)
    table = pa.table(
        {
            "source_line": pa.array([row.line for row in rows], pa.int64()),
            "reason": pa.array(["; ".join(row.reasons) for row in rows], pa.string()),
            "raw": pa.array([row.raw for row in rows], pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    site.write(
        bucket,
        quarantine_key(pipeline, sha256),
        bytes(sink.getvalue()),
        metadata={"retain-until": retain_until.isoformat()},
        content_type="application/vnd.apache.parquet",
    )


def clear(site: Site, bucket: str, arrival: Arrival) -> None:
    """Remove a file from the landing bucket, unless another one took its place (the next run takes that)."""
    try:
        now = site.head(bucket, arrival.key)
    except ObjectMissing:
        return
    if (now.size, now.etag) == (arrival.size, arrival.etag):
        site.delete(bucket, arrival.key)
