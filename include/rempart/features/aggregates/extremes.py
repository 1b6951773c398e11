"""Aggregates that cannot be subtracted: the smallest, the largest, the latest of the values that count at a tick.

A value counts at the steps [lo, hi) of its entity. These are cut into blocks of 1, 2, 4, ... steps, at most two of each
size, as in a segment tree. The best value of each block is found once; that of a step is the best of the blocks around
it, one for each size. So work grows with n log n, however many values a window holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from psycopg import sql

from rempart.features.aggregates.spans import Trailing, end, first, value
from rempart.settings.learning import SINCE_LAST

LAST_ROW = f"last {SINCE_LAST}"
"""The tick of the last row of an entity, beside the features of `Extremes.results`."""


@dataclass
class SpanSet:
    """The features that are made of the same spans: of values known from the same moment, in the same window.

    `best`: by feature, the function (min or max) and what it compares; `latest`: features that are a column's value in
    the row of that place.
    """

    delay: str
    window: str
    best: dict[str, tuple[str, sql.Composable]] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)


def groups(made: Trailing) -> list[SpanSet]:
    """Return the groups of a view's aggregates; none if it has no aggregate of this kind."""
    found: dict[tuple[str, str], SpanSet] = {}

    def group(delay: str, window: str) -> SpanSet:
        return found.setdefault((delay, window), SpanSet(delay, window))

    for aggregate in made.view.aggregates():
        column = aggregate.column or ""
        of = (made.delay(column), aggregate.window) if column else ("", "")
        if aggregate.function in ("min", "max"):
            group(*of).best[aggregate.feature] = (aggregate.function, value(column))
        elif aggregate.function == "last":
            place = sql.SQL("CASE WHEN {} IS NOT NULL THEN place END").format(value(column))
            group(*of).best[aggregate.feature] = ("max", place)
            group(*of).latest[aggregate.feature] = column
    if made.view.since_last:
        group("", made.longest).best[LAST_ROW] = ("max", sql.SQL("moment"))
    return list(found.values())


def parts(groups: list[SpanSet]) -> Iterator[tuple[str, sql.Composable]]:
    """Yield names and queries of what leads from `spans` and `steps` to `best N`, one for each group."""
    if groups:
        yield (
            "sizes",
            sql.SQL(
                "SELECT size::integer AS size FROM generate_series(0, 40) AS g(size)"
                " WHERE (1::bigint << size::integer) <= (SELECT max(step) + 1 FROM steps)"
            ),
        )
    for number, group in enumerate(groups):
        best = [sql.SQL("{}({n}) AS {n}").format(sql.SQL(f), n=sql.Identifier(n)) for n, (f, _) in group.best.items()]
        names = sql.SQL(", ").join(sql.Identifier(name) for name in group.best)
        yield (
            f"counted {number}",
            sql.SQL(
                "SELECT s.entity, b.step AS lo, e.step AS hi, {values} FROM spans s"
                " JOIN steps b ON b.entity = s.entity AND b.tick = s.{first}"
                " JOIN steps e ON e.entity = s.entity AND e.tick = s.{end} WHERE s.{first} < s.{end}"
            ).format(
                values=sql.SQL(", ").join(
                    sql.SQL("{} AS {}").format(made, sql.Identifier(name)) for name, (_, made) in group.best.items()
                ),
                first=first(group.delay),
                end=end(group.window),
            ),
        )
        yield (
            f"blocks {number}",
            sql.SQL(
                "SELECT entity, size, block, {best} FROM ("
                "SELECT entity, size, (lo + (1::bigint << size) - 1) >> size AS block, hi >> size AS beyond, 1 AS side,"
                " {names} FROM {counted} CROSS JOIN sizes WHERE (1::bigint << size) <= hi - lo"
                " UNION ALL"
                " SELECT entity, size, (hi >> size) - 1, (lo + (1::bigint << size) - 1) >> size, 0,"
                " {names} FROM {counted} CROSS JOIN sizes WHERE (1::bigint << size) <= hi - lo"
                ") c WHERE CASE WHEN side = 1 THEN block % 2 = 1 AND block < beyond"
                " ELSE block % 2 = 0 AND beyond <= block END GROUP BY entity, size, block"
            ).format(best=sql.SQL(", ").join(best), names=names, counted=sql.Identifier(f"counted {number}")),
        )
        yield (
            f"best {number}",
            sql.SQL(
                "SELECT p.entity, p.step, {best} FROM steps p CROSS JOIN (SELECT DISTINCT size FROM {blocks}) z"
                " JOIN {blocks} b ON b.entity = p.entity AND b.size = z.size AND b.block = p.step >> z.size"
                " WHERE p.shown GROUP BY p.entity, p.step"
            ).format(best=sql.SQL(", ").join(best), blocks=sql.Identifier(f"blocks {number}")),
        )


def joins(groups: list[SpanSet]) -> tuple[dict[str, sql.Composable], sql.Composable]:
    """Return each feature's value, and the joins that give them to the rows `p` of `steps`."""
    values: dict[str, sql.Composable] = {}
    joined: list[sql.Composable] = []
    for number, group in enumerate(groups):
        best = f"best {number}"
        joined.append(
            sql.SQL(" LEFT JOIN {b} ON {b}.entity = p.entity AND {b}.step = p.step").format(b=sql.Identifier(best))
        )
        for feature in group.best:
            values[feature] = sql.Identifier(best, feature)
        for feature, column in group.latest.items():
            row = f"row {feature}"
            joined.append(
                sql.SQL(" LEFT JOIN spans {r} ON {r}.entity = p.entity AND {r}.place = {place}").format(
                    r=sql.Identifier(row), place=values[feature]
                )
            )
            values[feature] = sql.SQL("{}.{}").format(sql.Identifier(row), value(column))
    return values, sql.SQL("").join(joined)
