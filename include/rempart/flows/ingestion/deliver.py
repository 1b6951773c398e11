"""Deliver files to a pipeline: check their headers, upload them to the landing bucket, and read them back.

All files are checked before the first byte is uploaded. A file never replaces another delivery that waits under its
name.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rempart.errors import IngestError, IntegrityError, ObjectMissing, SiteError, SiteFenced
from rempart.flows.ingestion import current_snapshot
from rempart.flows.ingestion.header_faults import HeaderFault, header_fault, remedy
from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing
from rempart.ingestion.content import evolution, parquet_cut
from rempart.ingestion.parsing import formats
from rempart.ingestion.reading import check_format, header_of
from rempart.ingestion.sampling.names import shown
from rempart.ingestion.snapshots import Snapshot
from rempart.ingestion.unpacking import MAX_BYTES, Unreadable, unpacked
from rempart.ledger.port import Evidence, Ledger
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import DerivedSource
from rempart.sites.digests import file_sha256
from rempart.sites.port import ObjectInfo, Site

PART = 8 << 20
"""Bytes of one request. A file of at most so many bytes is written in one request."""
_BLOCK = 1 << 20
_TYPE = "text/csv"

Step = Literal["upload", "check"]
Progress = Callable[[Step, str, int], object]
"""Is called with the step, the name of the file, and the number of bytes done since the last call."""
State = Literal["new", "waiting", "ingested"]
"""`waiting`: the same bytes wait under this name already. `ingested`: they were ingested before."""


@dataclass(frozen=True)
class IngestedBefore:
    """When these bytes were first ingested (`at`), their rows `accepted` then, and those `in_quarantine` now.

    `counts_again`: later rows win, so that the rows replace newer ones of their keys if they are ingested again.
    """

    at: datetime
    accepted: int
    in_quarantine: int
    counts_again: bool


@dataclass(frozen=True)
class PlannedFile:
    """A file with its key in the landing bucket. `uploaded` bytes are on their way only if it is new.

    `before`: what the evidence tells about earlier ingestions of these bytes; None if it knows none.
    """

    file: Path
    key: str
    size: int
    sha256: str
    state: State
    before: IngestedBefore | None = None

    @property
    def name(self) -> str:
        return self.file.name


@dataclass(frozen=True)
class Delivered:
    """Result of a delivery: each file, the place where it waits for ingestion, and how many files wait there."""

    pipeline: str
    site: str
    bucket: str
    files: tuple[PlannedFile, ...]
    waiting: int = 0


def check(pipeline: Pipeline, files: Sequence[Path], largest: int = MAX_BYTES) -> None:
    """Check that every file can be read and has the pipeline's header. Nothing is contacted.

    Raises IngestError with a line for each file at fault.
    """
    if isinstance(pipeline.source, DerivedSource):
        raise IngestError(
            f"deliver to '{pipeline.name}': its rows are derived from {', '.join(pipeline.source.inputs)}",
            f"Deliver to one of these. ingest_{pipeline.name} then derives the rows.",
        )
    if faults := [*_faults(pipeline, files, largest)]:
        raise IngestError(
            f"deliver to '{pipeline.name}': nothing was uploaded. " + "\n  ".join(fault.line() for fault in faults),
            remedy(pipeline, faults),
        )


def _faults(pipeline: Pipeline, files: Sequence[Path], largest: int) -> Iterator[HeaderFault]:
    seen: dict[str, Path] = {}
    for file in files:
        if (before := seen.setdefault(file.name, file)) is not file:
            yield HeaderFault(str(file), other=f"it has the same name as {shown(before)}; rename one of them")
            continue
        if not file.name.isprintable() or file.name.startswith("."):
            yield HeaderFault(file.name, other="a delivery's name has no control character and no leading dot")
            continue
        if fault := file_fault(pipeline, file, largest):
            yield fault


def file_fault(pipeline: Pipeline, file: Path, largest: int = MAX_BYTES) -> HeaderFault | None:
    """Return why a file as a whole cannot be a delivery of a pipeline, or None. Its rows are not looked at."""
    try:
        found = file.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # a pipe cannot be read twice
            return HeaderFault(str(file), other="it is no regular file")
        header = _header(file, found.st_size, pipeline)
    except Unreadable as fault:
        return HeaderFault(file.name, other=str(fault))
    except OSError as error:
        return HeaderFault(str(file), other=f"it cannot be read ({error.strerror or type(error).__name__})")
    if found.st_size > largest:
        return HeaderFault(file.name, other=f"it is larger than {largest >> 20} MiB; deliver it in parts")
    return header_fault(file.name, header, pipeline) if header is not None else None


def _header(file: Path, size: int, pipeline: Pipeline) -> Sequence[str] | None:
    """Return the columns that a file names; None for JSON Lines, which has none. Raises Unreadable."""
    if wrong := formats.wrong_name(file.name, pipeline.source.format):
        raise Unreadable(wrong)
    if pipeline.source.format == "parquet":
        return parquet_cut.names(file)
    with file.open("rb") as stream:
        if pipeline.source.format != "csv":
            check_format(unpacked(stream, size).peek(16)[:16], "JSON Lines")
            return None
        if _lone_return(unpacked(stream, size).peek(_BLOCK)[:_BLOCK]):
            raise Unreadable(
                "its header has a carriage return without a line feed, which would end the header there; "
                "write the file with one kind of line end"
            )
    with file.open("rb") as stream:  # again: what unpacked it may have closed it
        return header_of(file.name, stream, size, pipeline.source)


def _lone_return(start: bytes) -> bool:
    """Return whether the first line of a file that ends its lines with line feeds has a lone carriage return. Pure.

    A file whose only line ends are carriage returns is read as such.
    """
    line, feed, _ = start.lstrip(b"\r\n").partition(b"\n")
    return bool(feed) and b"\r" in line.removesuffix(b"\r")


def plan(platform: Platform, pipeline: Pipeline, files: Sequence[Path]) -> tuple[PlannedFile, ...]:
    """Return what a delivery of these files would do. Nothing is written.

    Raises IngestError if a file's header is wrong, another delivery waits under its name, or the current snapshot does
    not allow the change of the pipeline's columns; PlacementDenied,
    SiteFenced, SiteError, DatabaseUnavailable.
    """
    check(pipeline, files, platform.config.ingestion.largest_delivery << 20)
    active, buckets = platform.active(), platform.config.buckets
    site = platform.active_site(pipeline.classification, active)
    current = partial(current_snapshot.checked, platform.ledger, active, site, buckets.lake, pipeline.name)
    _check_schema(current, pipeline)
    planned = list[tuple[PlannedFile, bool]]()
    for file in files:
        key, size, sha256 = pipeline.source.prefix + file.name, file.stat().st_size, file_sha256(file)
        known = deliveries.is_known(site, buckets.lake, pipeline.name, sha256)
        state: State = "ingested" if known and not pipeline.later_wins else "new"
        try:
            stands = site.head(buckets.landing, key)
        except ObjectMissing:
            pass
        else:
            if stands.size != size or _stored_sha256(site, buckets.landing, key) != sha256:
                raise _occupied(pipeline, file, stands)
            state = "waiting"
        planned.append((PlannedFile(file, key, size, sha256, state), known))
    records = _records(platform.ledger, pipeline.name) if any(known for _, known in planned) else ()
    return tuple(
        replace(each, before=ingested_before(records, each.sha256, counts_again=pipeline.later_wins)) if known else each
        for each, known in planned
    )


def _records(ledger: Ledger, pipeline: str) -> Sequence[Evidence]:
    """Return the evidence of a pipeline's deliveries since it was last reset or removed, newest first."""
    removed = removals.newest(ledger, pipeline)
    return [record for record in ledger.find("deliveries", pipeline) if removed is None or record.seq > removed.seq]


