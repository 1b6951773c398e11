"""Read and write the register of erasures at every site and in the ledger, and look up rewritten objects.

The running platform reads its ledger. A restore reads the registers of the sites, because its ledger may be older.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from rempart.backup.keys.encryption_scopes import EncryptionScope, parse, text_of
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points import erasures, points
from rempart.backup.points.erasures import Erasure
from rempart.errors import ErasedMeanwhile, KeyMissing, ObjectMissing, SiteError, SiteUnavailable
from rempart.flows.shared.keys import kept_for, key_of, open_keyring, sealed_for
from rempart.flows.shared.platform import Platform
from rempart.ingestion import erasing, snapshots
from rempart.ledger.keys import Signer
from rempart.ledger.port import Ledger
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

Rewritten = Mapping[tuple[str, str], tuple[str, str] | None]
"""SHA-256 or key of the replacement of each object from which a row was erased, by bucket and key."""
SecretOf = Callable[[str, str], bytes]
"""The key of pseudonyms with this scope and serial."""


@dataclass(frozen=True)
class Erased:
    """Erased subjects of one pipeline, by the key of their pseudonyms.

    `entries` are the ids of the register's entries.
    """

    pipeline: str
    entries: frozenset[str]
    _subjects: tuple[tuple[bytes, frozenset[str]], ...] = field(repr=False)

    def has(self, key: Sequence[object]) -> bool:
        """Return whether the row with this key was erased. The signature is that of `erasing.Gone`."""
        return any(erasures.pseudonym(secret, self.pipeline, key) in ids for secret, ids in self._subjects)

    @property
    def subjects(self) -> int:
        return sum(len(ids) for _, ids in self._subjects)


def erased_by(pipeline: str, entries: Iterable[Erasure], secret_of: SecretOf) -> Erased | None:
    """Return the subjects that the entries name for this pipeline, or None."""
    mine = [entry for entry in entries if entry.pipeline == pipeline]
    keys = sorted({(entry.scope, entry.serial) for entry in mine})
    subjects = tuple(
        (
            secret_of(*key),
            frozenset(who for entry in mine if (entry.scope, entry.serial) == key for who in entry.subjects),
        )
        for key in keys
    )
    return Erased(pipeline, frozenset(entry.id for entry in mine), subjects) if mine else None


def on_record(ledger: Ledger, pipeline: str | None = None) -> list[Erasure]:
    """Return the entries in the ledger, oldest first."""
    found = {}
    for record in ledger.find("erasure", pipeline):
        if record.body["state"] == "registered":
            entry = erasures.from_json(record.body)
            found[entry.id] = entry
    return [found[name] for name in sorted(found)]


def erased(ledger: Ledger, pipeline: str, secret_of: SecretOf) -> Erased | None:
    """Return the erased subjects of a pipeline, or None if nobody was erased.

    Raises BackupError, SiteError.
    """
    entries = on_record(ledger, pipeline)
    return erased_by(pipeline, entries, secret_of) if entries else None


def check_same(ledger: Ledger, pipeline: str, before: Erased | None) -> None:
    """Check that nobody was erased since `before`. Call it inside `Platform.committing`.

    Raises ErasedMeanwhile.
    """
    now = frozenset(entry.id for entry in on_record(ledger, pipeline))
    if now != (before.entries if before else frozenset()):
        raise ErasedMeanwhile(
            f"Rows of '{pipeline}' were erased while this ran: nothing was committed",
            "Run again. Then run `rempart pipeline erase --again`, which cleans the objects that this run has stored.",
        )


def left_out(ledger: Ledger, pipeline: str) -> str:
    """Return a hash of the register's entries of a pipeline, whose rows `without_erased` leaves out; "" for none."""
    entries = [entry.id for entry in on_record(ledger, pipeline)]
    return hashlib.sha256(" ".join(entries).encode()).hexdigest() if entries else ""


