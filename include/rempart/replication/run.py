"""Run a pair's replication for one bucket, in three stages that may be three processes: plan, carry, settle.

`plan` lists both sites completely before any change, and stores pieces of work. `carry` copies one piece. `settle`
confirms the copies, hides objects that are gone at the source within the limits, and purges long-hidden ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path

from rempart.coordination.lease import Lease
from rempart.errors import IntegrityError, ObjectMissing, ReplicationError, SiteError
from rempart.replication.catalogue import Catalogue, found_again, sighted
from rempart.replication.confirm import Confirmation, Lost, Sample, doubt_listing, doubt_source
from rempart.replication.guards import may_hide, stop_and_ask
from rempart.replication.outcome import SAMPLES, SHOWN, Outcome, Planned, Rules
from rempart.replication.pieces import Pieces
from rempart.replication.plan import (
    ACCEPTED,
    DAMAGED,
    Copy,
    KeyPlan,
    Replica,
    Tally,
    differing,
    merge,
    plan_key,
    recount,
    risks,
)
from rempart.replication.table_logs import TableLogs, table_of
from rempart.replication.transfer import KeyResult, Mover, as_stored, see_hidden
from rempart.replication.work import Store, ahead, decode, decode_row, encode_row, in_order
from rempart.sites.capabilities import CapabilityRecord
from rempart.sites.port import ObjectInfo, Site

RECORDED = 500
"""Replicas that are written to the catalogue at a time."""
CLOSER = 1000
"""Maximum number of changed keys that are examined one by one.

Above it the whole bucket is compared, unless they are few among all keys.
"""
NOT_SHOWN = ("replica missing", "replica altered")
"""Reason for copying again: the target's listing does not show a replica as stored."""


