"""Select the objects of a restore point and encrypt each at the backup site."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from rempart.backup.keys import encryption_scopes
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points import chain, points
from rempart.backup.points.sealing import Original, SealedObject
from rempart.errors import IntegrityError, ObjectMissing
from rempart.flows.backup.mend_links import RECENT, hashes, named_links
from rempart.flows.backup.point_store import PointStore
from rempart.flows.backup.seal import seal_objects
from rempart.flows.shared.keys import kept_for
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.replication.catalogue import Catalogue
from rempart.settings.config import Config
from rempart.settings.pipelines import load_all

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


def originals(replicas: Catalogue, config: Config) -> Iterator[Original]:
    """Return every current object of a replica, in its recorded version, with its encryption scope."""
    pipelines, otherwise = load_all(), kept_for(config.backup.keep)
    for name in BUCKETS:
        for replica in replicas.current(physical_bucket(config, name)):
            scope = encryption_scopes.of_object(name, replica.key, pipelines, config.retention, otherwise)
            version = replica.target_version or None
            yield Original(name, replica.key, version, replica.sha256, replica.size, scope)


def hold_objects(
    store: PointStore, config: Config, keyring: Keyring, originals: list[Original], until: datetime
) -> tuple[points.HeldObject, ...]:
    """Encrypt each object at the site. The source is the replica at the same site, which was verified."""
    told = [time.monotonic()]

    def progress(done: int, total: int) -> None:
        if time.monotonic() - told[0] >= PROGRESS_SECONDS or done == total:
            told[0] = time.monotonic()
            logger.info("sealed %d of %d contents", done, total)

    known, site = _known(store), store.site
    sealed = seal_objects(store.ledger, config, keyring, site, originals, site, until, known=known, progress=progress)
    return tuple(
        points.HeldObject(original.bucket, original.key, original.size, original.sha256, original.version, form)
        for original, form in zip(originals, sealed, strict=True)
    )


def _known(store: PointStore) -> Iterable[SealedObject]:
    """Return the sealed objects of the previous restore point, if the chain still attests its manifest."""
    site, bucket, keys = store.site, store.bucket, store.trusted_keys()
    last = chain.read(site, bucket, keys, named=hashes(named_links(store.ledger, site.name, bucket, RECENT)), newest=1)
    try:
        links = chain.verify(last, keys)
        if not links:
            return ()
        link = links[-1]
        manifest = points.read(site, bucket, link.point, link.manifest_sha256)
    # pruned, of an earlier form, or altered: then each sealed object is examined again
    except (ObjectMissing, IntegrityError):
        return ()
    return (obj.sealed for obj in manifest.objects)