def without_erased(
    ledger: Ledger, pipeline: Pipeline, rows: pa.RecordBatchReader, secret_of: SecretOf
) -> pa.RecordBatchReader:
    """Return the rows that were not erased."""
    import pyarrow as pa

    who = erased(ledger, pipeline.name, secret_of)
    if not who:
        return rows
    kept = (erasing.split(pa.Table.from_batches([batch]), pipeline.key, who.has)[0] for batch in rows)
    return pa.RecordBatchReader.from_batches(rows.schema, (batch for table in kept for batch in table.to_batches()))


def secrets_of(platform: Platform) -> SecretOf:
    """Return a function that opens keys of pseudonyms with the platform's own key, and opens each key once."""

    @cache
    def keyring() -> Keyring:
        return open_keyring(platform)

    @cache
    def secret_of(scope: str, serial: str) -> bytes:
        return keyring().open(parse(scope), serial).hash_key

    return secret_of


def pseudonym_key(ledger: Ledger, keyring: Keyring, kept: timedelta) -> ScopeKey:
    """Return the newest key of pseudonyms. Make it if there is none. `kept` is how long restore points are kept.

    A key that the ledger knows is opened where one of its places answers.
    """
    scope = EncryptionScope("platform", erasures.KEYS, text_of(kept))
    if known := sealed_for(ledger, scope):
        with suppress(SiteUnavailable, KeyMissing):
            key = keyring.open(scope, known[0])
            if key.recipient == known[1]:
                return key
    return key_of(ledger, keyring, scope)


def new_entry(
    key: ScopeKey,
    now: datetime,
    pipeline: str,
    keys: Sequence[Sequence[Any]],
    by: str,
    reason: str,
    suffix: str | None = None,
) -> Erasure:
    """Return an entry for the rows with these keys, whose pseudonyms are made with `key`."""
    who = tuple(sorted({erasures.pseudonym(key.hash_key, pipeline, row_key) for row_key in keys}))
    name = points.new_id(now, suffix or secrets.token_hex(4))
    return Erasure(name, now, pipeline, who, by, reason, key.scope.id, key.serial)


def registered(
    sites: Mapping[str, Site], bucket: str, trusted: Mapping[str, bytes], must: str
) -> tuple[list[Erasure], dict[str, str], dict[str, str]]:
    """Return the entries of all sites' registers, rejected files with the reason, and unreachable sites.

    Raises SiteError if the site that must answer does not.
    """
    files: list[tuple[str, bytes]] = []
    silent: dict[str, str] = {}
    for name, site in sites.items():
        try:
            files += erasures.read(site, bucket)
        except SiteError as error:
            if name == must and not isinstance(error, ObjectMissing):
                raise
            silent[name] = error.what
    entries, doubts = erasures.verified(files, trusted)
    return entries, doubts, silent


@dataclass(frozen=True)
class Register:
    """Writes entries into the registers of the sites and into the ledger.

    An entry is locked as long as a restore point older than the erasure may be kept (`kept`).
    """

    bucket: str
    kept: timedelta
    ledger: Ledger
    signer: Callable[[], Signer]
    clock: Callable[[], datetime]

    def write(self, sites: Mapping[str, Site], entries: Sequence[Erasure], *, must: str | None) -> dict[str, str]:
        """Write each entry to every site under object lock, then to the ledger. Return why a site lacks the entries.

        The site `must` gets the entries first. Raises SiteError if `must` fails, or is not among the sites.
        """
        silent = dict[str, str]()
        if must and must not in sites:
            raise SiteError(
                f"Site '{must}', which stores restore points, cannot be reached: a restore from there would undo an "
                "erasure that is missing in its register",
                "Check the site with `rempart site doctor`, then run again. Nothing was erased.",
            )
        signer = self.signer()
        for name in sorted(sites, key=lambda site: site != must):
            try:
                there = {info.key for info in sites[name].list(self.bucket, erasures.PREFIX)}
                for entry in entries:
                    if erasures.key_of(entry.id) not in there:
                        body, until = erasures.encode(entry, signer), self._until(entry)
                        _store(sites[name], self.bucket, entry, body, until, name == must)
            except SiteError as error:
                if name == must:
                    raise
                silent[name] = error.what
        known = {entry.id for entry in on_record(self.ledger)}
        for entry in entries:
            if entry.id not in known:
                self.ledger.append("erasure", entry.pipeline, {"state": "registered", **entry.as_json()})
        return silent

    def _until(self, erasure: Erasure) -> datetime | None:
        until = erasure.at + self.kept
        return until if until > self.clock() else None


