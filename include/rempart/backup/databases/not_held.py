"""Stores that a restore point does not hold although the platform uses them, and the champions that need them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

PROXIED = "mlflow-artifacts"
"""Scheme of the artifact URIs that MLflow's server resolves itself, below its artifacts destination."""
SHOWN = 3
"""So many experiments are named; the others are counted."""


@dataclass(frozen=True)
class NotHeld:
    """A store that the restore point does not cover: which, why, and the champions (`name version n`) that need it."""

    store: str
    fact: str
    needed_by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.store}: {self.fact}" + (f"; needed by {', '.join(self.needed_by)}" if self.needed_by else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"needed_by": list(self.needed_by)}


def from_json(plain: Mapping[str, Any]) -> NotHeld:
    """Return a store from its form in manifest and ledger. Raises KeyError, TypeError."""
    return NotHeld(str(plain["store"]), str(plain["fact"]), tuple(str(consumer) for consumer in plain["needed_by"]))


@dataclass(frozen=True)
class Registry:
    """Content of a tracking server or its database: experiments (id, creation time) and model versions (name,
    version, creation time). Times are milliseconds since the epoch, as in MLflow.
    """

    experiments: frozenset[tuple[str, int]]
    versions: frozenset[tuple[str, str, int]]


def of_tracking(server: Registry | str, dump: Registry, where: str) -> str | None:
    """Return why the dump of database `mlflow` lacks what the tracking server shows, or None.

    `server` was asked before the dump's snapshot was opened; a text explains why it did not answer. Two databases never
    share every experiment's creation time, so the dump of another database is detected.
    """
    if isinstance(server, str):
        return f"the tracking server at {where} did not list its content ({server}), so it is unknown"
    if not server.experiments:
        return f"the tracking server at {where} shows no experiment, so its database is unknown"
    lacking = server.versions - dump.versions
    if lacking or server.experiments - dump.experiments:
        shown = ", ".join(f"{name} version {version}" for name, version, _ in sorted(lacking)[:SHOWN]) or "no model"
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        return f"the tracking server at {where} uses another database than 'mlflow', with the models {shown}{more}"
    return None


def champions_lacking(champions: Mapping[str, str], versions: Iterable[tuple[str, str]]) -> NotHeld | None:
    """Return the recorded champions that the registry's dump lacks, or None."""
    known = set(versions)
    lacking = tuple(f"{name} version {v}" for name, v in sorted(champions.items()) if (name, v) not in known)
    return NotHeld("mlflow", "the dump of the registry lacks champions", lacking) if lacking else None


def of_locations(located: Iterable[tuple[str, str]], buckets: Collection[str]) -> tuple[NotHeld, ...]:
    """Return artifact stores (experiment name, location) outside of the platform's buckets, each once."""
    found: dict[str, list[str]] = {}
    for experiment, location in located:
        parts = urlsplit(location)
        if parts.scheme == PROXIED or (parts.scheme == "s3" and parts.netloc in buckets):
            continue
        found.setdefault(f"{parts.scheme or 'file'}://{parts.netloc}", []).append(experiment)
    return tuple(NotHeld(f"artifacts {store}", f"artifacts of {_few(names)}") for store, names in sorted(found.items()))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"experiment {', '.join(names[:SHOWN])}{more}"


def needed(stores: Iterable[NotHeld]) -> tuple[str, ...]:
    """Return the champions that a restore point cannot restore, by name."""
    return tuple(sorted({champion for store in stores for champion in store.needed_by}))


def of_record(body: Mapping[str, Any]) -> tuple[NotHeld, ...]:
    """Return the uncovered stores in the ledger's record of a restore point."""
    return tuple(from_json(store) for store in body.get("not_held") or ())


def is_whole(body: Mapping[str, Any]) -> bool:
    """Return whether a restore point, by its record, is consistent and covers all that its champions need."""
    return not body.get("dangling") and not needed(of_record(body))