class BucketRun:
    """The stages for one bucket of a pair. `pool`: threads of the requests; `skip`: keys that are not replicated."""

    def __init__(
        self,
        source: Site,
        target: Site,
        bucket: str,
        catalogue: Catalogue,
        lease: Lease,
        able: tuple[CapabilityRecord, CapabilityRecord],
        rules: Rules,
        mover: Mover,
        pool: ThreadPoolExecutor,
        clock: Callable[[], datetime],
        skip: Callable[[str], bool] = lambda key: False,
    ) -> None:
        self._source, self._target, self._bucket = source, target, bucket
        self._catalogue, self._lease, self._rules = catalogue, lease, rules
        self._source_able, self._target_able = able
        self._mover, self._pool, self._clock, self._skip = mover, pool, clock, skip

    # --- plan ---------------------------------------------------------------------------------------------------------

    def plan(self, store: Store, folder: Path) -> Planned:
        """Compare both sites. Changes only the sightings of missing objects, after both complete listings.

        All versions of all keys are compared once in `rules.compare`; otherwise only what readers find, and all
        versions of differing keys. Raises SiteError, LeaseLost.
        """
        began, tally, outcome, todo = self._clock(), Tally(), Outcome(), Outcome()
        both = self._source.keeps_versions(self._bucket) and self._target.keeps_versions(self._bucket)
        compared = self._catalogue.compared(self._bucket) if both else None
        key_plans: Iterable[KeyPlan] | None = None
        if compared and began - compared < self._rules.compare:
            key_plans = self._differing(folder, tally, began)
        if not (quick := key_plans is not None):
            tally = Tally()
            key_plans = merge(
                self._of_source(folder, both),
                self._catalogue.rows(self._bucket),
                self._listing(self._target, self._target_able, folder, both),
                tally,
                superseded_before=began - self._rules.keep,
                where=self._where,
            )
        doubted: list[Copy] = []
        unlisted, unshown = Sample(), 0
        pieces = tuple(Pieces(store, f"{self._bucket}-{name}") for name in ("copy", "hide", "last"))
        sightings = folder / f"{self._bucket}-sightings"
        with sightings.open("wb") as seen:
            for plan in key_plans or ():
                if plan.copies and plan.copies[0].why in NOT_SHOWN:
                    unshown += 1
                    doubted += [plan.copies[0]] if len(doubted) < SHOWN else []
                if lacking := self._lacking(plan):
                    outcome.trouble(plan.key, _mixed_up(plan.key, lacking, self._target.name), plan.copies)
                elif plan.copies or plan.surplus:
                    last = plan.copies and not plan.hides and table_of(plan.key)
                    pieces[2 if last else plan.hides].add(plan)
                    todo.waits(plan.copies)
                for row in plan.missing:
                    seen.write(encode_row(sighted(row, began)))
                    if not (row.marker or row.hidden or self._skip(row.key)):
                        unlisted.add(row)
                for row in plan.back:
                    seen.write(encode_row(found_again(row)))
        self._doubt(doubted, unshown, tally)
        doubt_source(self._source, self._bucket, unlisted, both, self._pool)
        self._lease.check()
        self._record_sightings(sightings)
        if both and not quick:
            self._catalogue.note_comparison(self._bucket, began, self._lease)
        outcome.objects, outcome.bytes, outcome.kept = tally.objects, tally.bytes, tally.kept
        outcome.verified, outcome.accepted = tally.current, tally.accepted
        outcome.unread, outcome.unvouched = tally.unread, tally.unvouched
        copy, hide, logs = (piece.close() for piece in pieces)
        return Planned(self._bucket, began, copy, hide, both, tally.hides, tally.known, outcome, todo, logs)

    def _doubt(self, doubted: Sequence[Copy], unshown: int, tally: Tally) -> None:
        """Request some replicas that the target's listing lacks by name. Raises SiteError if they exist."""
        if not doubted:
            return
        rows: dict[str, list[Replica]] = {copy.source.key: [] for copy in doubted}
        for row in self._catalogue.of_keys(self._bucket, list(rows)):
            rows[row.key].append(row)
        sample = []
        for copy in doubted:
            known = rows[copy.source.key]
            same = [replica for replica in known if replica.version == (copy.source.version_id or "")] or known
            if len(same) == 1 and not (same[0].marker or same[0].hidden):  # listed without versions it has one
                sample.append((same[0], same[0].place == max(replica.place for replica in known)))
        doubt_listing(self._target, self._bucket, sample, unshown, tally.known, self._pool)

    def _of_source(self, folder: Path, versions: bool) -> Iterator[ObjectInfo]:
        listed = self._listing(self._source, self._source_able, folder, versions)
        return (info for info in listed if not self._skip(info.key))

    @property
    def _where(self) -> str:
        return f"{self._bucket} at site '{self._source.name}'"

    def _differing(self, folder: Path, tally: Tally, now: datetime) -> Iterator[KeyPlan] | None:
        """Return plans of keys that differ for readers; None if there are many: then all are compared."""
        differences: list[tuple[str, bool]] = []
        known = self._catalogue.rows(self._bucket)
        target = self._listing(self._target, self._target_able, folder, False)
        seen = Tally()
        for difference in differing(self._of_source(folder, False), known, target, seen, self._where):
            differences.append(difference)
            if len(differences) > max(CLOSER, seen.objects // 20):
                return None
        unsettled = {key for key, _ in differences}
        tally.__dict__.update(seen.__dict__)
        return self._closer(differences, tally, now) if unsettled else iter(())

    def _closer(self, differences: list[tuple[str, bool]], tally: Tally, now: datetime) -> Iterator[KeyPlan]:
        def look(key: str) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
            return self._history(self._source, key), self._history(self._target, key)

        wanted = dict(differences)
        rows: dict[str, list[Replica]] = {key: [] for key in wanted}
        for row in self._catalogue.of_keys(self._bucket, list(wanted)):
            rows[row.key].append(row)
        for key, (mine, there) in zip(wanted, self._pool.map(look, wanted), strict=True):
            plan = plan_key(key, mine, rows[key], there)
            recount(tally, plan, mine, rows[key], there)
            if plan:
                yield replace(plan, folder=wanted[key])

    def _history(self, site: Site, key: str) -> list[ObjectInfo]:
        """Return all versions of one key, newest first."""
        history = []
        for version in site.versions(self._bucket, key):
            if version.key == key:
                history.append(version)
            elif history:
                break
        return history

    def _listing(self, site: Site, able: CapabilityRecord, folder: Path, versions: bool) -> Iterator[ObjectInfo]:
        ask = site.versions if versions else site.list
        listing = ahead(ask(self._bucket))
        return listing if able.outcome("listing order") == "proven" else in_order(listing, folder)

    def _lacking(self, plan: KeyPlan) -> list[str]:
        """Return the unproven capabilities of the target that keep a key apart from others."""
        if not plan.copies:
            return []
        wanted = risks(plan.key, folder=plan.folder)
        return sorted(name for name in wanted if self._target_able.outcome(name) != "proven")

    def _record_sightings(self, file: Path) -> None:
        with file.open("rb") as seen:
            while lines := list(islice(seen, RECORDED)):
                self._catalogue.record(self._bucket, [decode_row(line) for line in lines], self._lease)

    # --- carry --------------------------------------------------------------------------------------------------------

    def carry(self, body: bytes, report: Callable[[KeyResult], object] | None = None) -> Outcome:
        """Copy one piece. A failed key does not stop the others. Raises LeaseLost."""
        return self._carry(decode(body), report)

    def _carry(self, plans: Iterable[KeyPlan], report: Callable[[KeyResult], object] | None = None) -> Outcome:
        outcome = Outcome()
        batch: list[Replica] = []
        waiting: dict[Future[KeyResult], KeyPlan] = {}
        more = iter(plans)

        def take(done: Iterable[Future[KeyResult]]) -> None:
            for future in done:
                plan, carried = waiting.pop(future), future.result()
                batch.extend(carried.replicas)
                self._account(outcome, plan, carried)
                if report:
                    report(carried)

        try:
            for plan in more:
                self._lease.check()
                if plan.copies:
                    waiting[self._pool.submit(self._mover.carry, plan)] = plan
                self._drop_surplus(plan, outcome)
                if len(waiting) >= 2 * self._rules.transfers:
                    take(wait(waiting, return_when=FIRST_COMPLETED).done)
                if len(batch) >= RECORDED:
                    self._catalogue.record(self._bucket, batch, self._lease)
                    batch.clear()
            take(wait(waiting).done)
        finally:
            for started in waiting:  # of a run that broke off
                started.cancel()
            wait(waiting)
            if not self._lease.lost.is_set():
                self._catalogue.record(self._bucket, batch, self._lease)
        return outcome

    def _account(self, outcome: Outcome, plan: KeyPlan, carried: KeyResult) -> None:
        outcome.copied += carried.put
        outcome.copied_bytes += carried.bytes
        outcome.hidden += carried.hidden
        if len(outcome.lags) < SAMPLES:
            outcome.lags += [(replica.copied - replica.modified).total_seconds() for replica in carried.replicas]
        if carried.failure:
            outcome.trouble(plan.key, carried.failure.error, carried.left)
        elif not plan.copies[-1].source.marker:
            outcome.arrived(carried.replicas[-1])

    def _drop_surplus(self, plan: KeyPlan, outcome: Outcome) -> None:
        for version in plan.surplus:
            try:
                self._target.delete(self._bucket, plan.key, version_id=version.version_id)
            except SiteError as error:
                outcome.trouble(plan.key, error, ())
            else:
                outcome.purged += 1

    # --- settle -------------------------------------------------------------------------------------------------------

    def settle(
        self, planned: Planned, store: Store, folder: Path, accepted: int = 0
    ) -> tuple[Outcome, ReplicationError | None]:
        """Confirm copies, copy logs of tables, hide deleted objects, purge long-hidden ones.

        The returned error means that more is gone at the source than the limits allow; then nothing was hidden. Raises
        SiteError, LeaseLost.
        """
        outcome, now = Outcome(), self._clock()
        gone = list(self._ripe(now))
        hides = planned.hides + len(gone)
        why = stop_and_ask(hides, planned.known, self._rules.limits, accepted)
        outcome.add(self._confirm(planned, folder))
        logs = TableLogs(self._source, self._bucket, self._catalogue, self._carry)
        outcome.add(logs.copy(plan for piece in planned.last for plan in decode(store.get(piece))))
        outcome.add(self._confirm(planned, folder, logs=True) if planned.last else Outcome())
        for piece in () if why else planned.hiding:
            outcome.add(self._carry(logs.unnamed(decode(store.get(piece)), outcome)))
        if why:
            return outcome, ReplicationError(
                f"replicate {self._bucket} from site '{self._source.name}': {why}. Nothing was hidden at site "
                f"'{self._target.name}'",
                f"If the deletions are intended, run `rempart site replicate {self._source.name} {self._target.name} "
                f"--accept-deletes {hides}`. If not, the objects are still at the target: "
                "docs/runbooks/replica.md.",
            )
        if self._target_able.outcome("delete markers") == "proven" and self._target.keeps_versions(self._bucket):
            for rows in gone:
                if logs.keeps(rows[0].key):
                    continue
                self._target.delete(self._bucket, rows[0].key)
                try:
                    see_hidden(self._target, self._bucket, rows[0].key)
                except IntegrityError as error:
                    outcome.trouble(rows[0].key, error, ())
                    continue
                self._catalogue.record(self._bucket, [replace(row, hidden=now) for row in rows], self._lease)
                outcome.hidden += 1
            outcome.purged += self._purge(now)
        return outcome, None

    def _ripe(self, now: datetime) -> Iterator[list[Replica]]:
        """Return the replicas of deleted keys that may be hidden."""
        rules = self._rules
        for key, group in groupby(self._catalogue.missing(self._bucket), key=lambda row: row.key):
            rows = list(group)
            last = max(rows, key=lambda row: row.place)
            ripe = all(may_hide(row, now, sightings=rules.sightings, interval=rules.interval) for row in rows)
            if ripe and not last.marker and self._is_gone(key):
                yield rows

    def _is_gone(self, key: str) -> bool:
        """Return whether the source lacks the object, asked again right before hiding it."""
        try:
            self._source.head(self._bucket, key)
        except ObjectMissing:
            return True
        return False

    def _purge(self, now: datetime) -> int:
        """Purge objects that are gone at the source and were hidden or superseded for long enough."""
        before, batch, count = now - self._rules.keep, [], 0
        for row in self._catalogue.missing(self._bucket):
            since = row.hidden or row.missing_since
            if since is None or since > before or row.sightings < self._rules.sightings:
                continue
            if row.target_version:
                self._target.delete(self._bucket, row.key, version_id=row.target_version)
            batch.append(row)
            count += 1
            if len(batch) >= RECORDED:
                self._catalogue.forget(self._bucket, batch, self._lease)
                batch = []
        self._catalogue.forget(self._bucket, batch, self._lease)
        return count

    def _confirm(self, planned: Planned, folder: Path, *, logs: bool = False) -> Outcome:
        """Check that the target has the objects that it reported as stored; with `logs`, only logs of tables.

        Mark the others, so that they are copied again.
        """
        outcome, lost, read = Outcome(), [], []
        copied = self._catalogue.copied_since(self._bucket, planned.began)
        accepted = (row for row in copied if row.basis == ACCEPTED and (table_of(row.key) or not logs))
        confirmation = Confirmation(
            self._target,
            self._bucket,
            lambda: self._listing(self._target, self._target_able, folder, planned.versions),
            self._pool,
            self._clock,
            self._mover.throttle,
        )
        for checked in confirmation.examine(accepted, planned.outcome.objects):
            if isinstance(checked, Lost):
                row = checked.row
                lost.append(row)
                again = Copy(replace(as_stored(row), modified=row.modified), row.place, "replica missing")
                outcome.trouble(row.key, checked.error, [again])
            else:
                read.append(checked)
        newest = self._newest(replica.key for replica in (*lost, *read))
        for row in lost:
            if newest[row.key] == row.place:
                outcome.departed(row)
        outcome.accepted -= sum(newest[row.key] == row.place for row in read)
        altered = [replace(row, target_etag=DAMAGED) for row in lost]  # known, so that it is missed until it is there
        self._catalogue.record(self._bucket, [*read, *altered], self._lease)
        return outcome

    def _newest(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the place of each key's newest row in the catalogue."""
        places: dict[str, int] = {}
        for row in self._catalogue.of_keys(self._bucket, list(dict.fromkeys(keys))):
            places[row.key] = max(row.place, places.get(row.key, -1))
        return places


def _mixed_up(key: str, lacking: list[str], target: str) -> SiteError:
    return SiteError(
        f"copy {key[:80]!r} to site '{target}': the site may confuse it with another key, because it was not "
        f"proven to keep {', '.join(lacking)} distinct",
        "Rename the object at the source, or replicate to a site with that capability (`rempart site doctor`).",
    )
