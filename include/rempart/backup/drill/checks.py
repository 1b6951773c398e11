"""Compare restored data with the record of a restore point. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rempart.counts import counted

if TYPE_CHECKING:
    from rempart.backup.points.points import Dump

_MARKS = {True: "ok", False: "FAILED", None: "not run"}
_LABELS = {"feast_online": "online features", "ledger": "evidence"}


@dataclass(frozen=True)
class RestoreCheck:
    """One check.

    `ok` is None if the check could not run: it does not count as passed, and `detail` gives the reason.
    """

    what: str
    ok: bool | None
    detail: str

    @property
    def line(self) -> str:
        """Return the check as a line for people: `ok: evidence: no row is lost (9 rows, the point says 9)`."""
        return f"{_MARKS[self.ok]}: {self.what} ({self.detail.removeprefix('not run: ')})"


def equal_tables(
    what: str, wanted: Mapping[str, int | str], restored: Mapping[str, int | str], *, show: bool
) -> RestoreCheck:
    """Check that exactly these tables exist, with equal counts or digests. Values are shown only with `show`."""
    wrong = [
        f"{table}: {restored.get(table, 'missing')} instead of {wanted.get(table, 'absent')}" if show else table
        for table in sorted(wanted.keys() | restored.keys())
        if wanted.get(table) != restored.get(table)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return RestoreCheck(what, False, f"differs: {'; '.join(wrong[:5])}{more}")
    total = f", {counted(sum(int(n) for n in wanted.values()), 'row')}" if show else ""
    tables = counted(len(wanted), "table")
    return RestoreCheck(what, bool(wanted), f"{tables}{total}" if wanted else "the dump holds no table")


def restored_as_recorded(database: str) -> str:
    """Return the name of the check that compares the rows of a restored database with its record."""
    return f"database {database} is restored with the rows on record"


def of_database(what: str, dump: Dump, rows: Mapping[str, int], content: Mapping[str, str]) -> list[RestoreCheck]:
    """Compare a restored database with its record: row counts, and content if the point has digests."""
    if not dump.tables and not rows:
        checks = [RestoreCheck(what, None, "not run: the database held no table when the restore point was created")]
    else:
        checks = [equal_tables(what, dump.tables, rows, show=True)]
    if dump.digests:
        label = _LABELS.get(dump.name, dump.name)
        checks.append(equal_tables(f"{label} are equal in content", dump.digests, content, show=False))
    return checks


def equal_count(what: str, table: str, wanted: Mapping[str, int], restored: Mapping[str, int]) -> RestoreCheck:
    """Check that one table has the recorded number of rows."""
    if table not in wanted:
        return RestoreCheck(what, False, f"the point holds no table {table}")
    return RestoreCheck(
        what, wanted[table] == restored.get(table), f"{restored.get(table, 'no')} rows, the point says {wanted[table]}"
    )


def equal_predictions(what: str, restored: Sequence[float], live: Sequence[float]) -> RestoreCheck:
    """Check that both models predict the same finite numbers for all rows, at least one."""
    if len(restored) != len(live) or not len(live):
        return RestoreCheck(what, False, f"{len(restored)} and {counted(len(live), 'prediction')}")
    differing = sum(a != b for a, b in zip(restored, live, strict=True))  # NaN differs from all
    infinite = sum(abs(a) == float("inf") for a in restored)
    if differing or infinite:
        return RestoreCheck(what, False, f"{differing + infinite} of {len(live)} predictions differ")
    return RestoreCheck(what, True, f"{len(live)} predicted figures of held-out rows, all equal")


def passed(checks: Iterable[RestoreCheck]) -> bool:
    """Return whether no check failed and at least one ran."""
    outcomes = [check.ok for check in checks]
    return False not in outcomes and True in outcomes


def passed_of(outcomes: Iterable[bool | None]) -> tuple[int, int]:
    """Return how many checks of a drill passed, and of how many: its two objectives (RPO, RTO) are checks, too."""
    known = list(outcomes)
    return known.count(True), len(known)


def passed_told(outcomes: Iterable[bool | None]) -> str:
    """Return how many checks of a drill passed, and how many could not run, in words."""
    known = list(outcomes)
    passed, count = passed_of(known)
    not_run = f" ({known.count(None)} not run)" if None in known else ""
    return f"{passed} of {count} checks passed{not_run}"


def within(what: str, seconds: float | None, objective: timedelta) -> RestoreCheck:
    """Check an objective. The check does not run if nothing was measured."""
    wanted = objective.total_seconds()
    if seconds is None:
        return RestoreCheck(what, None, f"not run: nothing was measured; the objective is {wanted:.0f} s")
    return RestoreCheck(what, seconds <= wanted, f"{seconds:.0f} s, the objective is {wanted:.0f} s")