def open_register(platform: Platform) -> Register:
    config = platform.config
    kept = kept_for(config.backup.keep)
    return Register(config.buckets.backups, kept, platform.ledger, platform.signer, platform.clock)


def _store(site: Site, bucket: str, erasure: Erasure, body: bytes, until: datetime | None, must_lock: bool) -> None:
    key, kind = erasures.key_of(erasure.id), "application/json"
    try:
        site.write_new(bucket, key, body, content_type=kind, retain_until=until)
    except SiteUnavailable:
        raise
    except SiteError:
        if must_lock or until is None:
            raise
        # a bucket without locks: an unlocked entry is better than none
        site.write_new(bucket, key, body, content_type=kind)


def rewritten(ledger: Ledger) -> Rewritten:
    """Return the ledger's records about rewritten objects."""
    return erasures.successors(record.body for record in reversed(ledger.find("erasure")))


def snapshot_id(ledger: Ledger, bucket: str, pipeline: str, name: str) -> str:
    """Return the id of the snapshot that replaces a recorded one: the same id, unless a row was erased from it
    since.
    """
    folder = snapshots.folder(pipeline)
    found = erasures.standing(rewritten(ledger), bucket, f"{folder}{name}.json", "")
    return found[0].removeprefix(folder).removesuffix(".json") if found else name


@contextmanager
def standing_rows(
    ledger: Ledger, bucket: str, of: Sequence[tuple[str, str]], is_clean: Callable[[str, str], bool]
) -> Iterator[None]:
    """Store objects that are made of these snapshots, by pipeline and id, unless a row of them was erased since.

    `is_clean`: whether a snapshot, if it is derived, respects the erasures in its inputs, which rewrite nothing of it.
    Checked before, and after: an erasure that did not see the objects has recorded by then what it rewrote. Raises
    ErasedMeanwhile.
    """
    _check_standing(ledger, bucket, of, is_clean)
    yield
    _check_standing(ledger, bucket, of, is_clean)


def _check_standing(
    ledger: Ledger, bucket: str, of: Sequence[tuple[str, str]], is_clean: Callable[[str, str], bool]
) -> None:
    for pipeline, snapshot in of:
        if snapshot_id(ledger, bucket, pipeline, snapshot) != snapshot or not is_clean(pipeline, snapshot):
            raise ErasedMeanwhile(
                f"Rows of '{pipeline}', or of an input of it, were erased while a training set was made of snapshot "
                f"{snapshot}",
                "Run `rempart pipeline erase --again`, which cleans what this run may have stored. Then train again.",
            )


def read_dataset(known: Rewritten, site: Site, dataset: Mapping[str, Any]) -> bytes:
    """Return a frozen training set of a candidate's evidence, or its replacement after an erasure.

    Raises IntegrityError, ObjectMissing (also if no row is left), SiteError.
    """
    bucket = str(dataset["bucket"])
    found = erasures.standing(known, bucket, str(dataset["key"]), str(dataset["sha256"]))
    if found is None:
        raise ObjectMissing(
            f"{bucket}/{dataset['key']} at site '{site.name}': every row of this training set was erased",
            "Train a new model. The model trained on this data set can no longer be compared.",
        )
    return site.read(bucket, found[0], sha256=found[1])