def ingested_before(records: Iterable[Evidence], sha256: str, *, counts_again: bool) -> IngestedBefore | None:
    """Return what the records, newest first, tell about these bytes; None if they do not name them. Pure."""
    told: list[Mapping[str, Any]] = [
        outcome for record in records for outcome in record.body["deliveries"] if outcome["sha256"] == sha256
    ]
    if not told:
        return None
    first = deliveries.comings(told)[-1]
    at = datetime.fromisoformat(str(first.get("taken_at") or first["landed_at"])).astimezone(UTC)
    return IngestedBefore(at, int(first["accepted"]), int(told[0]["quarantined"]), counts_again)


def _check_schema(current: Callable[[], Snapshot | None], pipeline: Pipeline) -> None:
    """Raise IngestError if the current snapshot's schema may not become the pipeline's: no delivery would be ingested.

    Without an answer about the snapshot nothing is compared: the ingestion compares again.
    """
    try:
        found = current()
    except (SiteError, IngestError):
        return
    evolution.check(found, pipeline)


def _occupied(pipeline: Pipeline, file: Path, stands: ObjectInfo) -> IngestError:
    return IngestError(
        f"deliver {file.name} to '{pipeline.name}': another delivery of that name waits for ingestion "
        f"({stands.size:,} bytes, since {stands.modified:%Y-%m-%d %H:%M} UTC). It is unchanged; nothing was uploaded",
        f"Rename your file; or ingest the waiting delivery first: `rempart pipeline run {pipeline.name} --follow`.",
    )


