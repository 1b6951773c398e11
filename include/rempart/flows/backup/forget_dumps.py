"""Remove dumps that no restore point needs from the database repositories."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from rempart.backup.databases.restic import Repository
from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import Keyring
from rempart.backup.pitr import wal
from rempart.backup.points import retention
from rempart.errors import BackupError, IntegrityError, SiteUnavailable
from rempart.flows.backup.point_store import PointStore
from rempart.flows.pitr import point_in_time
from rempart.flows.shared.repositories import RepositoryOf

logger = logging.getLogger(__name__)

TAG = "point="
"""Tag prefix of a dump's snapshot; the id of its restore point follows."""


def forget(
    store: PointStore,
    open_keyring: Callable[[], Keyring],
    repository_of: RepositoryOf,
    needed: Collection[retention.DumpSnapshot],
    standing: Collection[str],
) -> dict[str, int]:
    """Forget unneeded dumps in every repository at the site. Return their number by encryption scope.

    `needed` dumps belong to kept points; `standing` are the existing points. Repositories of destroyed keys are
    unreadable and stay. A damaged key or repository does not stop the others: it is logged, and raised at the end if
    a kept point needs it. Raises the errors of keys and repositories; the next run continues.
    """
    if not needed:  # dumps of the first formats are stored beside their manifest
        return {}
    keyring, forgotten = open_keyring(), dict[str, int]()
    used, faults = {(snapshot.scope, snapshot.serial) for snapshot in needed}, list[BackupError | IntegrityError]()
    for card in keyring.cards():
        scope = parse(card.scope)
        if card.destroyed or (scope.kind != "database" and scope.name != wal.NAME):
            continue
        try:
            key = keyring.open(scope, card.serial)
            for kind, count in _forget(store, repository_of(key), key, (needed, standing)).items():
                forgotten[scope.id] = forgotten.get(scope.id, 0) + count
                logger.info("%s: forgot %d %s", scope.id, count, kind)
        except SiteUnavailable:
            raise
        except (BackupError, IntegrityError) as error:
            logger.warning("%s %s: nothing forgotten in this repository: %s", scope.id, card.serial, error.what)
            faults += [error] if (scope.id, card.serial) in used else []
    if faults:
        raise faults[0]
    return forgotten


def _forget(
    store: PointStore,
    repository: Repository,
    key: ScopeKey,
    wanted: tuple[Collection[retention.DumpSnapshot], Collection[str]],
) -> dict[str, int]:
    """Forget dumps in the repository of one key. Return the number of base backups or dumps."""
    needed, standing = wanted
    if key.scope.name == wal.NAME:
        bases = point_in_time.forget_bases(store.site, store.bucket, repository, key, store.clock())
        return {"base backups": bases} if bases else {}
    stored = {
        snapshot.id: tag.removeprefix(TAG)
        for snapshot in repository.snapshots()
        for tag in snapshot.tags
        if tag.startswith(TAG)
    }
    kept = {snapshot.id for snapshot in needed if (snapshot.scope, snapshot.serial) == (key.scope.id, key.serial)}
    gone = retention.unneeded(stored, kept, standing)
    if gone:
        repository.forget(gone)
    return {"dumps": len(gone)} if gone else {}
