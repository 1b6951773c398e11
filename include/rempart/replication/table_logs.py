"""Copy the log of an open table (Delta Lake) after its data files: a reader of the target finds each file it names.

A version of a log waits until the target has every data file that it adds, and the later versions of its table wait
with it: a log with a gap cannot be read. The wait ends with the next run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from rempart.errors import ObjectMissing, SiteError
from rempart.replication.catalogue import Catalogue
from rempart.replication.outcome import Outcome
from rempart.replication.plan import DAMAGED, KeyPlan, Replica
from rempart.sites.port import Site

_LOG = re.compile(r"(.+/)_delta_log/(\d{20})(\.json|\.checkpoint\.parquet)")


def table_of(key: str) -> str | None:
    """Return the root of the table whose log this object belongs to; None for other objects."""
    found = _LOG.fullmatch(key)
    return found[1] if found else None


def in_order(plans: Iterable[KeyPlan]) -> list[KeyPlan]:
    """Return plans of log objects by table and version, a checkpoint after its version."""

    def place(plan: KeyPlan) -> tuple[str, int, bool]:
        found = _LOG.fullmatch(plan.key)
        return (found[1], int(found[2]), found[3] != ".json") if found else (plan.key, 0, False)

    return sorted(plans, key=place)


def data_files(body: bytes) -> list[str]:
    """Return the paths of the data files that one version adds. Other lines name none."""
    paths = []
    for line in body.split(b"\n"):
        try:
            path = json.loads(line)["add"]["path"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(path, str):
            paths.append(path)
    return paths


def is_there(rows: Iterable[Replica]) -> bool:
    """Return whether readers of the target find an object, by its rows in the catalogue."""
    newest = max(rows, key=lambda row: row.place, default=None)
    return newest is not None and not (newest.marker or newest.hidden or newest.target_etag == DAMAGED)


class TableLogs:
    """Copies log objects of one bucket. `carry` copies plans and records their replicas."""

    def __init__(
        self, source: Site, bucket: str, catalogue: Catalogue, carry: Callable[[Sequence[KeyPlan]], Outcome]
    ) -> None:
        self._source, self._bucket, self._catalogue, self._carry = source, bucket, catalogue, carry
        self.waiting: set[str] = set()
        """Roots of tables whose log is not complete at the target. Their data files must not be hidden."""

    def copy(self, plans: Iterable[KeyPlan]) -> Outcome:
        """Copy versions in order. Those of a table that has to wait are pending. Raises LeaseLost."""
        outcome = Outcome()
        for plan in in_order(plans):
            table = table_of(plan.key) or ""
            try:
                if table in self.waiting or self._lacks_files(table, plan):
                    self.waiting.add(table)
                    outcome.waits(plan.copies)
                    continue
            except SiteError as error:
                self.waiting.add(table)
                outcome.trouble(plan.key, error, plan.copies)
                continue
            carried = self._carry([plan])
            if carried.failures:
                self.waiting.add(table)
            outcome.add(carried)
        return outcome

    def keeps(self, key: str) -> bool:
        """Return whether an object must stay readable at the target, because a log there may name it."""
        return any(key.startswith(table) for table in self.waiting)

    def unnamed(self, plans: Iterable[KeyPlan], outcome: Outcome) -> Iterator[KeyPlan]:
        """Yield the plans of objects that may be hidden at the target; the others are pending."""
        for plan in plans:
            if self.keeps(plan.key):
                outcome.waits(plan.copies)
            else:
                yield plan

    def _lacks_files(self, table: str, plan: KeyPlan) -> bool:
        """Return whether the target lacks a data file that the source has. What both lack is named in vain by both."""
        if not plan.key.endswith(".json"):
            return False
        info = plan.copies[-1].source
        body = self._source.read(self._bucket, plan.key, version_id=info.version_id)
        rows: dict[str, list[Replica]] = {f"{table}{path}": [] for path in data_files(body)}
        for row in self._catalogue.of_keys(self._bucket, list(rows)):
            rows[row.key].append(row)
        return any(not is_there(found) and self._is_at_source(key) for key, found in rows.items())

    def _is_at_source(self, key: str) -> bool:
        try:
            self._source.head(self._bucket, key)
        except ObjectMissing:
            return False
        return True
