"""Ship the prediction log: closed segments of this machine's journals become hour files in the lake.

A shipment may be killed at any step. It names its segments in a file first, so the next one makes equal files of them;
a segment is deleted after its files were read back and evidence names them. An entry that a file on record has is not
stored again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rempart import private_files
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.points.erasures import pseudonym
from rempart.counts import counted
from rempart.errors import ErasedMeanwhile, RempartError, ServingError
from rempart.flows.erasure import erase_descendant_logs
from rempart.flows.prediction_log import files, sealed_values
from rempart.flows.prediction_log.keys import OpenKey, make, name_of, opener, unwrapper
from rempart.flows.shared import erasures, removals
from rempart.flows.shared.keys import kept_for, open_keyring
from rempart.flows.shared.platform import Platform
from rempart.ingestion import erasing
from rempart.ingestion.parsing.typed import iso
from rempart.serving import hour_files, records, seals, segments
from rempart.serving.entries import PredictionEntry
from rempart.serving.hour_files import HourFile, Row
from rempart.settings import pipelines
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

BATCH_BYTES = 64 << 20
"""Bytes of segments that are shipped at once, and of one more segment at most."""
_BATCH = ".batch"
_FAULTS = 5
"""Faults of a segment that are logged."""


@dataclass(frozen=True)
class Shipment:
    """What was shipped of one pipeline's log.

    `objects`: new hour files, and `entries` in them. `doubled`: entries that were there. `erased`: entries of erased
    subjects, and of a removed pipeline that had the name before, left out. `unread`: sealed entries whose key was
    destroyed. `torn`: bytes of unconfirmed writes. `aside`: damaged segments, which stay on disk for a person.
    `nameless`: entries without a key, which no erasure finds.
    """

    pipeline: str
    segments: int = 0
    entries: int = 0
    objects: int = 0
    doubled: int = 0
    erased: int = 0
    unread: int = 0
    torn: int = 0
    aside: int = 0
    nameless: int = 0

    def line(self) -> str:
        """Return the shipment as a line for people."""
        entries, segments = counted(self.entries, "entry", "entries"), counted(self.segments, "segment")
        told = f"{self.pipeline}: shipped {entries} of {segments} in {counted(self.objects, 'file')}"
        more = {
            "were there": self.doubled,
            "erased and left out": self.erased,
            "without the key's columns, which no erasure finds": self.nameless,
            "cannot be read any more, because their key was destroyed": self.unread,
        }
        told += "".join(f"; {count} {what}" for what, count in more.items() if count)
        return told + (f"; {self.aside} damaged segments set aside" if self.aside else "")


def ship_all(platform: Platform, root: Path) -> list[Shipment]:
    """Ship the log of every pipeline in a folder of this machine. One that fails does not stop the others.

    Raises ServingError that names each that failed.
    """
    done, failed = list[Shipment](), dict[str, RempartError]()
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir():
            continue
        try:
            done.append(ship(platform, folder))
        except RempartError as error:
            failed[folder.name] = error
        except Exception as cause:  # its message may quote a value
            why = getattr(cause, "strerror", None) or type(cause).__name__
            failed[folder.name] = ServingError(
                f"read the prediction log in {folder}: {why}", "Correct the rights of the folder, or look at the disk."
            )
    for name, fault in failed.items():
        logger.error("%s: %s %s", name, fault.what, fault.hint)
    if failed:
        name, first = next(iter(failed.items()))
        raise ServingError(
            f"ship the prediction log of {', '.join(failed)}: {first.what}",
            f"{first.hint} The entries stay in {root / name} until then.",
        )
    return done


def ship(platform: Platform, folder: Path) -> Shipment:
    """Ship the closed segments of a pipeline's journal, whose folder has its name. Safe to repeat.

    The log of a removed pipeline is deleted. Raises PipelineError, SiteError, BackupError, ErasedMeanwhile,
    SiteFenced, LedgerError, DatabaseUnavailable.
    """
    name = folder.name
    with segments.shipping(folder) as alone:
        if not alone:
            logger.info("another process ships the log of '%s'", name)
            return Shipment(name)
        if name not in pipelines.names() and removals.removal_of(platform.ledger, name) is not None:
            return _discarded(platform, folder)
        pipeline = pipelines.with_model(pipelines.named(name))
        make(platform, pipeline)  # a scorer that may not make it waits for it
        done = Shipment(name)
        for batch in _batches(folder):
            done = _sum(done, _Shipping(platform, pipeline, folder).ship(batch))
        return done


def _sum(first: Shipment, second: Shipment) -> Shipment:
    told = {name: count + getattr(second, name) for name, count in asdict(first).items() if name != "pipeline"}
    return Shipment(first.pipeline, **told)


def _discarded(platform: Platform, folder: Path) -> Shipment:
    """Delete what a removed pipeline left on this machine, with evidence."""
    if left := [*segments.closed_in(folder), *segments.set_aside_in(folder)]:
        body = {"state": "discarded", "segments": len(left), "why": "the pipeline was removed"}
        platform.ledger.append("prediction-log", folder.name, body)
        segments.delete(folder, left)
    return Shipment(folder.name)


def _batches(folder: Path) -> Iterator[list[Path]]:
    """Yield the segments to ship, in batches. A batch that was begun comes first, as it was."""
    begun = folder / _BATCH
    if begun.is_file():
        try:
            there = [folder / name for name in json.loads(begun.read_text(encoding="utf-8"))]
        except ValueError:  # a loss of power tore it before any of its entries went
            there = []
        if left := [file for file in there if file.is_file()]:
            yield left
        begun.unlink()
    closed, size = list[Path](), 0
    for file in segments.closed_in(folder):
        closed.append(file)
        size += file.stat().st_size
        if size >= BATCH_BYTES:
            yield from _begun(folder, closed)
            closed, size = [], 0
    if closed:
        yield from _begun(folder, closed)


def _begun(folder: Path, batch: Sequence[Path]) -> Iterator[list[Path]]:
    begun = folder / _BATCH
    private_files.write(begun, json.dumps([file.name for file in batch]))
    yield list(batch)
    begun.unlink()


@dataclass(frozen=True)
class _Read:
    """An entry as its segment holds it. `key` opens its values; `is_readable`: whether that key is still there."""

    entry: PredictionEntry
    key: str
    is_readable: bool


class _Shipping:
    """One batch on its way."""

    def __init__(self, platform: Platform, pipeline: ModelPipeline, folder: Path) -> None:
        self.platform, self.pipeline, self.folder = platform, pipeline, folder
        self.ledger, self.bucket = platform.ledger, platform.config.buckets.lake
        self.open_key: OpenKey = opener(platform)
        self.counts = dict.fromkeys(("doubled", "erased", "unread", "torn", "nameless"), 0)
        self.subject_key: ScopeKey | None = None

    def ship(self, batch: Sequence[Path]) -> Shipment:
        platform, ledger, name = self.platform, self.ledger, self.pipeline.name
        removed, active = removals.check_open(ledger, name), platform.active()
        who = erasures.erased(ledger, name, erasures.secrets_of(platform))
        emptied = erase_descendant_logs.emptied_before(ledger, name)
        read, damaged = self._read(batch)
        if (gone := removals.time_of_removal(ledger, name)) is not None:  # a new pipeline has the name
            kept = [each for each in read if each.entry.at > gone]
            self.counts["erased"] += len(read) - len(kept)
            read = kept
        site = platform.active_site(self.pipeline.classification, active) if read else None
        rows = self._rows(read, who)
        new, made = list[Row](), list[hour_files.HourFile]()
        if site is not None:
            new = self._new(site, rows)
            made = [_emptied(file, emptied) for file in hour_files.files(new)]
            for file in made:
                self._store(site, file)
        self.counts["doubled"] += len(rows) - len(new)
        shipment = Shipment(
            name, len(batch), sum(file.entries for file in made), len(made), aside=len(damaged), **self.counts
        )
        with platform.committing(active):
            erasures.check_same(ledger, name, who)
            removals.check_same(ledger, name, removed)
            if erase_descendant_logs.emptied_before(ledger, name) != emptied:
                raise ErasedMeanwhile(
                    f"Rows of which features of '{name}' are made were erased while its prediction log was shipped",
                    "The next run of ship_predictions ships it without their values.",
                )
            if made or damaged or shipment.erased:
                ledger.append("prediction-log", name, self._evidence(shipment, active.site, made))
        for segment in damaged:
            logger.error("%s is damaged: look at it in %s", segment.name, segments.set_aside(segment).parent)
        segments.delete(self.folder, [segment for segment in batch if segment not in damaged])
        return shipment

    def _read(self, batch: Sequence[Path]) -> tuple[list[_Read], list[Path]]:
        """Return the entries of segments, each once, and the segments that were altered since they were written."""
        found, damaged = dict[str, _Read](), list[Path]()
        for file in batch:
            content = seals.open_segment(file.stem, file.read_bytes(), unwrapper(self.open_key))
            self.counts["torn"] += content.torn
            for entry in content.entries:
                self.counts["doubled"] += entry.id in found
                found[entry.id] = _Read(entry, content.key, content.is_readable)
            self.counts["unread"] += 0 if content.is_readable else len(content.entries)
            if content.faults:
                logger.error("%s: %s", file.name, "; ".join(content.faults[:_FAULTS]))
                damaged.append(file)
        return list(found.values()), damaged

    def _rows(self, read: Sequence[_Read], who: erasures.Erased | None) -> list[Row]:
        """Return the entries with hashes of their subjects, without those of erased subjects."""
        keys = keys_of(self.pipeline, [each.entry.inputs for each in read])
        if any(keys):  # an erasure finds them by the hash that its register has, too
            kept = kept_for(self.platform.config.backup.keep)
            self.subject_key = erasures.pseudonym_key(self.ledger, open_keyring(self.platform), kept)
        rows = []
        for each, key in zip(read, keys, strict=True):
            if key is not None and who is not None and who.has(key):
                self.counts["erased"] += 1
                continue
            self.counts["nameless"] += key is None and each.is_readable
            rows.append(self._row(each, key))
        return rows

    def _row(self, read: _Read, key: tuple[Any, ...] | None) -> Row:
        subject = named = None
        entry = read.entry
        if key is not None and self.subject_key is not None:
            subject = pseudonym(self.subject_key.hash_key, self.pipeline.name, key)
            named = name_of(self.subject_key.scope.id, self.subject_key.serial)
        if not read.is_readable:
            return Row(entry, subject, named, None, None, None, read.key)
        features, inputs = records.as_json(entry.features), records.as_json(entry.inputs)
        if not read.key:
            return Row(entry, subject, named, hashlib.sha256(features).hexdigest(), inputs, features)
        scope_key = self.open_key(read.key)
        body = sealed_values.seal(scope_key, entry, records.values_as_json(entry))
        return Row(entry, subject, named, sealed_values.hashed(scope_key, features), None, None, read.key, body)

    def _new(self, site: Site, rows: Sequence[Row]) -> list[Row]:
        """Return the entries that no file on record has."""
        hours = {row.entry.at.replace(minute=0, second=0, microsecond=0) for row in rows}
        known, wanted = set[str](), [row.entry.id for row in rows]
        for _, body in files.bodies(self.ledger, site, self.bucket, self.pipeline.name, hours):
            known.update(hour_files.having(hour_files.read(body, ["id"]), wanted)["id"].to_pylist())
        return [row for row in rows if row.entry.id not in known]

    def _store(self, site: Site, file: hour_files.HourFile) -> None:
        told = {"classification": self.pipeline.classification}
        site.write_new(self.bucket, file.key, file.body, metadata=told, content_type="application/vnd.apache.parquet")
        site.read(self.bucket, file.key, sha256=file.sha256)

    def _evidence(self, shipment: Shipment, site: str, made: Sequence[hour_files.HourFile]) -> dict[str, Any]:
        told = {name: value for name, value in asdict(shipment).items() if name not in ("pipeline", "objects")}
        objects = [{"key": file.key, "sha256": file.sha256, "entries": file.entries} for file in made]
        key = self.subject_key
        named = {"subject_key": name_of(key.scope.id, key.serial)} if key else {}
        return {"state": "shipped", "site": site, "bucket": self.bucket, "objects": objects, **named, **told}


def _emptied(file: HourFile, before: datetime | None) -> HourFile:
    """Return a file whose entries from before this time have no inputs and features: an erasure took these."""
    body, count = erase_descendant_logs.emptied(file.body, before) if before else (None, 0)
    if body is None or not count:
        return file
    sha256 = hashlib.sha256(body).hexdigest()
    return HourFile(f"{file.key.rpartition('/')[0]}/{sha256}.parquet", body, sha256, file.entries)


def keys_of(pipeline: ModelPipeline, inputs: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...] | None]:
    """Return the typed key of each row of inputs; None where one of its columns is missing or not valid. Pure."""
    read_by = pipeline.model_copy(update={"source": iso(pipeline.source)})
    whole = [number for number, row in enumerate(inputs) if all(row.get(name) is not None for name in pipeline.key)]
    texts = [[_text(inputs[number][name]) for name in pipeline.key] for number in whole]
    found: list[tuple[Any, ...] | None] = [None] * len(inputs)
    for number, key in zip(whole, erasing.typed_keys(texts, read_by) if texts else (), strict=True):
        found[number] = key
    return found


def _text(value: object) -> str:
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) else str(value)
