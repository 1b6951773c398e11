"""Export the ledger: new records to locked storage, and a signed checkpoint to a second operator."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rempart import __version__
from rempart.errors import ConfigError, IntegrityError, LedgerBroken, LedgerError, RempartError, SiteUnavailable
from rempart.flows.doctor import doctor_site
from rempart.flows.governance import exported_segments, locked_evidence
from rempart.flows.governance.exported_segments import HOW
from rempart.flows.governance.locked_evidence import Checked, Exports, Places
from rempart.flows.shared.platform import Platform
from rempart.ledger import keys
from rempart.ledger.canonical import canonical
from rempart.ledger.chain import Entry, Head, checkpoint
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.ledger.verification import Chain, KeyUse
from rempart.settings.config import Config
from rempart.sites.once import LOOKED_AT, put_again, store_once
from rempart.sites.port import ObjectInfo, Site
from rempart.sovereignty.policy import Decision

SEGMENT = 10_000
"""Limit of records in one object."""


@dataclass(frozen=True)
class ExportResult:
    """Result of an export: written objects (none without new records); `checkpoint` is the key of the newest
    checkpoint.

    `window_seconds`: the age of the oldest record without a checkpoint when it got one. For that long, somebody with
    the database and the signing key could have rewritten it undetected. `foreign`: new objects that are named like
    segments but are not ours; the export skipped them.
    """

    records: int
    last: int
    segments: tuple[str, ...]
    checkpoint: str | None
    window_seconds: float | None
    foreign: tuple[str, ...] = ()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def record_configuration(config: Config, ledger: Ledger) -> list[Evidence]:
    """Record changes of the policy (its content) and of the whole configuration (digests of its sections)."""
    plain = config.model_dump(mode="json")
    bodies: dict[Kind, dict[str, Any]] = {
        "policy": {"sha256": digest(plain["policy"]), "policy": plain["policy"]},
        "configuration": {
            "sha256": digest(plain),
            "sections": {name: digest(section) for name, section in plain.items()},
            "version": __version__,
        },
    }
    appended = []
    for kind, body in bodies.items():
        newest = ledger.find(kind, "rempart.yaml", limit=1)
        if not newest or newest[0].body["sha256"] != body["sha256"]:
            appended.append(ledger.append(kind, "rempart.yaml", body))
    return appended


def export(platform: Platform) -> ExportResult:
    """Write the ledger's new records and a checkpoint, each locked for `evidence.retention`.

    Segments go to bucket `evidence` of `evidence.site`. The checkpoint goes to bucket `checkpoints` of
    `evidence.checkpoint_site`, with credentials that can only add objects; its copy goes next to the segments. All
    objects are read back before a record of kind `checkpoint` counts them. Earlier exports are read back in turn
    (`flows.governance.locked_evidence`), and altered or lost objects are written again. The next run finishes an
    interrupted one; concurrent runs agree. The export probes no site, because it reads the ledger meanwhile: call
    `prove_sites` first. Raises LedgerBroken if the ledger no longer follows the exported records, IntegrityError if a
    site returns other bytes or lost everything, CapabilityMissing for a site without a valid record, SiteError,
    PlacementDenied, ConfigError, DatabaseUnavailable.
    """
    config = platform.config
    if config.evidence_site == config.checkpoint_site:
        raise ConfigError(
            f"evidence.checkpoint_site: '{config.checkpoint_site}' is also the site of the export",
            "Set a site of another operator: nobody should control both.",
        )
    exports, permissions = open_exports(platform)
    ledger, places = exports.ledger, exports.places
    for place in (places.site, places.owner):
        doctor_site.on_record(ledger, place, "evidence", exports.clock())
    record_configuration(config, ledger)
    locked_evidence.check(exports)
    stock = exported_segments.take_stock(exports)
    locked_evidence.finish_checkpoints(exports)
    site, bucket, exported, segments = places.site, places.evidence, stock.last, [*stock.segments]
    covered = min(exported, locked_evidence.counted(ledger))
    chain = _chain_after(ledger, site, bucket, exported, stock.ends)
    first = _oldest_news(ledger.entries(covered))
    if first is None and not ledger.forged(limit=1):
        return ExportResult(0, exported, (), None, None, exported_segments.tell(ledger, places, stock.foreign))
    for permission in permissions:
        platform.record(permission)
    for key, body in _segments(ledger.entries(exported), chain):
        segments.append(exported_segments.store(exports, key, body))
    key, made_at, file = _write_checkpoint(exports, chain.head)
    window = (made_at - first).total_seconds() if first else 0.0
    told = {
        "site": site.name,
        "bucket": bucket,
        "witness": places.owner.name,
        "witness_bucket": places.checkpoints,
        "segments": [{"key": segment.key, "sha256": segment.sha256} for segment in segments],
        "file": file.decode(),
    }
    ledger.append("checkpoint", key, told)
    # last: a failed and retried export must not have recorded objects that `check_foreign` would then miss
    foreign = exported_segments.tell(ledger, places, stock.foreign)
    names = tuple(segment.key for segment in segments)
    return ExportResult(chain.head.seq - exported, chain.head.seq, names, key, round(window, 3), foreign)


def prove_sites(platform: Platform) -> None:
    """Probe the export's sites that have no valid capability record.

    Raises CapabilityMissing for a site that the export must not use, SiteError, PlacementDenied.
    """
    places = open_exports(platform)[0].places
    for place in (places.site, places.owner):
        doctor_site.require(platform, place, "evidence")


def open_exports(platform: Platform) -> tuple[Exports, tuple[Decision, Decision]]:
    """Open the export's sites. Return also the permissions to record before writing. Raises PlacementDenied."""
    config, rules = platform.config, platform.config.evidence
    site, permission = platform.evidence_site(config.evidence_site)
    witness, witness_permission = platform.evidence_site(config.checkpoint_site, write_only=True)
    owner, _ = platform.evidence_site(config.checkpoint_site)
    places = Places(site, witness, owner, config.buckets.evidence, config.buckets.checkpoints)
    exports = Exports(
        platform.ledger,
        places,
        rules.every,
        platform.clock() + rules.retention,
        platform.clock,
        platform.signer,
        platform.trusted_keys,
    )
    return exports, (permission, witness_permission)


