"""Read replicas back, the longest unread first. Copy damaged or missing replicas again, and report failures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial

from rempart.counts import size
from rempart.errors import IntegrityError, ObjectMissing, RempartError, SiteError, SiteUnavailable
from rempart.flows.replication.replicate import bring
from rempart.flows.shared.leases import PATIENCE, when_free
from rempart.flows.shared.platform import Platform, classification_of
from rempart.flows.shared.replication_pairs import pair_of, physical_bucket
from rempart.replication.catalogue import Catalogue
from rempart.replication.plan import DAMAGED, Replica
from rempart.replication.read_back import READ_BACK_EVERY
from rempart.replication.transfer import Throttle, proven_again, stored_sha256
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

logger = logging.getLogger(__name__)

_AT_ONCE = 500


@dataclass(frozen=True)
class VerifyResult:
    """Result of a verification: `read` of `replicas` were read back (`bytes`).

    `damaged` names the `bucket/key` that differed from the copy; `unhealed` those that could not be copied again.
    """

    replicas: int
    read: int
    bytes: int
    damaged: tuple[str, ...]
    unhealed: tuple[str, ...]


def verify(platform: Platform, source: str, target: str, *, whole: bool = False) -> VerifyResult:
    """Read back a pair's new replicas and the next part of the others (all with `whole`), and replace damaged replicas.

    New replicas come first: the target accepted them by checksum, and no reader has checked them yet. A damaged replica
    is copied again with all later versions of its key, so that their order holds. The damaged bytes remain as an older
    version until they are purged. Writes evidence of kind `replication`. Raises SiteError if a replica could not be
    replaced, or if the replication failed for another object; LeaseHeld while the pair is replicated.
    """
    pair = pair_of(platform.config, source, target)
    site = platform.site(target, classification_of(load_all()), "replica", replica_of=source)
    known, throttle = platform.continuity.catalogue(source, target), Throttle(pair.bandwidth)
    replicas = read = size = 0
    damaged: list[tuple[str, Replica]] = []
    for name in pair.buckets:
        bucket = physical_bucket(platform.config, name)
        count = known.count(bucket)
        due = count if whole else math.ceil(count * READ_BACK_EVERY / max(pair.read_back, READ_BACK_EVERY))
        logger.info("%s: reading back all new and %d of %d older replicas at '%s'", bucket, due, count, target)
        replicas += count
        while batch := known.unread(bucket, _AT_ONCE) or known.oldest_proofs(bucket, min(due, _AT_ONCE)):
            due = max(0, due - len(batch))
            good, bad = _read(site, bucket, batch, pair.transfers, throttle)
            with when_free(platform.continuity, source, target, PATIENCE) as lease:
                now, stands = platform.clock(), set(known.of_keys(bucket, [replica.key for replica in batch]))
                good, bad = ([row for row in rows if row in stands] for rows in (good, bad))  # others were changed
                known.record(bucket, [proven_again(replica, now) for replica in good], lease)
                known.record(
                    bucket, [replace(proven_again(replica, now), target_etag=DAMAGED) for replica in bad], lease
                )
            read += len(batch)
            size += sum(replica.size for replica in batch)
            damaged += [(bucket, replica) for replica in bad]
            for replica in bad:
                logger.warning("the replica of %s/%s at '%s' is damaged", bucket, replica.key, target)
    heal = partial(bring, platform, source, target, pair.buckets, thorough=True, patience=PATIENCE)
    fault = _fault(heal) if damaged else None
    unhealed = tuple(_names(_still_damaged(known, damaged)))
    result = VerifyResult(replicas, read, size, tuple(_names(damaged)), unhealed)
    subject = f"verify {source}->{target}"
    platform.ledger.append(
        "replication", subject, {**asdict(result), "damaged": list(result.damaged), "unhealed": list(unhealed)}
    )
    if fault or unhealed:
        shown = "".join(f"\n  {name}" for name in unhealed[:10])
        raise SiteError(
            f"{len(unhealed)} of {len(damaged)} damaged replicas at site '{target}' could not be replaced{shown}"
            if unhealed
            else (
                f"{len(damaged)} damaged replicas at site '{target}' were replaced, but other objects were not copied"
            ),
            (f"{fault.what}. {fault.hint} " if fault else "") + "docs/runbooks/replica.md.",
        )
    return result


def lines(result: VerifyResult) -> list[str]:
    """Yield a result as lines for people."""
    shown = [f"{result.read} of {result.replicas} replicas ({size(result.bytes)}) were read back"]
    if not result.damaged:
        return [*shown, "every replica equals its source"]
    return [
        *shown,
        f"replicas that differed from their source, replaced: {len(result.damaged)}",
        *result.damaged,
    ]


def _read(
    site: Site, bucket: str, rows: list[Replica], threads: int, throttle: Throttle
) -> tuple[list[Replica], list[Replica]]:
    """Split replicas into intact and damaged ones. Raises SiteUnavailable if the site does not answer."""

    def is_good(row: Replica) -> bool:
        throttle.take(row.size)
        try:
            return stored_sha256(site, bucket, row.key, version_id=row.target_version or None, once=True) == row.sha256
        except (ObjectMissing, IntegrityError):
            return False
        except SiteUnavailable:  # a server that finds the damage itself answers 500 for that object alone
            site.head(bucket, row.key, version_id=row.target_version or None)
            return False

    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        found = list(zip(rows, pool.map(is_good, rows), strict=True))
    return [row for row, good in found if good], [row for row, good in found if not good]


def _fault(heal: Callable[[], object]) -> RempartError | None:
    try:
        heal()
    except RempartError as error:  # other keys may have failed: the catalogue knows which replicas were repaired
        return error
    return None


def _still_damaged(known: Catalogue, damaged: list[tuple[str, Replica]]) -> list[tuple[str, Replica]]:
    keys = {bucket: [row.key for name, row in damaged if name == bucket] for bucket, _ in damaged}
    return [
        (bucket, row)
        for bucket, wanted in keys.items()
        for row in known.of_keys(bucket, wanted)
        if row.target_etag == DAMAGED
    ]


def _names(found: Iterable[tuple[str, Replica]]) -> Iterator[str]:
    return (f"{bucket}/{row.key}" for bucket, row in found)
