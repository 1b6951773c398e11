"""Plan a rollback of a model from the recorded decisions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rempart.flows.training.champions import intended, return_to
from rempart.ledger.port import Evidence


@dataclass(frozen=True)
class Version:
    """A version as it was promoted. Without that record (it was altered) `seq` and `at` are None: not known."""

    version: str
    seq: int | None
    at: datetime | None
    metric: str | None
    metrics: Mapping[str, float | None]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Rollback:
    """The plan: `returns` would take the place of `champion`. Without `returns`, there is none before it."""

    model: str
    champion: Version
    returns: Version | None


def rollback(model: str, decisions: Sequence[Evidence]) -> Rollback | None:
    """Return the plan for a model from its promotions and rollbacks, oldest first; None if it has no champion."""
    if (champion := intended(decisions)) is None:
        return None
    back = return_to(decisions)
    return Rollback(model, _version(champion, decisions), _version(back[0], decisions) if back else None)


def _version(version: str, decisions: Sequence[Evidence]) -> Version:
    promoted = next(
        (made for made in reversed(decisions) if made.kind == "promotion" and str(made.body["version"]) == version),
        None,
    )
    body = promoted.body if promoted else {}
    return Version(
        version,
        promoted.seq if promoted else None,
        promoted.at if promoted else None,
        (body.get("gate") or {}).get("metric"),
        dict(body.get("metrics") or {}),
        tuple(body.get("reasons") or ()),
    )
