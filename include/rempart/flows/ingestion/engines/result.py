"""Result of an engine for new deliveries; nothing of it is committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.refused import Refused
from rempart.ingestion.snapshots import Part, Snapshot


@dataclass(frozen=True)
class EngineResult:
    """New deliveries, each with its number of rows and its refused ones, which go to quarantine; and the snapshot to
    commit.

    `held`: positions of deliveries that are held back. `snapshot`: that with the accepted rows, or the one before.
    `added`: its parts that are not at the site yet.
    """

    deliveries: Sequence[StagedDelivery]
    delivered: Sequence[int]
    refused: Sequence[Refused]
    held: frozenset[int]
    snapshot: Snapshot | None
    added: Sequence[tuple[Part, Path]] = ()
