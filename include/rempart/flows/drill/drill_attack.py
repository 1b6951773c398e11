"""Simulate a cyber-attack in a drill: find the last clean restore point, and add poisoned points that must be
detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from rempart.backup.drill import anomalies, attack
from rempart.backup.drill.anomalies import Candidate, JudgedPoint
from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points import chain, points, retention
from rempart.backup.points.chain import Link
from rempart.backup.points.points import Manifest
from rempart.counts import counted
from rempart.errors import ObjectMissing
from rempart.flows.backup.mend_links import hashes, named_links
from rempart.flows.backup.restore_points import proofs
from rempart.flows.drill.drill_steps import Tally
from rempart.flows.restore.restore_source import verified
from rempart.flows.shared.erasures import rewritten
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.ledger.keys import signer
from rempart.ledger.port import Kind, Ledger
from rempart.sites.port import Site

WINDOW = 60
"""Number of stored points that are examined, from the newest: as many as the shipped retention rules keep."""
_PROMOTES: tuple[Kind, Kind] = ("promotion", "rollback")


@dataclass(frozen=True)
class Clean:
    """Result of the search: the last clean point, the examined points from the oldest on, and the chain."""

    point: str | None
    judged: tuple[JudgedPoint, ...]
    stored: tuple[chain.StoredLink, ...]

    @property
    def after(self) -> list[JudgedPoint]:
        """Return the points newer than the last clean one."""
        ids = [judged_point.point for judged_point in self.judged]
        return list(self.judged[ids.index(self.point) + 1 :] if self.point else self.judged)


def find_clean(platform: Platform, site: Site, trusted: Mapping[str, bytes], tally: Tally) -> Clean:
    """Examine every stored point of the window, and report the last clean one as a check.

    `trusted` are the public keys that may have signed the chain, by id. Raises SiteError, LedgerError.
    """
    backups = platform.config.buckets.backups
    named = hashes(named_links(platform.ledger, site.name, backups))
    stored = chain.read(site, backups, trusted, named=named)
    links = verified(stored, trusted, before_break=True)
    first = next((link.seq for link, _, why in chain.faults(stored, trusted) if why), None)
    what, whole = "the chain of restore points is intact", first is None
    broken = f"the chain is broken at link {first}: points after it do not count" if not whole else ""
    tally.add(RestoreCheck(what, whole, broken or f"{counted(len(links), 'link')}, each signed"))
    logical = {physical_bucket(platform.config, name): name for name in BUCKETS}
    erased = {(logical.get(bucket, bucket), key) for bucket, key in rewritten(platform.ledger)}
    judged = tuple(
        anomalies.walk(_candidates(platform.ledger, site, backups, links), promoted(platform.ledger), erased=erased)
    )
    clean = Clean(
        next((judgement.point for judgement in reversed(judged) if judgement.clean), None), judged, tuple(stored)
    )
    what = "a clean restore point is found"
    if clean.point is None:
        tally.add(RestoreCheck(what, False, f"all {len(judged)} points have findings, the newest {_told(judged[-1:])}"))
        return clean
    doubted = sum(not judgement.clean for judgement in judged)
    tally.add(RestoreCheck(what, True, f"{clean.point}; {doubted} of {len(judged)} stored points have findings"))
    newer = clean.after
    what = "the newest stored restore point is clean"
    tally.add(RestoreCheck(what, not newer, _told(newer) if newer else "no finding"))
    return clean


def _told(judged: Collection[JudgedPoint]) -> str:
    return "; ".join(f"{judgement.point}: {', '.join(judgement.doubts)}" for judgement in judged)


def _candidates(ledger: Ledger, site: Site, bucket: str, links: Iterable[Link]) -> Iterator[Candidate]:
    """Return the stored points of the window, oldest first.

    A point whose manifest is under a delete marker counts as stored.
    """
    vouched = {link.point: link for link in links}
    folders = retention.folders(site.versions(bucket, "points/"))
    there = sorted(folder.id for folder in folders.values() if folder.manifest != "none")[-WINDOW:]
    records = {record.subject: record for record in ledger.find("restore-point")}
    failed = {point for point, (ok, _) in proofs(ledger).items() if not ok}
    for point in there:
        try:
            body = site.read(bucket, f"{points.prefix(point)}{retention.MANIFEST}")
        except ObjectMissing:
            yield Candidate(point, None, "its manifest was deleted; the site still has it under a delete marker")
            continue
        doubts = []
        if point not in records:
            doubts.append("the ledger has no record of it")
        elif records[point].body["manifest_sha256"] != hashlib.sha256(body).hexdigest():
            doubts.append("its manifest differs from its record")
        if point in failed:
            doubts.append("its last drill failed")
        yield anomalies.examine(point, vouched.get(point), body, tuple(doubts))


def promoted(ledger: Ledger) -> set[tuple[str, str]]:
    """Return name and version of every model that became champion, according to the ledger."""
    promotions, rollbacks = (ledger.find(kind) for kind in _PROMOTES)
    found = {(promotion.subject, str(promotion.body.get("version"))) for promotion in promotions}
    return found | {(rollback.subject, str(rollback.body["champion"])) for rollback in rollbacks}


def play(
    ledger: Ledger, now: datetime, clean: Clean, manifest: Manifest, seeds: tuple[bytes, bytes], tally: Tally
) -> None:
    """Simulate poisoned points behind the stored ones, in memory only. Each must be detected.

    `seeds` are 32 random bytes each: for the trusted key of the simulated chain, and for the attacker's key.
    """
    insider, stranger = signer(seeds[0]), signer(seeds[1])
    last = clean.stored[-1] if clean.stored else None
    poisons = attack.play(manifest, last, now, insider, stranger)
    played = [poison.link for poison in poisons if poison.link]
    links = {link.point: link for link in verified(played, {insider.id: insider.public}, before_break=True)}
    known = promoted(ledger)
    for poison in poisons:
        what = f"the attack is detected: {poison.what}"
        if poison.link is None:
            tally.add(RestoreCheck(what, None, "not run: the clean point holds too little data to attack"))
            continue
        candidate = anomalies.examine(poison.point, links.get(poison.point), poison.body)
        (judged,) = anomalies.walk([candidate], known, manifest)
        tally.add(RestoreCheck(what, not judged.clean, "; ".join(judged.doubts) or "the poisoned point has no finding"))
