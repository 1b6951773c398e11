"""Manage the landing bucket and the quarantine: waiting files, their order, and stored refused rows.

A delivery is identified by its SHA-256: the same bytes under another name are the same delivery and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import IntegrityError, ObjectMissing
from rempart.ingestion import refused as refused_rows
from rempart.ingestion.reading import LINE, RAW
from rempart.ingestion.refused import AT_A_TIME, JOINED, REASONS, Refused, RefusedFile
from rempart.sites import once
from rempart.sites.digests import copied, file_sha256
from rempart.sites.port import ObjectInfo, Site
from rempart.sites.spool import spool_folder

if TYPE_CHECKING:
    import pyarrow as pa

PUT_BACK = "again-"
"""Begins the name of a folder with a delivery that a reset put back. It goes on with the moment of its arrival."""
_MOMENT = "%Y-%m-%dT%H%M%S.%f"
_PUT_BACK = re.compile(rf"/{PUT_BACK}(\d{{4}}-\d\d-\d\dT\d{{6}}\.\d{{6}})-[0-9a-f]{{12}}/[^/]+\Z")
EXTRACTED = "extract-"
"""Begins the name of a folder with the deliveries of an extraction."""
ORDER = "order"
"""Metadata of a file in the landing bucket: its place among the files that were delivered together."""
_LONGEST_NAME = 200
"""Bytes of a name that are kept: a longer name would not fit into the keys that begin with more than its folder."""
_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Arrival:
    """One file in the landing bucket, as it was when read. `order`: its place among files of the same moment."""

    key: str
    sha256: str
    size: int
    landed_at: datetime
    etag: str
    order: int = 0

    @property
    def name(self) -> str:
        """Return the file's name, without its folders; of a long name the end, which tells the format."""
        return self.key.rsplit("/", 1)[-1].encode()[-_LONGEST_NAME:].decode(errors="ignore")


@dataclass(frozen=True)
class LandingPlan:
    """Plan for waiting files: ingest `new` in order; `known` files need no work."""

    new: tuple[Arrival, ...]
    known: tuple[Arrival, ...]


def plan(arrivals: Sequence[Arrival], known: Collection[str], *, later_wins: bool = False) -> LandingPlan:
    """Put files in order of their arrival: of two rows with one key, the first or the last one stands.

    Of files with the same bytes the first counts; with `later_wins` the last.
    """
    new: dict[str, Arrival] = {}
    repeated: list[Arrival] = []
    for arrival in sorted(arrivals, key=lambda a: (a.landed_at, a.order, a.key)):
        if arrival.sha256 in known:
            repeated.append(arrival)
        elif (earlier := new.get(arrival.sha256)) is None:
            new[arrival.sha256] = arrival
        elif later_wins:
            repeated.append(earlier)
            del new[arrival.sha256]
            new[arrival.sha256] = arrival
        else:
            repeated.append(arrival)
    return LandingPlan(tuple(new.values()), tuple(repeated))


def put_back_key(prefix: str, arrived: datetime, sha256: str, file: str) -> str:
    """Return the key under which a delivery waits again, always the same. It tells the moment of its arrival (UTC)."""
    return f"{prefix}{PUT_BACK}{arrived.astimezone(UTC):{_MOMENT}}-{sha256[:12]}/{file}"


def landed_at(info: ObjectInfo) -> datetime:
    """Return when a waiting file arrived; of one that a reset put back, when it arrived at first."""
    found = _PUT_BACK.search(info.key)
    try:
        return datetime.strptime(found[1], _MOMENT).replace(tzinfo=UTC) if found else info.modified
    except ValueError:  # a supplier's folder with such a name
        return info.modified


def order_of(metadata: Mapping[str, str]) -> int:
    """Return the place of a file among those that were delivered together; 0 if its metadata do not tell."""
    text = metadata.get(ORDER, "")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def raw_key(pipeline: str, arrival: Arrival) -> str:
    return f"raw/{pipeline}/{arrival.sha256}/{arrival.name}"


def raw_of(site: Site, bucket: str, pipeline: str, sha256: str) -> ObjectInfo | None:
    """Return a stored delivery by its original SHA-256, or None if it is gone.

    After an erasure it is stored under its new SHA-256, and names the original delivery.
    """
    folder = f"raw/{pipeline}/"
    for info in site.list(bucket, f"{folder}{sha256}/"):
        return site.head(bucket, info.key)
    kept = (site.head(bucket, info.key) for info in site.list(bucket, folder))
    return next((obj for obj in kept if obj.metadata.get("delivery") == sha256), None)


def names_of(stored: ObjectInfo) -> tuple[str, ...]:
    """Return the SHA-256 of a stored delivery as it was received, and as it is stored since an erasure. Pure.

    `stored` has its metadata. After a reset it is taken in as it is stored, so that its outcome has either.
    """
    digest = stored.key.split("/")[-2]
    received = stored.metadata.get("delivery")
    return (received, digest) if received else (digest,)