def repair(platform: Platform, *, dry_run: bool = True) -> Checked:
    """Read back all exported objects, and write altered or missing ones again, also if none is left.

    Raises the errors of `locked_evidence.check`.
    """
    exports, permissions = open_exports(platform)
    if not dry_run:
        for permission in permissions:
            platform.record(permission)
    return locked_evidence.check(exports, whole=True, emptied=True, dry_run=dry_run)


def lost_exports(platform: Platform) -> str | None:
    """Return why the next export of a restored platform would stop, with the remedy; None if it would not."""
    try:
        exports, _ = open_exports(platform)
        buckets = locked_evidence.empty_buckets(exports.ledger, exports.places)
    except RempartError as error:
        return f"whether the exports of the ledger are at their sites could not be seen: {error.what}"
    if not buckets:
        return None
    where = ", ".join(buckets)
    return (
        f"EXPORTS LOST  nothing is left of the ledger's exports in {where}. `export_evidence` fails until"
        " `rempart ledger repair --yes` has written them there again, from the database"
    )


def check_foreign(result: ExportResult) -> None:
    """Raise IntegrityError for foreign objects that are named like segments. It judges a finished export."""
    if result.foreign:
        raise IntegrityError(
            f"{len(result.foreign)} objects are named like segments but hold no record of ours: "
            f"{', '.join(result.foreign[:5])}. The export skipped them; it is complete up to record {result.last}",
            "Replace the site's key, and find out who used it to write there (docs/how-to/verify-the-ledger.md). "
            "Each such object is reported once, in evidence of kind `repair`.",
        )


def _oldest_news(entries: Iterable[Entry]) -> datetime | None:
    """Return when the oldest new record was written, or None if only exports wrote records.

    Those alone are no reason for another export.
    """
    records = (json.loads(entry.text) for entry in entries)
    found = next((str(record["at"]) for record in records if record["kind"] != "checkpoint"), None)
    return datetime.fromisoformat(found) if found else None


def _chain_after(ledger: Ledger, site: Site, bucket: str, exported: int, ends: Sequence[str]) -> Chain:
    """Return the exported chain after checking that the database still holds it. Raises LedgerBroken."""
    introduced = ledger.find("key")
    chain = Chain(frozenset(record.subject for record in introduced[-1:]))
    if not exported:
        return chain
    stored = set[str]().union(*(locked_evidence.last_lines(site, bucket, key) for key in ends))
    present = next(iter(ledger.entries(exported - 1)), None)
    signing = next((record for record in introduced if record.seq <= exported), None)
    if present is None or signing is None or present.line not in stored:
        raise LedgerBroken(
            f"Record {exported} of the ledger differs from the one in {bucket}/{', '.join(ends)} at site '{site.name}'",
            f"The database was rewritten, or restored to an earlier point. {HOW}",
        )
    chain.head = Head(exported, present.hash, signing.subject)
    chain.keys.append(KeyUse(signing.subject, str(signing.body["public"]), signing.seq))
    return chain


def _segments(entries: Iterable[Entry], chain: Chain) -> Iterator[tuple[str, bytes]]:
    """Return keys and bodies of the objects for these entries, each checked to follow. Raises LedgerBroken."""
    entries = iter(entries)
    while batch := list(itertools.islice(entries, SEGMENT)):
        for entry in batch:
            if broken := chain.take(entry.line):
                raise broken.error()
        body = "".join(f"{entry.line}\n" for entry in batch).encode()
        yield f"ledger/{batch[0].seq:012d}-{batch[-1].seq:012d}.jsonl", body


