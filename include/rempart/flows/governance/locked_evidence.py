"""Read exported evidence back: check that each segment and checkpoint exists and is unchanged.

For each export the ledger stores the SHA-256 of its segments and the checkpoint's signed bytes (kind `checkpoint`). An
altered or lost object is written again with the same bytes, under lock. An empty bucket is an alarm.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from rempart.errors import IntegrityError, LedgerBroken, ObjectMissing
from rempart.ledger.chain import Head, checkpoint, read_checkpoint, read_line
from rempart.ledger.keys import Signer, is_signed
from rempart.ledger.port import Evidence, Ledger
from rempart.sites.once import bodies, put_again
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

RECENT = 1000
"""Number of exports whose objects are checked for existence in each run."""
AT_ONCE = 20
"""Number of objects of recent exports read back in a run, in turn, in addition to the newest export."""
ROUND = timedelta(days=30)
"""Time within which the runs read back everything older than the recent exports."""
SEGMENT = re.compile(r"ledger/(\d{12})-(\d{12})\.jsonl")
CHECKPOINT = re.compile(r"checkpoints/(\d{12})-([0-9a-f]{16})\.json")
TYPES = {"segment": "application/jsonl", "checkpoint": "application/json", "copy": "application/json"}
Kind = Literal["segment", "checkpoint", "copy"]


@dataclass(frozen=True)
class Expected:
    """An object that is locked according to the ledger. `copy`: a checkpoint stored next to the segments."""

    kind: Kind
    key: str
    sha256: str
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Checked:
    """Number of objects read back, and those written again (with `dry_run`, that would be) with the reason."""

    read: int
    healed: Mapping[str, str]


@dataclass(frozen=True)
class Places:
    """Site of the segments, and the second operator's site: as append-only witness, and as reader."""

    site: Site
    witness: Site
    owner: Site
    evidence: str
    checkpoints: str

    def of(self, obj: Expected) -> tuple[Site, str]:
        return (self.owner, self.checkpoints) if obj.kind == "checkpoint" else (self.site, self.evidence)


@dataclass(frozen=True)
class Exports:
    """The ledger and the places of its exports. New objects are locked until `retain_until`."""

    ledger: Ledger
    places: Places
    every: timedelta
    retain_until: datetime
    clock: Callable[[], datetime]
    signer: Callable[[], Signer]
    trusted_keys: Callable[[], dict[str, bytes]]


def expected(records: Iterable[tuple[str, Mapping[str, Any]]], places: Places) -> list[Expected]:
    """Return the objects that the records of exports (subject and body) locked at these sites, in order."""
    objects: list[Expected] = []
    for subject, body in records:
        if (body["site"], body["bucket"]) == (places.site.name, places.evidence):
            objects += [
                Expected("segment", str(segment["key"]), str(segment["sha256"])) for segment in body["segments"]
            ]
            objects.append(_of_checkpoint("copy", subject, str(body["file"])))
        if (body["witness"], body["witness_bucket"]) == (places.owner.name, places.checkpoints):
            objects.append(_of_checkpoint("checkpoint", subject, str(body["file"])))
    return objects


def _of_checkpoint(kind: Kind, key: str, file: str) -> Expected:
    body = file.encode()
    return Expected(kind, key, hashlib.sha256(body).hexdigest(), body)


def check(
    exports: Exports,
    *,
    whole: bool = False,
    emptied: bool = False,
    dry_run: bool = False,
) -> Checked:
    """Check that all objects exist, read some of them back (all with `whole`), and write altered ones again.

    Writes evidence of kind `repair`. Raises IntegrityError for an empty bucket, unless `emptied`; LedgerBroken if the
    database differs from the export; SiteError.
    """
    ledger, places = exports.ledger, exports.places
    records = ledger.find("checkpoint", limit=None if whole else RECENT)
    recent = expected(((record.subject, record.body) for record in records), places)
    older = expected(_older(exports, records), places) if len(records) == RECENT and not whole else []
    known = [*recent, *older]
    gone = _gone(places, known)
    if not emptied:
        _refuse_emptied(places, known, gone)
    wrong = dict.fromkeys(gone, "it is missing")
    present = [obj for obj in known if obj not in wrong]
    looked = present if whole else [*_rotating([obj for obj in recent if obj not in wrong], exports), *older]
    looked = [key for key in dict.fromkeys(looked) if key not in wrong]
    for obj in looked:
        site, bucket = places.of(obj)
        if not any(hashlib.sha256(body).hexdigest() == obj.sha256 for _, body in bodies(site, bucket, obj.key)):
            wrong[obj] = "its bytes differ from those stored"
    healed: dict[str, str] = {}
    for obj, why in wrong.items():
        site, bucket = places.of(obj)
        where = f"{bucket}/{obj.key} at site '{site.name}'"
        body = obj.body if obj.body is not None else _segment(ledger, obj, where)
        if not dry_run:
            put(places, obj, body, exports.retain_until)
            logger.warning("put again %s: %s", where, why)
        healed[where] = why
    if healed and not dry_run:
        repaired = [f"{where}: {why}" for where, why in healed.items()]
        ledger.append("repair", "evidence", {"count": len(repaired), "objects": repaired[:100]})
    return Checked(len(looked), healed)


