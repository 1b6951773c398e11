"""Compare the online rows of a sample of entities with the rows that the snapshot gives. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Entity = int | str


@dataclass(frozen=True)
class ViewRow:
    """Features of one entity, and the event time (UTC) from which they hold. A text shows no value."""

    features: Mapping[str, Any]
    at: datetime

    def __repr__(self) -> str:
        return f"ViewRow({len(self.features)} features)"


@dataclass(frozen=True)
class EntitySet:
    """All entities of one side: their number, and a sum of their hashes that does not depend on their order."""

    count: int
    digest: int


@dataclass(frozen=True)
class ViewSkew:
    """Result for one view. Of `compared` entities, `differing` have other values or another event time online,
    `missing` are not online, and `extra` are online but not in the snapshot.

    `offline` and `online` count all entities of the two sides; `same_entities`: the two sides have the same ones. No
    key is told, nor its hash: trying all short keys finds the one of a hash.
    """

    view: str
    compared: int
    differing: int
    missing: int
    extra: int
    offline: int
    online: int
    same_entities: bool

    @property
    def entities(self) -> int:
        """Return the number of entities known to differ; at least 1 if the two sides have other entities."""
        found = self.differing + self.missing + self.extra
        return found if self.same_entities else max(found, abs(self.offline - self.online), 1)


def compare(
    view: str,
    offline: Mapping[Entity, ViewRow],
    online: Mapping[Entity, ViewRow],
    all_offline: EntitySet,
    all_online: EntitySet,
) -> ViewSkew:
    """Return how the two sides of a sample differ. Each side has the sampled entities that exist there."""
    both = offline.keys() & online.keys()
    return ViewSkew(
        view,
        len(offline.keys() | online.keys()),
        sum(not same_row(offline[entity], online[entity]) for entity in both),
        len(offline) - len(both),
        len(online) - len(both),
        all_offline.count,
        all_online.count,
        all_offline == all_online,
    )


def same_row(left: ViewRow, right: ViewRow) -> bool:
    """Return whether two rows have the same event time, the same features, and the same typed values."""
    return (
        left.at == right.at
        and left.features.keys() == right.features.keys()
        and all(same_value(value, right.features[name]) for name, value in left.features.items())
    )


def same_value(left: object, right: object) -> bool:
    """Return whether two values are the same: of one type and equal. NaN equals NaN; NULL equals only NULL."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return left == right
