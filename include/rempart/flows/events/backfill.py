"""Back-fill a period: judge the quarantined rows of its deliveries again, by the pipeline file of today.

Rows that are accepted now leave quarantine and join a new snapshot, in the partitions of their own dates. Rows that
were accepted before stay, unless `on_conflict: newest` replaces one. Each delivery is one run of Airflow, whose id is
made from the delivery and its last outcome, the period and the pipeline file: the same command goes on where it was
interrupted, and tells no result that another run has changed since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.counts import counted
from rempart.errors import PipelineError
from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing
from rempart.ingestion.acceptance import HELD, good
from rempart.ledger.port import Evidence
from rempart.settings import pipelines
from rempart.settings.pipeline import Pipeline

MOST_RUNS = 20
"""Runs of one delivery that a person may repeat with the same pipeline file and period."""


@dataclass(frozen=True)
class Landed:
    """A delivery of the period: when it landed, its rows, those in quarantine, and their main reasons.

    `unread`: the file was refused as a whole, and nobody counted its rows. `again`: how often its outcome has changed.
    """

    sha256: str
    landed_at: datetime
    rows: int
    quarantined: int
    reasons: tuple[str, ...]
    unread: bool = False
    again: int = 0


@dataclass(frozen=True)
class BackfillPlan:
    """What a back-fill does. `again` in order of arrival; `whole` deliveries have no row in quarantine."""

    pipeline: str
    first: date
    last: date
    again: tuple[Landed, ...]
    lost: tuple[Landed, ...]
    whole: int
    key: str

    def lines(self) -> Iterator[str]:
        """Return the plan as text."""
        yield f"back-fill pipeline '{self.pipeline}': deliveries that landed from {self.first} to {self.last} (UTC)"
        rows = sum(landed.quarantined for landed in self.again)
        again = counted(len(self.again), "delivery", "deliveries")
        yield f"judged again by today's pipeline file: {again} with {counted(rows, 'row')} in quarantine"
        for landed in self.again:
            yield (
                f"  {landed.sha256[:12]} of {landed.landed_at:%Y-%m-%d %H:%M}: {landed.quarantined:,} of "
                f"{counted(landed.rows, 'row')} ({'; '.join(landed.reasons) or 'refused as a whole'})"
            )
        yield f"nothing to do: {counted(self.whole, 'delivery', 'deliveries')} without rows in quarantine"
        for landed in self.lost:
            rows_again = counted(landed.quarantined, "row")
            yield f"NOT possible: {landed.sha256[:12]} is no longer stored; deliver its {rows_again} again"
        yield "kept: accepted rows, deliveries as received, the ledger. New rows join the partitions of their dates"


def newest_of(records: Iterable[Evidence], removed: int) -> dict[str, Mapping[str, Any]]:
    """Return the newest outcome of each delivery since the pipeline was last reset. Records: newest first. Pure."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record.seq > removed:
            for outcome in record.body["deliveries"]:
                found.setdefault(str(outcome["sha256"]), outcome)
    return found


def plan(
    pipeline: str,
    outcomes: Iterable[Mapping[str, Any]],
    first: date,
    last: date,
    file: str,
    is_stored: Callable[[str], bool],
    removed: int = 0,
) -> BackfillPlan:
    """Return the plan for a period of whole days, `last` included. Pure.

    `file`: the text of the pipeline file. `removed`: number of the newest reset's record: runs before it do not count.
    """
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
    inside = [landed for outcome in outcomes if begin <= (landed := _landed(outcome)).landed_at < end]
    inside.sort(key=lambda landed: (landed.landed_at, landed.sha256))
    work = [landed for landed in inside if landed.quarantined or landed.unread]
    key = hashlib.sha256(f"{file}\0{first}\0{last}\0{removed}".encode()).hexdigest()[:12]
    return BackfillPlan(
        pipeline,
        first,
        last,
        tuple(landed for landed in work if is_stored(landed.sha256)),
        tuple(landed for landed in work if not is_stored(landed.sha256)),
        len(inside) - len(work),
        key,
    )


def _landed(outcome: Mapping[str, Any]) -> Landed:
    reasons = sorted(((count, reason) for reason, count in outcome["reasons"].items() if reason != HELD), reverse=True)
    return Landed(
        str(outcome["sha256"]),
        datetime.fromisoformat(str(outcome["landed_at"])).astimezone(UTC),
        int(outcome["delivered"]),
        int(outcome["quarantined"]),
        tuple(f"{count} × {reason}" for count, reason in reasons[:3]),
        unread=outcome["fault"] is not None and not outcome["delivered"],
        again=deliveries.attempt(outcome),
    )


def look(platform: Platform, pipeline: Pipeline, first: date, last: date) -> BackfillPlan:
    """Return the plan, without changes. Raises PipelineError, SiteError, DatabaseUnavailable."""
    if last < first:
        raise PipelineError(f"back-fill from {first} to {last}: the period ends before it begins", "Swap both days.")
    if pipeline.source.kind == "derived":
        raise PipelineError(
            f"back-fill '{pipeline.name}': its rows are derived from other pipelines",
            f"Run `rempart pipeline run {pipeline.name}`: it derives and judges all rows again.",
        )
    name, lake = pipeline.name, platform.config.buckets.lake
    removed = removals.check_open(platform.ledger, name)
    site = platform.active_site(pipeline.classification)
    stored = {info.key.split("/")[2] for info in site.list(lake, f"raw/{name}/")}

    def is_stored(sha256: str) -> bool:
        return sha256 in stored or landing.raw_of(site, lake, name, sha256) is not None

    outcomes = newest_of(platform.ledger.find("deliveries", name), removed).values()
    return plan(name, outcomes, first, last, pipelines.text_of(name), is_stored, removed)


def run(api: AirflowApi, planned: BackfillPlan, tell: Callable[[str], object]) -> Sequence[str]:
    """Run the plan, one delivery after the other. Return the ids of failed runs: the others go on.

    A run that an earlier command started is followed, and one that failed is started again. Raises AirflowApiError.
    """
    dag_id, failed = f"ingest_{planned.pipeline}", list[str]()
    api.await_dag(dag_id)
    for landed in planned.again:
        run_id = _start(api, dag_id, planned.key, landed)
        try:
            api.follow(dag_id, run_id, lambda _line: None)
        except AirflowApiError as error:
            if error.silent:
                raise
            failed.append(run_id)
            tell(f"{landed.sha256[:12]}: {error.what}")
            continue
        done = api.result(dag_id, run_id, "ingest")
        rows = good(done["accepted"], done["repeated"])
        tell(f"{landed.sha256[:12]}: rows: {rows}, {done['quarantined']:,} refused in this run")
    return failed


def _start(api: AirflowApi, dag_id: str, key: str, landed: Landed) -> str:
    # Airflow keeps ids that begin with `backfill__` for backfills of its own, and refuses them with 400
    for attempt in range(1, MOST_RUNS + 1):
        run_id = f"period__{key}__{landed.sha256}__{landed.again}__{attempt}"
        if api.trigger_once(dag_id, run_id, {"again": landed.sha256}):
            return run_id
        if api.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"] != "failed":
            return run_id
    raise AirflowApiError(
        f"back-fill {landed.sha256[:12]}: {MOST_RUNS} runs failed", f"Read the log of the last one at {api.url}."
    )