def empty_buckets(ledger: Ledger, places: Places) -> list[str]:
    """Return the buckets, with their sites, in which no object of the newest exports exists. Raises SiteError."""
    records = ledger.find("checkpoint", limit=RECENT)
    known = expected(((record.subject, record.body) for record in records), places)
    emptied = (places.of(lost[0]) for lost in _emptied(known, _gone(places, known)))
    return [f"{bucket} at site '{site.name}'" for site, bucket in emptied]


def _gone(places: Places, known: Sequence[Expected]) -> list[Expected]:
    """Return objects that neither a listing nor a reader finds."""
    there = {
        "segment": {info.key for info in places.site.list(places.evidence, "ledger/")},
        "copy": {info.key for info in places.site.list(places.evidence, "checkpoints/")},
        "checkpoint": {info.key for info in places.owner.list(places.checkpoints, "checkpoints/")},
    }
    return [obj for obj in known if obj.key not in there[obj.kind] and not _is_read(places, obj)]


def _is_read(places: Places, obj: Expected) -> bool:
    """Return whether a reader finds an object that a listing lacks."""
    site, bucket = places.of(obj)
    try:
        return hashlib.sha256(site.read(bucket, obj.key)).hexdigest() == obj.sha256
    except ObjectMissing:
        return False


def put(places: Places, obj: Expected, body: bytes, retain_until: datetime) -> None:
    """Write an object's bytes as another version under lock, and read them back. Raises IntegrityError, SiteError."""
    site, bucket = places.of(obj)
    put_again(site, bucket, obj.key, body, content_type=TYPES[obj.kind], retain_until=retain_until)


def _emptied(known: Sequence[Expected], gone: Sequence[Expected]) -> Iterator[list[Expected]]:
    """Return the objects of each bucket in which all are missing."""
    for kind in ("segment", "checkpoint"):
        had, lost = ([obj for obj in objects if obj.kind == kind] for objects in (known, gone))
        if had and len(had) == len(lost):
            yield lost


def _refuse_emptied(places: Places, known: Sequence[Expected], gone: Sequence[Expected]) -> None:
    for lost in _emptied(known, gone):
        site, bucket = places.of(lost[0])
        raise IntegrityError(
            f"No exported object is left in {bucket} at site '{site.name}': the ledger knows {len(lost)} objects "
            "there. Nothing was written",
            "Find out who emptied the bucket, or whether the site's connection leads to another place. Run "
            "`rempart ledger repair --yes` to write the same bytes again (docs/how-to/verify-the-ledger.md).",
        )


