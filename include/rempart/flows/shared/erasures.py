"""Who was erased: the register at every site and in the ledger, and what stands for objects that were rewritten since.

The running platform asks its ledger; a restore, whose ledger may be older, asks the sites.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rempart.backup.keys.domains import Domain, parse, text_of
from rempart.backup.points import erasures
from rempart.backup.points.erasures import Erasure
from rempart.errors import ErasedMeanwhile, ObjectMissing, RempartError, SiteError, SiteUnavailable
from rempart.flows.shared.keys import kept_for, key_of, open_keyring
from rempart.flows.shared.platform import Platform, classification_of
from rempart.ingestion import erasing, snapshots
from rempart.ledger.port import Ledger
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

if TYPE_CHECKING:
    import pyarrow as pa

ALL = 100_000
"""More records than a ledger holds of erasures."""
Rewritten = Mapping[tuple[str, str], tuple[str, str] | None]
"""What stands for each object from which a row was erased, by bucket and key: key and SHA-256."""
SecretOf = Callable[[str, str], bytes]
"""The key of pseudonyms with this domain and serial."""


@dataclass(frozen=True)
class Erased:
    """The subjects of one pipeline, by the key of their pseudonyms; `entries` are the ids of what says so."""

    pipeline: str
    entries: frozenset[str]
    _subjects: tuple[tuple[bytes, frozenset[str]], ...] = field(repr=False)

    def has(self, key: Sequence[object]) -> bool:
        """Whether the row with this key was erased; `erasing.Gone`."""
        return any(erasures.pseudonym(secret, self.pipeline, key) in ids for secret, ids in self._subjects)

    @property
    def subjects(self) -> int:
        return sum(len(ids) for _, ids in self._subjects)


def erased_by(pipeline: str, entries: Iterable[Erasure], secret_of: SecretOf) -> Erased | None:
    """The subjects that entries name; None if they name nobody of this pipeline."""
    mine = [one for one in entries if one.pipeline == pipeline]
    keys = sorted({(one.domain, one.serial) for one in mine})
    subjects = tuple(
        (secret_of(*key), frozenset(who for one in mine if (one.domain, one.serial) == key for who in one.subjects))
        for key in keys
    )
    return Erased(pipeline, frozenset(one.id for one in mine), subjects) if mine else None


def on_record(ledger: Ledger, pipeline: str | None = None) -> list[Erasure]:
    """The entries that the ledger knows, oldest first."""
    found = {}
    for record in ledger.find("erasure", pipeline, limit=ALL):
        if record.body["state"] == "registered":
            one = erasures.from_json(record.body)
            found[one.id] = one
    return [found[name] for name in sorted(found)]


def erased(platform: Platform, pipeline: str) -> Erased | None:
    """Whom the platform may not take in again; None if nobody was erased. Raises BackupError, SiteError."""
    entries = on_record(platform.ledger, pipeline)
    return erased_by(pipeline, entries, secrets_of(platform)) if entries else None


def check_same(platform: Platform, pipeline: str, before: Erased | None) -> None:
    """Raises ErasedMeanwhile if somebody was erased since; asked inside of `Platform.committing`."""
    now = frozenset(one.id for one in on_record(platform.ledger, pipeline))
    if now != (before.entries if before else frozenset()):
        raise ErasedMeanwhile(
            f"Rows of '{pipeline}' were erased while this ran: nothing was committed",
            "Run again. Then run `rempart erase --again`: what this run had stored by then is cleaned with it.",
        )


def without_erased(platform: Platform, pipeline: Pipeline, table: pa.Table) -> pa.Table:
    """The rows of a table that were not erased."""
    who = erased(platform, pipeline.name)
    return erasing.split(table, pipeline.key, who.has)[0] if who else table


def secrets_of(platform: Platform) -> SecretOf:
    """Opens keys of pseudonyms with the platform's own key, each once."""
    opened: dict[tuple[str, str], bytes] = {}

    def secret_of(domain: str, serial: str) -> bytes:
        if (domain, serial) not in opened:
            keyring = open_keyring(platform, lambda line: None)
            opened[domain, serial] = keyring.open(parse(domain), serial).hash_key
        return opened[domain, serial]

    return secret_of