def _quiet(step: Step, name: str, count: int) -> None:
    """Report no progress."""


def send(
    platform: Platform, pipeline: Pipeline, planned: Sequence[PlannedFile], progress: Progress = _quiet
) -> Delivered:
    """Upload the new files of a plan in constant memory, and compare each with what the site gives back.

    Raises IngestError if a file changed or another delivery took its name meanwhile; IntegrityError if the site
    returns other bytes; SiteFenced if the platform moved meanwhile; SiteError, DatabaseUnavailable.
    """
    began = platform.active()
    site, bucket = platform.active_site(pipeline.classification, began), platform.config.buckets.landing
    for order, file in enumerate(planned):
        if file.state == "new":
            _upload(site, bucket, pipeline, file, order, progress)
            _check(site, bucket, file, progress)
    if (now := platform.active()) != began:
        raise SiteFenced(
            f"deliver to '{pipeline.name}': the platform moved from site '{began.site}' during the upload, and is at "
            f"'{now.site}' now",
            "Deliver the same files again: files that are there already are not uploaded twice.",
        )
    waiting = landing.waiting(site, bucket, pipeline.source.prefix)
    return Delivered(pipeline.name, site.name, bucket, tuple(planned), len(waiting))


def _upload(site: Site, bucket: str, pipeline: Pipeline, planned: PlannedFile, order: int, progress: Progress) -> None:
    metadata = {"sha256": planned.sha256, landing.ORDER: str(order)}
    if planned.size <= PART:
        body = b"".join(_read(planned))
        if hashlib.sha256(body).hexdigest() != planned.sha256:
            raise _changed(planned)
        if not site.write_new(bucket, planned.key, body, metadata=metadata, content_type=_TYPE):
            stands = site.head(bucket, planned.key)
            if (stands.size, stands.sha256) != (planned.size, planned.sha256):  # else only the answer was lost
                raise _occupied(pipeline, planned.file, stands)
        progress("upload", planned.name, len(body))
        return
    now = datetime.now(UTC)
    like = ObjectInfo(planned.key, planned.size, now, metadata=metadata, content_type=_TYPE)
    upload, digest = site.upload(bucket, like), hashlib.sha256()
    for number, part in enumerate(_read(planned), 1):
        digest.update(part)
        if not upload.has(number, part):
            upload.part(number, part)
        progress("upload", planned.name, len(part))
    if digest.hexdigest() != planned.sha256:
        upload.abort()
        raise _changed(planned)
    try:
        stands = site.head(bucket, planned.key)
    except ObjectMissing:
        upload.complete()
    else:
        upload.abort()
        raise _occupied(pipeline, planned.file, stands)


def _read(planned: PlannedFile) -> Iterator[bytes]:
    try:
        with planned.file.open("rb") as stream:
            while part := stream.read(PART):
                yield part
    except OSError as cause:
        raise _changed(planned) from cause


def _changed(planned: PlannedFile) -> IngestError:
    return IngestError(
        f"deliver {planned.name}: the file changed since it was checked, or is gone. It was not uploaded",
        "Wait until the program that writes or moves it has ended, then deliver it again.",
    )


def _check(site: Site, bucket: str, planned: PlannedFile, progress: Progress) -> None:
    digest = _stored_sha256(site, bucket, planned.key, lambda count: progress("check", planned.name, count))
    if digest != planned.sha256:
        raise IntegrityError(
            f"deliver {planned.name}: site '{site.name}' returned other bytes of {bucket}/{planned.key} than were sent",
            "Remove the object with an S3 client and deliver the file again. If it fails again, ask the operator of "
            "the site.",
        )


def _stored_sha256(site: Site, bucket: str, key: str, told: Callable[[int], object] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with site.open(bucket, key) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()


def next_ingestion(pipeline: Pipeline, now: datetime) -> tuple[datetime, timedelta] | None:
    """Return when the schedule ingests next (UTC), and how long that is from now; None without a schedule.

    `now` is aware. Raises nothing: the pipeline file's expression was validated.
    """
    if pipeline.schedules.ingest is None:
        return None
    from croniter import croniter

    at: datetime = croniter(pipeline.schedules.ingest, now).get_next(datetime)
    return at, at - now
