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
from rempart.flows.governance.locked_evidence import ALL, Checked, Places
from rempart.flows.shared.platform import Platform
from rempart.ledger import keys
from rempart.ledger.canonical import canonical
from rempart.ledger.chain import Entry, Head, checkpoint
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.ledger.verification import Chain, KeyUse
from rempart.sites.once import LOOKED_AT, put_again, store_once
from rempart.sites.port import ObjectInfo, Site
from rempart.sovereignty.policy import Decision

SEGMENT = 10_000
"""Records in one object at most."""


@dataclass(frozen=True)
class ExportResult:
    """Objects that an export wrote; none, if the ledger holds nothing new. `checkpoint`: key of the newest one.

    `window_seconds`: the age of the oldest record that had no checkpoint, at the moment when it got one. That is how
    long somebody who holds the database and the signing key could have rewritten it unseen. `foreign`: objects with
    names of segments that are not ours and were not on record yet; the export passed them by.
    """

    records: int
    last: int
    segments: tuple[str, ...]
    checkpoint: str | None
    window_seconds: float | None
    foreign: tuple[str, ...] = ()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def record_configuration(platform: Platform) -> list[Evidence]:
    """Append what changed of the policy (its content) and of the whole configuration (digests of its sections)."""
    plain = platform.config.model_dump(mode="json")
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
        newest = platform.ledger.find(kind, "rempart.yaml", limit=1)
        if not newest or newest[0].body["sha256"] != body["sha256"]:
            appended.append(platform.ledger.append(kind, "rempart.yaml", body))
    return appended


def export(platform: Platform) -> ExportResult:
    """Write the ledger's new records and a checkpoint, each under lock for `evidence.retention`.

    Segments go to bucket `evidence` of `evidence.site`; the checkpoint to bucket `checkpoints` of
    `evidence.checkpoint_site`, through credentials that can only add objects, and a copy of it beside the segments. All
    of it is read back before it counts, by a record of kind `checkpoint`; so is, in turn, what earlier runs wrote
    (`flows.governance.locked_evidence`), and what a site altered or lost is put again. A run that was cut short is
    finished by the next; what two at once write agrees. The export probes no site, since it reads the ledger while it
    would write there: `prove_sites` comes before it. Raises LedgerBroken when the ledger no longer follows on what was
    exported, IntegrityError for a site that does not give back what it stored or lost all of it, CapabilityMissing for
    a site without a valid record of what the export relies on, SiteError, PlacementDenied, ConfigError,
    DatabaseUnavailable.
    """
    config = platform.config
    if config.evidence_site == config.checkpoint_site:
        raise ConfigError(
            f"evidence.checkpoint_site: '{config.checkpoint_site}' is the site of the export too",
            "Name a site of another operator: whoever may rewrite the one must not hold the other.",
        )
    places, permissions = open_places(platform)
    for place in (places.site, places.owner):
        doctor_site.on_record(platform, place, "evidence")
    record_configuration(platform)
    retain_until = platform.clock() + config.evidence.retention
    locked_evidence.check(platform, places, retain_until)
    stock = exported_segments.take_stock(platform, places, retain_until)
    locked_evidence.finish_checkpoints(platform, places, retain_until)
    site, bucket, exported, segments = places.site, places.evidence, stock.last, [*stock.segments]
    covered = min(exported, locked_evidence.counted(platform))
    chain = _chain_after(platform.ledger, site, bucket, exported, stock.ends)
    first = _oldest_news(platform.ledger.entries(covered))
    if first is None and not platform.ledger.forged(limit=1):
        return ExportResult(0, exported, (), None, None, exported_segments.tell(platform, places, stock.foreign))
    for permission in permissions:
        platform.record(permission)
    for key, body in _segments(platform.ledger.entries(exported), chain):
        segments.append(exported_segments.store(platform, places, key, body, retain_until))
    key, made_at, file = _write_checkpoint(platform, places, chain.head, retain_until)
    window = (made_at - first).total_seconds() if first else 0.0
    told = {
        "site": site.name,
        "bucket": bucket,
        "witness": places.owner.name,
        "witness_bucket": places.checkpoints,
        "segments": [{"key": one.key, "sha256": one.sha256} for one in segments],
        "file": file.decode(),
    }
    platform.ledger.append("checkpoint", key, told)
    # last: an export that fails before this, and is retried, has told nothing yet that `check_foreign` would miss
    foreign = exported_segments.tell(platform, places, stock.foreign)
    names = tuple(one.key for one in segments)
    return ExportResult(chain.head.seq - exported, chain.head.seq, names, key, round(window, 3), foreign)