def new_entry(
    platform: Platform, pipeline: str, keys: Sequence[Sequence[Any]], by: str, reason: str, suffix: str | None = None
) -> Erasure:
    """An entry for the rows with these keys, under the newest key of pseudonyms, which is made if there is none."""
    now = platform.clock()
    domain = Domain("platform", erasures.KEYS, text_of(kept_for(platform.config.backup.keep)))
    key = key_of(platform, open_keyring(platform, lambda line: None), domain)
    who = tuple(sorted({erasures.pseudonym(key.hash_key, pipeline, one) for one in keys}))
    name = erasures.new_id(now, suffix or secrets.token_hex(4))
    return Erasure(name, now, pipeline, who, by, reason, domain.id, key.serial)


def open_sites(platform: Platform, home: str | None = None) -> tuple[dict[str, Site], dict[str, str]]:
    """Every site of the configuration, `home` (the active one) first; and why the others could not be opened."""
    home, found, shut = home or platform.active().site, dict[str, Site](), dict[str, str]()
    for name in sorted(platform.config.sites, key=lambda one: one != home):
        try:
            found[name] = platform.site(name, classification_of(load_all()))
        except RempartError as error:
            if name == home:
                raise
            shut[name] = error.what
    return found, shut


def registered(
    sites: Mapping[str, Site], bucket: str, trusted: Mapping[str, bytes], must: str
) -> tuple[list[Erasure], dict[str, str], dict[str, str]]:
    """The entries of all sites' registers; which files are not believed, and why; which sites could not be asked.

    Raises SiteError for the site that must answer.
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


def register(
    platform: Platform, sites: Mapping[str, Site], entries: Sequence[Erasure], *, must: str | None
) -> dict[str, str]:
    """Have each entry at every site, under lock, and then in the ledger; why a site has them not.

    The site that `must` have them gets them first: raises SiteError for it, and where it is not among the sites.
    """
    silent = dict[str, str]()
    if must and must not in sites:
        raise SiteError(
            f"Site '{must}', where restore points go, cannot be reached: an erasure that is not in its register would"
            " be undone by a restore from there",
            "Run again once it answers (`rempart doctor site`). Nothing was erased.",
        )
    signer, bucket = platform.signer(), platform.config.buckets.backups
    for name in sorted(sites, key=lambda one: one != must):
        try:
            there = {info.key for info in sites[name].list(bucket, erasures.PREFIX)}
            for one in entries:
                if erasures.key_of(one.id) not in there:
                    _store(sites[name], bucket, one, erasures.encode(one, signer), _until(platform, one), name == must)
        except SiteError as error:
            if name == must:
                raise
            silent[name] = error.what
    known = {one.id for one in on_record(platform.ledger)}
    for one in entries:
        if one.id not in known:
            platform.ledger.append("erasure", one.pipeline, {"state": "registered", **one.as_json()})
    return silent


def _until(platform: Platform, one: Erasure) -> datetime | None:
    """Until when a restore point may be kept that is older than the erasure."""
    until = one.at + kept_for(platform.config.backup.keep)
    return until if until > platform.clock() else None


def _store(site: Site, bucket: str, one: Erasure, body: bytes, until: datetime | None, must_lock: bool) -> None:
    key, kind = erasures.key_of(one.id), "application/json"
    try:
        site.write_new(bucket, key, body, content_type=kind, retain_until=until)
    except SiteUnavailable:
        raise
    except SiteError:
        if must_lock or until is None:
            raise
        site.write_new(bucket, key, body, content_type=kind)  # a bucket without locks: better there than not


def rewritten(ledger: Ledger) -> Rewritten:
    """What the ledger knows of objects that were rewritten."""
    return erasures.successors(record.body for record in reversed(ledger.find("erasure", limit=ALL)))


def snapshot_id(ledger: Ledger, bucket: str, pipeline: str, name: str) -> str:
    """The snapshot that stands for one on record now: itself, unless a row was erased from it since."""
    folder = snapshots.folder(pipeline)
    found = erasures.standing(rewritten(ledger), bucket, f"{folder}{name}.json", "")
    return found[0].removeprefix(folder).removesuffix(".json") if found else name


def read_dataset(known: Rewritten, site: Site, dataset: Mapping[str, Any]) -> bytes:
    """A frozen training set of a candidate's evidence, or what stands for it since a row was erased from it.

    Raises IntegrityError, ObjectMissing (also where nothing is left of it), SiteError.
    """
    bucket = str(dataset["bucket"])
    found = erasures.standing(known, bucket, str(dataset["key"]), str(dataset["sha256"]))
    if found is None:
        raise ObjectMissing(
            f"{bucket}/{dataset['key']} at site '{site.name}': every row of this training set was erased",
            "Train anew: the model that learnt from it cannot be compared any more.",
        )
    return site.read(bucket, found[0], sha256=found[1])
