"""Keys of the prediction log: who can read inputs and features, and how the scorer seals them without a secret."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from rempart.backup.keys import age
from rempart.backup.keys.encryption_scopes import EncryptionScope, parse
from rempart.backup.keys.key_envelope import ScopeKey
from rempart.errors import IntegrityError, KeyDestroyed, KeyWrong, ServingError
from rempart.flows.shared.keys import key_of, open_keyring, sealed_for
from rempart.flows.shared.platform import Platform
from rempart.ledger.port import Ledger
from rempart.serving.seals import Sealing, Unwrap
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.sovereignty.classification import may_be_personal

OpenKey = Callable[[str], ScopeKey]
"""Returns the key of this name (`name_of`). Raises BackupError, SiteError."""


def scope_of(pipeline: ModelPipeline) -> EncryptionScope:
    """Return the scope of a pipeline's log. `rempart keys destroy` with its id makes all sealed values unreadable."""
    return EncryptionScope("predictions", pipeline.name, f"{pipeline.serving.log.keep_days}d")


def is_sealed(pipeline: Pipeline) -> bool:
    """Return whether inputs and features are sealed, because they may be about persons."""
    return may_be_personal(pipeline.classification)


def name_of(scope: str, serial: str) -> str:
    """Return the name under which entries record a key."""
    return f"{scope} {serial}"


def opener(platform: Platform, identity: age.Identity | None = None) -> OpenKey:
    """Return a function that opens keys with an identity (default: the platform's own key), and opens each key once."""
    keyring = cache(partial(open_keyring, platform, identity))

    @cache
    def opened(name: str) -> ScopeKey:
        scope, _, serial = name.partition(" ")
        return keyring().open(parse(scope), serial)

    return opened


def make(platform: Platform, pipeline: ModelPipeline) -> None:
    """Make the key of a pipeline's log if it has none. Raises the errors of `key_of`."""
    if is_sealed(pipeline) and sealed_for(platform.ledger, scope_of(pipeline)) is None:
        key_of(platform.ledger, open_keyring(platform), scope_of(pipeline))


def make_folder(pipeline: ModelPipeline, folder: Path) -> None:
    """Make the folder of a pipeline's journal. The next shipment makes the key of each. Raises ServingError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise ServingError(
            f"open the prediction log of '{pipeline.name}' in {folder}: {cause.strerror}",
            "Set REMPART_PREDICTION_LOG to a folder that the scorer may write to.",
        ) from cause


def public_key(ledger: Ledger, pipeline: ModelPipeline) -> tuple[str, str] | None:
    """Return the name and the public half of the key that seals a pipeline's log; None without such a key.

    After a change of `serving.log.keep_days` that is the former key until the next shipment has made another: no
    prediction goes unlogged, and none is refused. Raises LedgerError, DatabaseUnavailable.
    """
    if not is_sealed(pipeline):
        return None
    scope = scope_of(pipeline)
    if not ledger.find("backup-key", scope.id, limit=1):  # a key that was destroyed has no successor by itself
        scope = _former_scope(ledger, pipeline) or scope
    found = sealed_for(ledger, scope)
    return (name_of(scope.id, found[0]), found[1]) if found else None


def _former_scope(ledger: Ledger, pipeline: ModelPipeline) -> EncryptionScope | None:
    """Return the scope of a pipeline's log whose key was made or destroyed last, of whatever retention."""
    for record in ledger.find("backup-key"):
        if record.body["event"] in ("made", "destroyed"):
            scope = parse(record.subject)
            if (scope.kind, scope.name) == ("predictions", pipeline.name):
                return scope
    return None


def sealing(name: str, recipient: str) -> Sealing:
    """Return how segments are sealed for a key. It needs no secret."""
    return Sealing(name, lambda data_key: age.encrypt(data_key, [recipient]))


def unwrapper(open_key: OpenKey) -> Unwrap:
    """Return a function that opens the data keys of segments. It raises ValueError, and the errors of `open_key`."""

    def unwrap(name: str, wrapped: bytes) -> bytes | None:
        try:
            key = open_key(name)
        except KeyDestroyed:
            return None
        try:
            return age.decrypt(wrapped, key.identity, "data key")
        except (IntegrityError, KeyWrong):
            raise ValueError(f"its data key does not open with '{name}'") from None

    return unwrap