def prove_sites(platform: Platform) -> None:
    """Probe those sites of the export that have no valid record of what they can do.

    Raises CapabilityMissing for a site that the export must not use, SiteError, PlacementDenied.
    """
    places, _ = open_places(platform)
    for place in (places.site, places.owner):
        doctor_site.require(platform, place, "evidence")


def open_places(platform: Platform) -> tuple[Places, tuple[Decision, Decision]]:
    """The sites of the export, and the permissions to record once something is written. Raises PlacementDenied."""
    config = platform.config
    site, permission = platform.evidence_site(config.evidence_site)
    witness, witness_permission = platform.evidence_site(config.checkpoint_site, write_only=True)
    owner, _ = platform.evidence_site(config.checkpoint_site)
    places = Places(site, witness, owner, config.buckets.evidence, config.buckets.checkpoints)
    return places, (permission, witness_permission)


def repair(platform: Platform, *, dry_run: bool = True) -> Checked:
    """Read back all that was exported, and put again what is altered or gone, also where nothing is left.

    Raises as `locked_evidence.check`.
    """
    places, permissions = open_places(platform)
    if not dry_run:
        for permission in permissions:
            platform.record(permission)
    until = platform.clock() + platform.config.evidence.retention
    return locked_evidence.check(platform, places, until, whole=True, emptied=True, dry_run=dry_run)


def lost_exports(platform: Platform) -> str | None:
    """Why the next export would stop at the sites of a restored platform, and the remedy; None if it would go on."""
    try:
        places, _ = open_places(platform)
        buckets = locked_evidence.empty_buckets(platform, places)
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
    """Raise IntegrityError for objects with names of segments that are not ours. It judges a finished export."""
    if result.foreign:
        raise IntegrityError(
            f"{len(result.foreign)} objects have names of segments and hold no record of ours:"
            f" {', '.join(result.foreign[:5])}. The export passed them by; it is complete up to record {result.last}",
            "Somebody writes there with the site's key: replace the key, and find out who had it"
            " (docs/how-to/verify-the-ledger.md). Each such object is told once, in evidence of kind `repair`.",
        )


def _oldest_news(entries: Iterable[Entry]) -> datetime | None:
    """When the oldest record was written; None where there is only what exports tell of themselves.

    That alone is no reason for another export.
    """
    records = (json.loads(entry.text) for entry in entries)
    found = next((str(one["at"]) for one in records if one["kind"] != "checkpoint"), None)
    return datetime.fromisoformat(found) if found else None


def _chain_after(ledger: Ledger, site: Site, bucket: str, exported: int, ends: Sequence[str]) -> Chain:
    """The chain as far as it was exported, after a look that the database still says the same. Raises LedgerBroken."""
    introduced = ledger.find("key", limit=10_000)
    chain = Chain(frozenset(record.subject for record in introduced[-1:]))
    if not exported:
        return chain
    stored = set[str]().union(*(locked_evidence.last_lines(site, bucket, key) for key in ends))
    present = next(iter(ledger.entries(exported - 1)), None)
    signing = next((record for record in introduced if record.seq <= exported), None)
    if present is None or signing is None or present.line not in stored:
        raise LedgerBroken(
            f"Record {exported} of the ledger is not the one in {bucket}/{', '.join(ends)} at site '{site.name}'",
            f"The database was rewritten, or restored to an earlier point. {HOW}",
        )
    chain.head = Head(exported, present.hash, signing.subject)
    chain.keys.append(KeyUse(signing.subject, str(signing.body["public"]), signing.seq))
    return chain


def _segments(entries: Iterable[Entry], chain: Chain) -> Iterator[tuple[str, bytes]]:
    """Keys and bodies of the objects that hold these entries, each checked to follow. Raises LedgerBroken."""
    entries = iter(entries)
    while batch := list(itertools.islice(entries, SEGMENT)):
        for entry in batch:
            if broken := chain.take(entry.line):
                raise broken.error()
        body = "".join(f"{entry.line}\n" for entry in batch).encode()
        yield f"ledger/{batch[0].seq:012d}-{batch[-1].seq:012d}.jsonl", body


