"""Restore links of the chain of restore points from the ledger, or mark them as lost if no true copy exists.

The ledger's record of a restore point holds the link's signed bytes (`link_file`). They are written as another version;
readers choose the version by its SHA-256 (`backup.points.chain`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rempart.backup.points import chain, points
from rempart.backup.points.chain import Link, Mark, StoredLink
from rempart.errors import IntegrityError, RempartError
from rempart.flows.backup.point_store import PointStore
from rempart.ledger.port import Ledger
from rempart.sites.once import bodies, put_again, store_once
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

RECENT = 100
"""Number of records that a backup checks; a repair checks all."""
GONE = "it is missing"


@dataclass(frozen=True)
class Mended:
    """Numbers of the links that were restored, that are lost, and that were marked as lost.

    `faults` has the reason for each restored or lost link.
    """

    healed: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()
    faults: Mapping[int, str] = field(default_factory=dict)


def named_links(ledger: Ledger, site: str, bucket: str, limit: int | None = None) -> dict[int, bytes]:
    """Return the bytes of each link of a site by its number, from the ledger's newest records of restore points."""
    found: dict[int, bytes] = {}
    for record in ledger.find("restore-point", limit=limit):  # newest first
        file = record.body.get("link_file")
        if (record.body.get("site"), record.body.get("bucket")) == (site, bucket) and isinstance(file, str):
            found.setdefault(int(record.body["link"]), file.encode())
    return found


def hashes(named: Mapping[int, bytes]) -> dict[int, str]:
    """Return the SHA-256 of each link."""
    return {seq: hashlib.sha256(body).hexdigest() for seq, body in named.items()}


def refuse_emptied(site: Site, bucket: str, named: Mapping[int, bytes]) -> None:
    """Check that a chain known to the ledger still has links at the site, so that no new chain replaces it.

    Raises IntegrityError.
    """
    if named and not any(chain.numbers(site, bucket)):
        raise IntegrityError(
            f"All links of the chain are missing from {bucket}/{chain.FOLDER} at site '{site.name}'; the ledger "
            f"knows {len(named)}, the last is {max(named)}. Nothing was written",
            "Find out who emptied the bucket, or whether the site's connection leads to another place. Run "
            "`rempart backup repair` to restore the links (docs/runbooks/chain-is-broken.md); then back up again.",
        )


def check_chain(store: PointStore) -> dict[int, str]:
    """Repair the end of the chain before a backup. Return the SHA-256 of the newest links from the ledger.

    Restores altered or missing links. Raises IntegrityError if all links are missing or the last link has no true copy;
    SiteError, LedgerError.
    """
    named = named_links(store.ledger, store.site.name, store.bucket, RECENT)
    refuse_emptied(store.site, store.bucket, named)
    mend(store, newest=2, dry_run=False)
    keys = store.trusted_keys()
    chain.verify(chain.read(store.site, store.bucket, keys, named=hashes(named), newest=2), keys)
    return hashes(named)


def mend(
    store: PointStore,
    *,
    newest: int | None = None,
    dry_run: bool = True,
    mark_lost: bool = False,
) -> Mended:
    """Restore altered or missing links from the ledger or another site. Writes evidence of kind `repair`.

    With `newest`, only that many links at the end are checked. A link without a true copy is reported as lost; with
    `mark_lost` a signed mark replaces it, which attests no point. Intact links are never changed. Raises SiteError,
    LedgerError.
    """
    site, bucket, keys = store.site, store.bucket, store.trusted_keys()
    named = named_links(store.ledger, site.name, bucket, RECENT if newest else None)
    stored = chain.read(site, bucket, keys, named=hashes(named), newest=newest)
    there = set(chain.numbers(site, bucket))
    judged = list(chain.faults(stored, keys))
    broken = {link.seq: why for link, _, why in judged if why and link.seq in there}
    marked_before = {link.seq for link in stored if link.lost}
    last = max([*there, *named], default=0)
    gaps = set(range(1, last + 1)) - there - marked_before if not newest else set(named) - there - marked_before
    healed, lost = [], []
    for seq in sorted({*broken, *gaps, *(marked_before & named.keys())}):
        body = named.get(seq) or _elsewhere(store, seq, judged)
        if body is None:
            lost.append(seq)
            continue
        healed.append(seq)
        if not dry_run:
            until = store.clock() + store.kept
            put_again(site, bucket, chain.key_of(seq), body, content_type="application/json", retain_until=until)
            logger.warning("restored link %d of the chain at site '%s': %s", seq, site.name, broken.get(seq, GONE))
    if not dry_run:
        for seq in lost:
            logger.warning("link %d of the chain at site '%s' is lost: %s", seq, site.name, broken.get(seq, GONE))
    marked = [seq for seq in lost if mark_lost and not dry_run]
    for seq in marked:
        _mark(store, seq, stored, judged)
        logger.info("marked link %d of the chain as lost", seq)
    if (healed or marked) and not dry_run:
        body_told = {"links": healed[:100], "lost": marked[:100], "count": len(healed) + len(marked)}
        store.ledger.append("repair", site.name, body_told)
    faults = {seq: broken.get(seq, GONE) for seq in sorted([*healed, *lost])}
    return Mended(tuple(healed), tuple(lost), tuple(marked), faults)


JudgedLink = tuple[StoredLink, Link | None, str]


def _elsewhere(store: PointStore, seq: int, judged: Sequence[JudgedLink]) -> bytes | None:
    """Return the link's bytes at another site, checked against the hash in the next link."""
    wanted = next((link.previous for judged_link, link, _ in judged if link and judged_link.seq == seq + 1), None)
    if wanted is None:
        return None
    for name, open_other in store.elsewhere.items():
        try:
            other = store.site if name == store.site.name else open_other()
            for _, body in bodies(other, store.bucket, chain.key_of(seq)):
                if hashlib.sha256(body).hexdigest() == wanted:
                    return body
        except RempartError:
            continue  # without credentials, bucket or answer, the site has no copy for us
    return None


def _mark(store: PointStore, seq: int, stored: Sequence[StoredLink], judged: Sequence[JudgedLink]) -> None:
    """Replace a lost link by a mark that names the unattested points of its time."""
    site, bucket = store.site, store.bucket
    links = [link for _, link, _ in judged if link]
    vouched = {link.point for link in links}
    after = max((link.at for link in links if link.seq < seq), default=None)
    before = min((link.at for link in links if link.seq > seq), default=None)
    unvouched = [
        point
        for point in points.list(site, bucket)
        if point not in vouched
        and (after is None or points.created_at(point) >= after.replace(microsecond=0))
        and (before is None or points.created_at(point) <= before)
    ]
    mark = Mark(seq, store.clock(), tuple(sorted(unvouched)))
    until = store.clock() + store.kept
    body = chain.encode_mark(mark, store.signer())
    if store_once(site, bucket, chain.mark_of(seq), body, content_type="application/json", retain_until=until) is None:
        put_again(site, bucket, chain.mark_of(seq), body, content_type="application/json", retain_until=until)
