"""Which restore points to keep: the newest of each hour, day, week and month, as rempart.yaml asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC

from rempart.backup import points
from rempart.sections import Keep
from rempart.sites.port import Site

FLOOR = 3
"""So many newest points are kept whatever the rules say."""
_PERIODS = (("hourly", "%Y%m%d%H"), ("daily", "%Y%m%d"), ("weekly", "%G%V"), ("monthly", "%Y%m"))


@dataclass(frozen=True)
class RetentionPlan:
    """Ids to keep with the reasons, and ids to prune; each newest first."""

    keep: dict[str, tuple[str, ...]]
    prune: tuple[str, ...]


def plan(point_ids: Iterable[str], keep: Keep, *, floor: int = FLOOR) -> RetentionPlan:
    """Keep the newest point of each of the last N hours, days, weeks and months that have one, and the `floor` newest.

    Periods are counted by the points that exist, not back from now: neither a pause nor a wrong clock of this machine
    prunes the last good points. All times are UTC.
    """
    ordered = sorted(set(point_ids), reverse=True)
    reasons: dict[str, list[str]] = {point: [] for point in ordered}
    for point in ordered[: max(1, floor)]:
        reasons[point].append("newest")
    for rule, pattern in _PERIODS:
        periods: set[str] = set()
        for point in ordered:
            period = points.created_at(point).astimezone(UTC).strftime(pattern)
            if period not in periods and len(periods) < getattr(keep, rule):
                periods.add(period)
                reasons[point].append(rule)
    return RetentionPlan(
        {point: tuple(why) for point, why in reasons.items() if why},
        tuple(point for point, why in reasons.items() if not why),
    )


def prune(site: Site, bucket: str, wanted: RetentionPlan, *, dry_run: bool = True) -> tuple[str, ...]:
    """Delete the points to prune, each manifest first: a point that loses a dump must not look like one."""
    if not dry_run:
        for point in wanted.prune:
            site.delete(bucket, f"{points.prefix(point)}manifest.json")
            for info in tuple(site.list(bucket, points.prefix(point))):
                site.delete(bucket, info.key)
    return wanted.prune