def _rotating(present: Sequence[Expected], exports: Exports) -> list[Expected]:
    """Return the objects of the newest export, and a window of the older ones that moves with the clock."""
    newest = list(present[:3])
    rest = present[3:]
    if not rest:
        return newest
    every = exports.every.total_seconds()
    start = int(exports.clock().timestamp() // every) * AT_ONCE % len(rest)
    return newest + list(itertools.islice(itertools.cycle(rest), start, start + min(AT_ONCE, len(rest))))


def _older(exports: Exports, recent: Sequence[Evidence]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return subject and body of older exports due by the clock, all within a `ROUND`."""
    every, end = exports.every, recent[-1].seq
    runs = max(1, ROUND // every)
    span = -(-end // runs)
    first = int(exports.clock().timestamp() // every.total_seconds()) % runs * span
    entries = exports.ledger.page(before=min(first + span, end), kind="checkpoint", limit=span)
    trusted = exports.trusted_keys()
    for entry in entries:
        if entry.seq >= first and is_ours(entry.line, entry.seq, trusted):
            record = read_line(entry.line)[1]
            yield str(record["subject"]), record["body"]


def is_ours(line: str, seq: int, trusted: Mapping[str, bytes]) -> bool:
    """Return whether a line of an export is this record, signed by a key of the chain."""
    try:
        entry, record = read_line(line)
    except ValueError:
        return False
    public = trusted.get(str(record["key"]))
    return bool(public and entry.seq == seq and is_signed(public, base64.b64decode(entry.sig), entry.text.encode()))


def _segment(ledger: Ledger, segment: Expected, where: str) -> bytes:
    """Rebuild a segment's bytes from the database. Raises LedgerBroken if they differ."""
    matched = SEGMENT.fullmatch(segment.key)
    first, last = (int(matched[1]), int(matched[2])) if matched else (1, 0)
    body = "".join(f"{line}\n" for line in lines_of(ledger, first, last)).encode()
    if hashlib.sha256(body).hexdigest() != segment.sha256:
        raise LedgerBroken(
            f"Records {first} to {last} of the ledger differ from those exported to {where}, and that object is "
            "altered or missing",
            "The database was rewritten, or restored to an earlier point. Follow docs/how-to/verify-the-ledger.md,"
            " 'When it does not verify'.",
        )
    return body


def counted(ledger: Ledger) -> int:
    """Return the newest record in a recorded export; 0 without one."""
    newest = next(iter(ledger.find("checkpoint", limit=1)), None)
    return int(matched[1]) if newest and (matched := CHECKPOINT.fullmatch(newest.subject)) else 0


def finish_checkpoints(exports: Exports) -> None:
    """Store each checkpoint of an interrupted export at both of its places.

    Only checkpoints after the newest recorded export are checked. Raises IntegrityError, SiteError.
    """
    before, places = counted(exports.ledger), exports.places
    listed = [
        *places.owner.list(places.checkpoints, "checkpoints/"),
        *places.site.list(places.evidence, "checkpoints/"),
    ]
    for key in dict.fromkeys(info.key for info in listed):
        matched = CHECKPOINT.fullmatch(key)
        if matched and int(matched[1]) > before:
            _finish_checkpoint(exports, key, int(matched[1]))


def _finish_checkpoint(exports: Exports, key: str, seq: int) -> None:
    """Store a checkpoint of the ledger's own history at both places, signed and equal."""
    places = exports.places
    entry = next(iter(exports.ledger.entries(seq - 1)), None)
    if entry is None or key != f"checkpoints/{seq:012d}-{entry.hash[:16]}.json":
        return  # from another history: the check of the chain reports it
    kinds: tuple[Kind, ...] = ("checkpoint", "copy")
    stored = {kind: _signed(places, kind, key, exports.trusted_keys()) for kind in kinds}
    signer = exports.signer()
    existing = next((body for versions in stored.values() for body in versions), None)
    body = existing or checkpoint(Head(entry.seq, entry.hash, signer.id), exports.clock(), signer).encode()
    for kind in kinds:
        if body not in stored[kind]:
            put(places, _of_checkpoint(kind, key, body.decode()), body, exports.retain_until)


def standing(places: Places, key: str, head: Head, signer: Signer) -> bytes | None:
    """Return a checkpoint of this head signed by our key, if the second operator has one."""
    for _, body in bodies(places.owner, places.checkpoints, key):
        try:
            parsed = read_checkpoint(key, body.decode())
        except ValueError:
            continue
        same = (parsed.seq, parsed.hash) == (head.seq, head.hash)
        if same and is_signed(signer.public, base64.b64decode(parsed.sig), parsed.text.encode()):
            return body
    return None


def _signed(places: Places, kind: Kind, key: str, trusted: Mapping[str, bytes]) -> list[bytes]:
    """Return the versions at a place that are checkpoints signed by a key of the chain."""
    signed = []
    for _, body in bodies(*places.of(Expected(kind, key, "")), key):
        try:
            parsed = read_checkpoint(key, body.decode())
        except ValueError:
            continue
        public = trusted.get(parsed.key)
        if public and is_signed(public, base64.b64decode(parsed.sig), parsed.text.encode()):
            signed.append(body)
    return signed


def lines_of(ledger: Ledger, first: int, last: int) -> list[str]:
    """Return the lines of an export for these records, from the database."""
    return [entry.line for entry in itertools.islice(ledger.entries(first - 1), last - first + 1)]


def last_lines(site: Site, bucket: str, key: str) -> set[str]:
    """Return the last line of each version of a segment."""
    return {last_line(body) for _, body in bodies(site, bucket, key)}


def last_line(body: bytes) -> str:
    """Return the last line of a segment."""
    return body.decode(errors="replace").rstrip("\n").rpartition("\n")[2]