def _write_checkpoint(exports: Exports, head: Head) -> tuple[str, datetime, bytes]:
    """Lock a checkpoint at the witness site, then its copy next to the segments. Return its key, moment and bytes.

    The witness credentials cannot read, so it is read back with the site owner's.
    """
    places, retain_until, signer = exports.places, exports.retain_until, exports.signer()
    if signer.id != head.key:
        raise LedgerError(
            f"The ledger is signed with key {head.key}, but this process has key {signer.id}",
            "If the key was rotated, restart the processes with the old one (`rempart down`, then `rempart up`).",
        )
    now = exports.clock()
    key, body = f"checkpoints/{head.seq:012d}-{str(head.hash)[:16]}.json", checkpoint(head, now, signer).encode()
    kind = "application/json"
    # a run that was killed right after writing a checkpoint left the same content for the same record
    stands = locked_evidence.standing(places, key, head, signer)
    if stands is None:
        try:
            places.witness.write_new(places.checkpoints, key, body, content_type=kind, retain_until=retain_until)
        except SiteUnavailable:
            if locked_evidence.standing(places, key, head, signer) is None:
                raise
        stands = locked_evidence.standing(places, key, head, signer)
    if stands is None:  # stored wrong, or a foreign object has the key
        stands = body
        put_again(places.owner, places.checkpoints, key, body, content_type=kind, retain_until=retain_until)
    if store_once(places.site, places.evidence, key, stands, content_type=kind, retain_until=retain_until) is None:
        put_again(places.site, places.evidence, key, stands, content_type=kind, retain_until=retain_until)
    return key, now, stands


@dataclass(frozen=True)
class LocalExport:
    """Content of an auditor's folder: numbers of records and checkpoints.

    `covered`: the newest record that a checkpoint of the folder covers; 0 without one. `uncovered`: later records,
    without those of exports.
    """

    records: int
    checkpoints: int
    folder: str
    covered: int
    uncovered: int


def export_to(platform: Platform, folder: Path) -> LocalExport:
    """Write the database's whole chain, every checkpoint of the second operator and the first public key to a folder.

    `checkpoints/copies` holds the copies stored next to the segments.

    The folder holds the database's current content: verifying it against the checkpoints shows whether it changed.
    Raises LedgerError for an empty ledger, SiteError, PlacementDenied.
    """
    config, introduced = platform.config, platform.ledger.find("key")
    if not introduced:
        raise LedgerError("The ledger is empty", "Run the platform first: its first record starts the chain.")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "ledger").mkdir(exist_ok=True)
    first = keys.parse_public(str(introduced[-1].body["public"]))
    (folder / "public.pem").write_text(keys.to_pem(first), encoding="ascii")
    known = {record.subject: str(record.body["file"]).encode() for record in platform.ledger.find("checkpoint")}
    site, _ = platform.evidence_site(config.checkpoint_site)
    written = _write_checkpoints(site, config.buckets.checkpoints, known, folder / "checkpoints")
    replica_of, _ = platform.evidence_site(config.evidence_site)
    copies = _write_checkpoints(replica_of, config.buckets.evidence, known, folder / "checkpoints" / "copies")
    intact = (body for key, body in known.items() if body in (written.get(key), copies.get(key)))
    covered = max((int(json.loads(body)["checkpoint"]["seq"]) for body in intact), default=0)
    records = uncovered = 0
    # after the checkpoints: the chain has every record that they cover
    with (folder / "ledger" / "ledger.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for entry in platform.ledger.entries():
            file.write(f"{entry.line}\n")
            records += 1
            uncovered += entry.seq > covered and json.loads(entry.text)["kind"] != "checkpoint"
    return LocalExport(records, len(written), str(folder), covered, uncovered)


def _write_checkpoints(site: Site, bucket: str, known: Mapping[str, bytes], folder: Path) -> Mapping[str, bytes]:
    """Write a site's checkpoints to a folder, each in the version known to the ledger, else the first.

    Return them by their keys.
    """
    versions: dict[str, list[ObjectInfo]] = {}
    for info in site.versions(bucket, "checkpoints/"):
        if not info.marker:
            versions.setdefault(info.key, []).insert(0, info)
    folder.mkdir(exist_ok=True)
    written: dict[str, bytes] = {}
    for key, found in versions.items():
        read = (site.fetch(bucket, key, version_id=version.version_id)[1] for version in found[:LOOKED_AT])
        first = next(read)
        wanted = known.get(key, first)
        body = first if first == wanted else next((text for text in read if text == wanted), first)
        (folder / Path(key).name).write_bytes(body)
        written[key] = body
    return written


def show(ledger: Ledger, after: int | None, limit: int) -> list[str]:
    """Yield records as text, oldest first: those after `after`, or the newest ones."""
    if after is not None:
        return [entry.text for entry in itertools.islice(ledger.entries(after), limit)]
    return [entry.text for entry in collections.deque(ledger.entries(), limit)]


def rotate_key(platform: Platform) -> Evidence:
    """Introduce the key of connection `ledger_key_next`; from then on only it signs. Raises LedgerError."""
    return platform.ledger.rotate(platform.signer(keys.NEXT_CONNECTION))
