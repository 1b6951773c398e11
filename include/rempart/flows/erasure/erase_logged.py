"""Find erased subjects in the prediction log by their keyed hashes: the log is sealed, and is not opened for that.

Each file tells the key of its hashes. An erasure is registered under every key that the log has used by then. What is
logged later is compared by the shipment itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points.erasures import Erasure, pseudonym
from rempart.errors import KeyDestroyed
from rempart.flows.shared.erasures import SecretOf
from rempart.ledger.port import Ledger
from rempart.serving.hour_files import IsErased
from rempart.settings.pipeline import Pipeline


def by_entries(pipeline: Pipeline, entries: Iterable[Erasure]) -> IsErased:
    """Return a function that tells whether the register's entries name a subject of the log. Pure."""
    subjects: dict[str, set[str]] = {}
    for entry in entries:
        if entry.pipeline == pipeline.name:
            subjects.setdefault(f"{entry.scope} {entry.serial}", set()).update(entry.subjects)
    return lambda key, subject: subject in subjects.get(key, ())


def by_keys(pipeline: Pipeline, keys: Sequence[Sequence[Any]], secret_of: SecretOf) -> IsErased:
    """Return a function that tells whether a subject of the log is a row with one of these keys.

    It raises BackupError, SiteError.
    """

    @cache
    def subjects(named: str) -> frozenset[str]:
        scope, _, serial = named.partition(" ")
        try:
            secret = secret_of(scope, serial)
        except KeyDestroyed:  # nobody can tell any more
            return frozenset()
        return frozenset(pseudonym(secret, pipeline.name, key) for key in keys)

    return lambda key, subject: subject in subjects(key)


def former_keys(ledger: Ledger, keyring: Keyring, pipeline: str, newest: ScopeKey) -> Iterator[ScopeKey]:
    """Yield the keys besides the newest under which subjects of a pipeline's log are hashed, and that exist.

    Raises BackupError, SiteError.
    """
    records = ledger.find("prediction-log", pipeline)
    named = {str(record.body["subject_key"]) for record in records if record.body.get("subject_key")}
    for key in sorted(named - {f"{newest.scope.id} {newest.serial}"}):
        scope, _, serial = key.partition(" ")
        try:
            yield keyring.open(parse(scope), serial)
        except KeyDestroyed:
            continue
