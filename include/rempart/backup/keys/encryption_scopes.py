"""Define encryption scopes: the data that one key can read, and that is unreadable everywhere once the key is
destroyed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from rempart.errors import BackupError, PipelineError
from rempart.settings.pipeline import Pipeline
from rempart.settings.sections import Classification, Retention

ScopeKind = Literal["dataset", "database", "platform", "predictions"]
_NAME = r"[a-z][a-z0-9_]{0,39}"
_FORM = re.compile(rf"({'|'.join(get_args(ScopeKind))})-({_NAME})-([1-9][0-9]{{0,5}}[dhms])")
_KEPT_AS: Mapping[str, Literal["raw", "quarantine", "snapshots"]] = {
    "raw": "raw",
    "quarantine": "quarantine",
    "snapshots": "snapshots",
    "training": "snapshots",
    "profiles": "snapshots",
    "predictions-log": "snapshots",
}
"""Folders of the lake with one folder per pipeline, and the retention of their objects."""
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


@dataclass(frozen=True, order=True)
class EncryptionScope:
    """A data set, a database, the platform, or the prediction log of a pipeline, with its retention, such as `395d`.

    Its id is part of object keys. Raises BackupError for an invalid id.
    """

    kind: ScopeKind
    name: str
    retention: str

    def __post_init__(self) -> None:
        if not _FORM.fullmatch(self.id):
            raise BackupError(
                f"'{self.id[:80]}' is not a valid encryption scope",
                "Write dataset, database, platform or predictions, then a name and a retention: dataset-bookings-395d.",
            )

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.name}-{self.retention}"


def parse(scope_id: str) -> EncryptionScope:
    """Return the scope with an id. Raises BackupError."""
    kind, _, rest = scope_id.partition("-")
    name, _, retention = rest.partition("-")
    return EncryptionScope(kind, name, retention)  # type: ignore[arg-type] # the constructor refuses other kinds


def text_of(retention: timedelta) -> str:
    """Return a retention in the largest unit with a whole number: `395d`, `36h`."""
    seconds = max(1, int(retention.total_seconds()))
    return next(f"{seconds // length}{unit}" for unit, length in _UNITS if seconds % length == 0)


def shortest(ids: Iterable[str]) -> timedelta | None:
    """Return the shortest retention of scopes, given by their ids; zero for an invalid id, None for no ids."""
    matched = [_FORM.fullmatch(scope_id) for scope_id in ids]
    lengths = [
        timedelta(seconds=int(form[3][:-1]) * dict(_UNITS)[form[3][-1]]) if form else timedelta(0) for form in matched
    ]
    return min(lengths, default=None)


def of_object(
    bucket: str,
    key: str,
    pipelines: Mapping[str, Pipeline | PipelineError],
    retention: Mapping[Classification, Retention],
    otherwise: timedelta,
) -> EncryptionScope:
    """Return the scope of an object; `bucket` is the logical name.

    Objects in a pipeline's own folder of the lake belong to its dataset, with the retention of the pipeline's
    classification. A removed or invalid pipeline counts as `personal`, because its content is unknown. All other
    objects, including models, belong to the platform, with the retention `otherwise`.
    """
    folder, _, rest = key.partition("/")
    name, slash, _ = rest.partition("/")
    part = _KEPT_AS.get(folder) if bucket == "lake" and slash else None
    if part is None or not re.fullmatch(_NAME, name):
        return EncryptionScope("platform", "platform", text_of(otherwise))
    found = pipelines.get(name)
    classification: Classification = found.classification if isinstance(found, Pipeline) else "personal"
    if classification not in retention:
        return EncryptionScope("dataset", name, text_of(otherwise))
    return EncryptionScope("dataset", name, text_of(getattr(retention[classification], part)))


def of_database(name: str, kept: timedelta) -> EncryptionScope:
    """Return the scope of a database whose dumps have this retention."""
    return EncryptionScope("database", name, text_of(kept))
