"""Export the ledger: new records to locked storage, and a signed checkpoint to a second operator."""

from __future__ import annotations

import collections
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rempart import __version__
from rempart.errors import ConfigError, LedgerBroken, LedgerError
from rempart.flows.platform import Platform
from rempart.ledger import keys
from rempart.ledger.canonical import canonical, parse
from rempart.ledger.chain import Entry, Head, checkpoint, read_line
from rempart.ledger.port import Evidence, Kind, Ledger
from rempart.ledger.verification import Chain, KeyUse
from rempart.sites.port import Site

SEGMENT = 10_000
"""Records in one object at most."""
_SEGMENT = re.compile(r"ledger/(\d{12})-(\d{12})\.jsonl")
_CHECKPOINT = re.compile(r"checkpoints/(\d{12})-[0-9a-f]{16}\.json")
HOW = "Follow docs/how-to/verify-the-ledger.md, 'When it does not verify'."


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote; nothing, if the ledger holds nothing new. `checkpoint` is the newest one's object.

    `window_seconds`: the age of the oldest record that had no checkpoint, at the moment when it got one. That is how
    long somebody who holds the database and the signing key could have rewritten it unseen.
    """

    records: int
    last: int
    segments: tuple[str, ...]
    checkpoint: str | None
    window_seconds: float | None


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
    `evidence.checkpoint_site`, through credentials that can only add objects, and a copy of it beside the segments, by
    which the next run knows that it was written. A run that was cut short is finished by the next; what two at once
    write agrees. Raises LedgerBroken when the ledger no longer follows on what was exported, SiteError,
    PlacementDenied, ConfigError, DatabaseUnavailable.
    """
    config = platform.config
    if config.evidence_site == config.checkpoint_site:
        raise ConfigError(
            f"evidence.checkpoint_site: '{config.checkpoint_site}' is the site of the export too",
            "Name a site of another operator: whoever may rewrite the one must not hold the other.",
        )
    record_configuration(platform)
    site, permission = platform.evidence_site(config.evidence_site)
    witness, witness_permission = platform.evidence_site(config.checkpoint_site, write_only=True)
    bucket = config.buckets.evidence
    exported, newest = _newest(site, bucket, "ledger/", _SEGMENT)
    covered = min(exported, _newest(site, bucket, "checkpoints/", _CHECKPOINT)[0])
    chain = _chain_after(platform.ledger, site, bucket, exported, newest)
    if not any(platform.ledger.entries(covered)):
        return ExportResult(0, exported, (), None, None)
    platform.record(permission)
    platform.record(witness_permission)
    segments = []
    retain_until = platform.clock() + config.evidence.retention
    for key, body in _segments(platform.ledger.entries(exported), chain):
        _write_once(site, bucket, key, body, retain_until)
        segments.append(key)
    key, made_at = _write_checkpoint(platform, witness, site, chain.head, retain_until)
    first = next(iter(platform.ledger.entries(covered)))
    window = (made_at - datetime.fromisoformat(parse(first.text)["at"])).total_seconds()
    return ExportResult(chain.head.seq - exported, chain.head.seq, tuple(segments), key, round(window, 3))


def _newest(site: Site, bucket: str, prefix: str, form: re.Pattern[str]) -> tuple[int, str]:
    """The newest record that an object under the prefix covers (0 if there is none), and that object's key."""
    found = (form.fullmatch(info.key) for info in site.list(bucket, prefix))
    return max(((int(match[match.lastindex or 1]), match[0]) for match in found if match), default=(0, ""))


def _chain_after(ledger: Ledger, site: Site, bucket: str, exported: int, newest: str) -> Chain:
    """The chain as far as it was exported, after a look that the database still says the same. Raises LedgerBroken."""
    introduced = ledger.find("key", limit=10_000)
    chain = Chain(frozenset(record.subject for record in introduced[-1:]))
    if not exported:
        return chain
    stored = site.read(bucket, newest).decode(errors="replace").rstrip("\n").rpartition("\n")[2]
    present = next(iter(ledger.entries(exported - 1)), None)
    signing = next((record for record in introduced if record.seq <= exported), None)
    if present is None or signing is None or present.line != stored:
        raise LedgerBroken(
            f"Record {exported} of the ledger is not the one in {bucket}/{newest} at site '{site.name}'",
            f"The database was rewritten, or restored to an earlier point. {HOW}",
        )
    chain.head = Head(exported, read_line(stored)[0].hash, signing.subject)
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


def _write_once(site: Site, bucket: str, key: str, body: bytes, retain_until: datetime) -> None:
    kind = "application/json" if key.endswith(".json") else "application/jsonl"
    if site.write_new(bucket, key, body, content_type=kind, retain_until=retain_until):
        return
    site.read(bucket, key, sha256=hashlib.sha256(body).hexdigest())  # the other run's must be the same


def _write_checkpoint(
    platform: Platform, witness: Site, site: Site, head: Head, retain_until: datetime
) -> tuple[str, datetime]:
    """Lock a checkpoint at the witness, then its copy beside the segments; its key and moment."""
    signer = platform.signer()
    if signer.id != head.key:
        raise LedgerError(
            f"The key of the ledger is {head.key}, and this process has key {signer.id}",
            "If the key was rotated, restart what still has the old one (`rempart down`, then `rempart up`).",
        )
    now, buckets = platform.clock(), platform.config.buckets
    key, body = f"checkpoints/{head.seq:012d}-{str(head.hash)[:16]}.json", checkpoint(head, now, signer).encode()
    # if it is there, an earlier run was cut off right after writing it: it says the same of the same record
    witness.write_new(buckets.checkpoints, key, body, content_type="application/json", retain_until=retain_until)
    site.write_new(buckets.evidence, key, body, content_type="application/json", retain_until=retain_until)
    return key, now


@dataclass(frozen=True)
class LocalExport:
    """What stands in an auditor's folder."""

    records: int
    checkpoints: int
    folder: str


def export_to(platform: Platform, folder: Path) -> LocalExport:
    """Write the database's whole chain, every checkpoint of the second operator and the first public key to a folder.

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
    site, _ = platform.evidence_site(config.checkpoint_site)
    names = [info.key for info in site.list(config.buckets.checkpoints, "checkpoints/")]
    for name in names:
        body = site.read(config.buckets.checkpoints, name)
        (folder / "checkpoints" / Path(name).name).write_bytes(body)
    return LocalExport(records, len(names), str(folder))


def show(platform: Platform, after: int | None, limit: int) -> list[str]:
    """The texts of records, oldest first: from the one after `after` on, or the newest ones."""
    if after is not None:
        return [entry.text for entry in itertools.islice(platform.ledger.entries(after), limit)]
    return [entry.text for entry in collections.deque(platform.ledger.entries(), limit)]


def rotate_key(platform: Platform) -> Evidence:
    """Introduce the key of connection `ledger_key_next`; from then on only it signs. Raises LedgerError."""
    return platform.ledger.rotate(platform.signer(keys.NEXT_CONNECTION))