def quarantine_key(pipeline: str, sha256: str, again: int = 0) -> str:
    """Return the key of a delivery's refused rows; each repeated ingestion has its own object."""
    return f"quarantine/{pipeline}/{sha256}{f'-{again}' if again else ''}.parquet"


def delivery_of(quarantine_key: str) -> str:
    """Return the SHA-256 of the delivery in a quarantine's key."""
    return quarantine_key.rsplit("/", 1)[-1].removesuffix(".parquet").partition("-")[0]


def waiting(site: Site, bucket: str, prefix: str) -> list[ObjectInfo]:
    """Return files under a landing prefix; empty objects that stand for folders are skipped."""
    return [info for info in site.list(bucket, prefix) if not (info.key.endswith("/") and not info.size)]


def fetch(
    site: Site, bucket: str, key: str, file: Path, sha256: str | None = None, *, version_id: str | None = None
) -> str:
    """Bring an object into a file, in constant memory; its SHA-256.

    Raises ObjectMissing, and IntegrityError where it has not the SHA-256 that was asked for.
    """
    with site.open(bucket, key, version_id=version_id) as stream, file.open("wb") as out:
        computed = copied(stream, out)
    if sha256 not in (None, computed):
        raise IntegrityError(
            f"read {bucket}/{key} at site '{site.name}': its SHA-256 differs from the recorded one",
            "Restore the object from the other site or from a restore point.",
        )
    return computed


def keep(site: Site, bucket: str, pipeline: str, arrival: Arrival, file: Path, metadata: Mapping[str, str]) -> None:
    """Keep a delivery as received, once, and read it back: the file that was delivered is deleted afterwards.

    Raises IntegrityError for a site that does not give back what it stored, SiteError.
    """
    once.keep_file(
        site, bucket, raw_key(pipeline, arrival), file, arrival.sha256, metadata=metadata, content_type=_TYPE
    )


def quarantine(
    site: Site,
    bucket: str,
    pipeline: str,
    sha256: str,
    refused: Refused,
    retain_until: date,
    again: int = 0,
    *,
    folder: Path | None = None,
) -> None:
    """Keep a delivery's refused rows, in order of their lines, with reasons and text as received, and read them back.

    The file is made in `folder` (default: one of its own). Raises as `keep`.
    """
    with ExitStack() as opened:
        file = (folder or opened.enter_context(spool_folder())) / "quarantine.parquet"
        _write_refused(refused, file)
        once.put_file(
            site,
            bucket,
            quarantine_key(pipeline, sha256, again),
            file,
            file_sha256(file),
            metadata={"retain-until": retain_until.isoformat()},
            content_type="application/vnd.apache.parquet",
        )


def stored_schema() -> pa.Schema:
    """Return the columns of a quarantine object."""
    import pyarrow as pa

    return pa.schema([("source_line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])


def _write_refused(refused: Refused, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, stored_schema(), compression="zstd") as writer:
        for rows in refused.tables():
            columns = [rows[LINE], pc.binary_join(rows[REASONS], JOINED), pc.fill_null(rows[RAW], "")]
            writer.write_table(pa.table(columns, schema=stored_schema()), row_group_size=AT_A_TIME)


def read_refused(stored: Path, file: Path) -> RefusedFile:
    """Return the rows of a quarantine object, which is in the file `stored`, by line; `file` takes them.

    Several reasons of one row are joined to one text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(stored) as opened:

        def tables() -> Iterator[pa.Table]:
            for batch in opened.iter_batches(AT_A_TIME):
                reasons = pa.ListArray.from_arrays(pa.array(range(batch.num_rows + 1), pa.int32()), batch["reason"])
                columns = [batch["source_line"], reasons, pc.fill_null(batch["raw"], "")]
                yield pa.table(columns, schema=refused_rows.schema())

        refused_rows.write(tables(), file)
        return RefusedFile(file, opened.metadata.num_rows)


@contextmanager
def refused_lines(site: Site, bucket: str, key: str) -> Iterator[Iterator[tuple[int, str]]]:
    """Provide line and reasons of each row in a quarantine object. Raises ObjectMissing, IntegrityError, SiteError."""
    import pyarrow.parquet as pq

    with spool_folder() as folder:
        fetch(site, bucket, key, folder / "quarantine.parquet")
        with pq.ParquetFile(folder / "quarantine.parquet") as opened:
            yield (
                (row["source_line"], row["reason"])
                for batch in opened.iter_batches(AT_A_TIME, columns=["source_line", "reason"])
                for row in batch.to_pylist()
            )


def clear(site: Site, bucket: str, arrival: Arrival) -> None:
    """Remove a file from the landing bucket, unless it was replaced (the next run ingests that)."""
    try:
        now = site.head(bucket, arrival.key)
    except ObjectMissing:
        return
    if (now.size, now.etag) == (arrival.size, arrival.etag):
        site.delete(bucket, arrival.key)
