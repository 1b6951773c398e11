"""Aggregates that are made of sums: each value is added when it begins to count, and subtracted when it ends.

Sums are `numeric`, so exact: neither the order of rows nor rows that left a window affect a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from psycopg import sql

from rempart.features.aggregates.spans import Trailing, end, first, value
from rempart.settings.learning import Aggregate

Kind = Literal["rows", "values", "sum", "squares", "hits", "distinct"]
_KINDS: dict[str, tuple[Kind, ...]] = {
    "rows": ("rows",),
    "count": ("values",),
    "sum": ("sum",),
    "mean": ("sum", "values"),
    "std": ("sum", "squares", "values"),
    "share": ("hits", "values"),
    "distinct": ("distinct",),
}
"""The sums of which an aggregate is made."""


@dataclass(frozen=True)
class Sum:
    """One running sum: of rows, of a column's values, squares, hits of a share, or different values in a window."""

    kind: Kind
    window: str
    column: str | None = None
    value: str | None = None

    @property
    def type(self) -> sql.SQL:
        return sql.SQL("numeric" if self.kind in ("sum", "squares") else "bigint")

    def of_row(self) -> sql.Composable:
        """Return what a row adds; null for nothing."""
        column = value(self.column or "")
        if self.kind == "rows":
            return sql.SQL("1")
        if self.kind == "values":
            return sql.SQL("CASE WHEN {} IS NOT NULL THEN 1 END").format(column)
        if self.kind == "hits":
            hit = sql.SQL("{}").format(column) if self.value is None else sql.SQL("{} = {}").format(column, self.value)
            return sql.SQL("CASE WHEN {} THEN 1 END").format(hit)
        if self.kind == "sum":
            return sql.SQL("{}::numeric").format(column)
        return sql.SQL("numeric_mul({c}::numeric, {c}::numeric)").format(c=column)


class Sums:
    """The sums of a trailing view, and the columns that hold them."""

    def __init__(self, made: Trailing) -> None:
        self.made = made
        wanted = (sum_ for aggregate in made.view.aggregates() for sum_ in _sums(aggregate))
        self.all = list(dict.fromkeys([*wanted, Sum("rows", made.longest)]))

    def named(self, wanted: Sum) -> sql.Identifier:
        return sql.Identifier(f"sum {self.all.index(wanted)}")

    def changes(self) -> sql.Composed:
        """Return the query of all changes, from `spans`: entity, tick, whether it is `shown`, and each sum's change."""
        return sql.SQL(" UNION ALL ").join([*self._begins(), *self._ends(), *self._distinct()])

    def steps(self) -> sql.Composed:
        """Return the query of each entity's sums after each tick, from `changes`; `step` numbers the ticks from 0."""
        return sql.SQL(
            "SELECT entity, tick, bool_or(shown) AS shown, row_number() OVER ticks - 1 AS step, {} FROM changes"
            " GROUP BY entity, tick"
            " WINDOW ticks AS (PARTITION BY entity ORDER BY tick ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
        ).format(
            sql.SQL(", ").join(
                sql.SQL("coalesce(sum(sum({n})) OVER ticks, 0) AS {n}").format(n=self.named(each)) for each in self.all
            )
        )

    def result(self, aggregate: Aggregate) -> sql.Composable:
        """Return the value of an aggregate from the sums of a tick."""
        sums = {each.kind: sql.SQL("{}").format(self.named(each)) for each in _sums(aggregate)}
        count = sql.SQL("{}::float8").format(sums.get("values", sql.SQL("0")))
        match aggregate.function:
            case "mean":
                return sql.SQL("{}::float8 / NULLIF({}, 0)").format(sums["sum"], count)
            case "share":
                return sql.SQL("{}::float8 / NULLIF({}, 0)").format(sums["hits"], count)
            case "sum":
                return sql.SQL("{}::float8").format(sums["sum"])
            case "std":
                return sql.SQL(
                    "CASE WHEN {n} > 1 THEN sqrt(greatest(0,"
                    " (numeric_mul({n}::numeric, {q}) - numeric_mul({s}, {s}))::float8 / (({c} - 1) * {c}))) END"
                ).format(n=sums["values"], c=count, q=sums["squares"], s=sums["sum"])
            case _:
                return sql.SQL("{}::bigint").format(*sums.values())

    def _begins(self) -> Iterator[sql.Composable]:
        for delay in self.made.delays:
            own = [self._signed(each, "" if self.made.delay(each.column) == delay else None) for each in self.all]
            yield sql.SQL("SELECT entity, {f} AS tick, true AS shown, {own} FROM spans WHERE {f} < {e}").format(
                f=first(delay), own=sql.SQL(", ").join(own), e=end(self.made.longest)
            )

    def _ends(self) -> Iterator[sql.Composable]:
        daily = self.made.view.days is not None
        for window in self.made.view.spans:
            own = [self._signed(each, "-" if each.window == window else None) for each in self.all]
            yield sql.SQL("SELECT entity, {e} AS tick, {shown} AS shown, {own} FROM spans WHERE {f} < {e}").format(
                e=end(window),
                f=first(""),
                shown=sql.SQL("coalesce({} = past, false)" if daily else "{} IS NOT NULL").format(end(window)),
                own=sql.SQL(", ").join(own),
            )

    def _signed(self, each: Sum, sign: str | None) -> sql.Composable:
        """Return what a row adds to a sum while it counts at all; null for no sign."""
        if sign is None or each.kind == "distinct":
            return sql.SQL("NULL::{} AS {}").format(each.type, self.named(each))
        return sql.SQL("CASE WHEN {f} < {e} THEN {sign}({own})::{type} END AS {name}").format(
            name=self.named(each),
            f=first(self.made.delay(each.column)),
            e=end(each.window),
            sign=sql.SQL("-" if sign else ""),
            own=each.of_row(),
            type=each.type,
        )

    def _distinct(self) -> Iterator[sql.Composable]:
        """Yield the changes of numbers of different values: a row adds the time in which no earlier one has it."""
        for each in self.all:
            if each.kind != "distinct":
                continue
            covered = sql.SQL(
                "SELECT entity, {f} AS f, {e} AS e, max({e}) OVER (PARTITION BY entity, {v} ORDER BY {f}, {e}"
                " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach FROM spans"
                " WHERE {v} IS NOT NULL AND {f} < {e}"
            ).format(f=first(self.made.delay(each.column)), e=end(each.window), v=value(each.column or ""))
            for tick, step in (("greatest(f, reach)", "1"), ("e", "-1")):
                own = [
                    sql.SQL("{}::bigint").format(sql.SQL(step))
                    if other == each
                    else sql.SQL("NULL::{}").format(other.type)
                    for other in self.all
                ]
                yield sql.SQL(
                    "SELECT entity, {tick} AS tick, false AS shown, {own} FROM ({covered}) c"
                    " WHERE reach IS NULL OR e > reach"
                ).format(tick=sql.SQL(tick), own=sql.SQL(", ").join(own), covered=covered)


def _sums(aggregate: Aggregate) -> list[Sum]:
    return [
        Sum(kind, aggregate.window, aggregate.column, aggregate.value if kind == "hits" else None)
        for kind in _KINDS.get(aggregate.function, ())
    ]