def _write_checkpoint(
    platform: Platform, places: Places, head: Head, retain_until: datetime
) -> tuple[str, datetime, bytes]:
    """Lock a checkpoint at the witness, then its copy beside the segments; its key, moment and bytes.

    The witness cannot read, so it is read back as the site's owner.
    """
    signer = platform.signer()
    if signer.id != head.key:
        raise LedgerError(
            f"The key of the ledger is {head.key}, and this process has key {signer.id}",
            "If the key was rotated, restart what still has the old one (`rempart down`, then `rempart up`).",
        )
    now = platform.clock()
    key, body = f"checkpoints/{head.seq:012d}-{str(head.hash)[:16]}.json", checkpoint(head, now, signer).encode()
    kind = "application/json"
    # an earlier run may have been cut off right after writing one: it says the same of the same record
    stands = locked_evidence.standing(places, key, head, signer)
    if stands is None:
        try:
            places.witness.write_new(places.checkpoints, key, body, content_type=kind, retain_until=retain_until)
        except SiteUnavailable:
            if locked_evidence.standing(places, key, head, signer) is None:
                raise
        stands = locked_evidence.standing(places, key, head, signer)
    if stands is None:  # stored wrong, or somebody else's lies there
        stands = body
        put_again(places.owner, places.checkpoints, key, body, content_type=kind, retain_until=retain_until)
    if store_once(places.site, places.evidence, key, stands, content_type=kind, retain_until=retain_until) is None:
        put_again(places.site, places.evidence, key, stands, content_type=kind, retain_until=retain_until)
    return key, now, stands


@dataclass(frozen=True)
class LocalExport:
    """Content of an auditor's folder: how many records and checkpoints."""

    records: int
    checkpoints: int
    folder: str


def export_to(platform: Platform, folder: Path) -> LocalExport:
    """Write the database's whole chain, every checkpoint of the second operator and the first public key to a folder.

    In `checkpoints/copies` are those that lie beside the segments.

    What is written is what the database says now: verifying it against the checkpoints tells whether it still says
    what it said then. Raises LedgerError for an empty ledger, SiteError, PlacementDenied.
    """
    config, introduced = platform.config, platform.ledger.find("key", limit=10_000)
    if not introduced:
        raise LedgerError("The ledger holds no record", "Run the platform first: its first record begins the chain.")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "ledger").mkdir(exist_ok=True)
    first = keys.parse_public(str(introduced[-1].body["public"]))
    (folder / "public.pem").write_text(keys.to_pem(first), encoding="ascii")
    records = 0
    with (folder / "ledger" / "ledger.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for entry in platform.ledger.entries():
            file.write(f"{entry.line}\n")
            records += 1
    known = {
        record.subject: str(record.body["file"]).encode() for record in platform.ledger.find("checkpoint", limit=ALL)
    }
    site, _ = platform.evidence_site(config.checkpoint_site)
    written = _write_checkpoints(site, config.buckets.checkpoints, known, folder / "checkpoints")
    replica_of, _ = platform.evidence_site(config.evidence_site)
    _write_checkpoints(replica_of, config.buckets.evidence, known, folder / "checkpoints" / "copies")
    return LocalExport(records, written, str(folder))


def _write_checkpoints(site: Site, bucket: str, known: Mapping[str, bytes], folder: Path) -> int:
    """Write a site's checkpoints to a folder, each in the version that the ledger knows, else the first; how many."""
    versions: dict[str, list[ObjectInfo]] = {}
    for info in site.versions(bucket, "checkpoints/"):
        if not info.marker:
            versions.setdefault(info.key, []).insert(0, info)
    folder.mkdir(exist_ok=True)
    for key, found in versions.items():
        read = (site.fetch(bucket, key, version_id=one.version_id)[1] for one in found[:LOOKED_AT])
        first = next(read)
        wanted = known.get(key, first)
        body = first if first == wanted else next((one for one in read if one == wanted), first)
        (folder / Path(key).name).write_bytes(body)
    return len(versions)


def show(platform: Platform, after: int | None, limit: int) -> list[str]:
    """The texts of records, oldest first: from the one after `after` on, or the newest ones."""
    if after is not None:
        return [entry.text for entry in itertools.islice(platform.ledger.entries(after), limit)]
    return [entry.text for entry in collections.deque(platform.ledger.entries(), limit)]


def rotate_key(platform: Platform) -> Evidence:
    """Introduce the key of connection `ledger_key_next`; from then on only it signs. Raises LedgerError."""
    return platform.ledger.rotate(platform.signer(keys.NEXT_CONNECTION))
