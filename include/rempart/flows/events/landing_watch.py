"""Start the ingestion of a pipeline when deliveries wait in the landing bucket.

The id of the run is made from the waiting files: their names, checksums and times. So the same files start one run,
however often and by however many watchers they are seen, and a restart needs no memory. Files that land while no
watcher runs still wait at the next look.

The watch has few rights: it lists the landing bucket, reads which site is active and which pipeline is being reset, and
starts ingestion in Airflow as a user of its own.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from rempart import canonical_json
from rempart.airflow_api import AirflowApi, AirflowApiError
from rempart.coordination.active import is_open
from rempart.errors import ConnectionMissing, PipelineError, RempartError
from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.ingestion import landing
from rempart.settings.access import LANDING_WATCH
from rempart.settings.config import Connection, Connections, lister
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all
from rempart.settings.sections import Classification
from rempart.sites.port import ObjectInfo, Site
from rempart.sovereignty.dag_rules import BROKEN
from rempart.sovereignty.places import decide_site

logger = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
"""Seconds between two looks. A run starts at the second look that shows the same files, so within ten seconds."""
LONGEST_SECONDS = 60.0
"""Seconds for which a run waits for files that keep coming."""
AGAIN = timedelta(hours=1)
"""Time after which files that wait still, because their run failed, start another run."""
MOST_RUNS = 24
STAGES = ("materialize_features", "train", "validate_model")
"""DAGs that start after the ingestion of a pipeline with a model. An event before Airflow reads them starts nothing."""
BEAT = "landing-watch.beat"
"""File whose time of change says when the watch last looked: a health check reads it."""


class Runs(Protocol):
    """Airflow, as far as the watch needs it. Errors: AirflowApiError."""

    def get(self, path: str) -> dict[str, Any]:
        """Return a resource."""

    def unfinished_runs(self, dag_id: str) -> list[str]:
        """Return the runs of a DAG that are queued or running."""

    def trigger_once(self, dag_id: str, run_id: str, conf: Mapping[str, Any] | None = None) -> bool:
        """Start the run with this id unless it exists; return whether this call started it."""


@dataclass(frozen=True)
class Seen:
    """What the watch remembers of a pipeline: the files of the last look, since when files come, and the last start."""

    files: str = ""
    since: float = 0.0
    started: str = ""


def digest(files: Sequence[ObjectInfo]) -> str:
    """Return a text that only these files have, empty if none waits. Pure."""
    if not files:
        return ""
    told = sorted([info.key, info.size, info.etag or "", info.modified.isoformat()] for info in files)
    return hashlib.sha256(canonical_json.encode(told)).hexdigest()[:32]


def decide(seen: Seen, files: str, now: float) -> tuple[Seen, bool]:
    """Return what to remember, and whether a run is due for these files. `now`: seconds of a monotonic clock. Pure.

    A run is due once the files stay the same between two looks, or came for LONGEST_SECONDS.
    """
    if not files:
        return Seen(), False
    after = replace(seen, files=files, since=seen.since if seen.files else now)
    settled = files == seen.files or now - after.since >= LONGEST_SECONDS
    return after, settled and files != seen.started


def run_id(files: str, attempt: int) -> str:
    """Return the id of the run that these files start for the n-th time. Pure."""
    return f"landed__{files}__{attempt}"


def landing_site(platform: Platform, classification: Classification) -> Site:
    """Return the active site for a look at its landing bucket, which takes nothing in: no decision is recorded.

    The connection may only list that bucket, if the site has one like that. Raises SiteFenced, PlacementDenied,
    DatabaseUnavailable.
    """
    from rempart.sites.s3.site import S3Site

    name = is_open(platform.active()).site
    place = platform.config.sites[name]
    connection = None if name in platform.sites else _first(platform.connections, lister(name), place.connection)
    endpoint = connection.extra.get("endpoint_url") if connection else None
    today = platform.clock().date()
    decision = decide_site(platform.config, classification, "data", name, on=today, endpoint=endpoint)
    if not decision.allowed:
        raise decision.refusal()
    if connection is None:
        return platform.sites[name]
    return S3Site(name, connection, place.region, decision, most_listed=place.most_listed)


def open_watch(platform: Platform, stop: threading.Event, beat: Path | None = None) -> LandingWatch:
    """Return the watch of a platform, as its own user of Airflow, or as the one of an external Airflow.

    Raises ConnectionMissing.
    """
    airflow = AirflowApi(_first(platform.connections, LANDING_WATCH, "airflow_api"))
    return LandingWatch(platform, airflow, stop, beat=beat)


def _first(resolve: Connections, limited: str, otherwise: str) -> Connection:
    """Return the connection with few rights, or the other one for a server of the team's own."""
    try:
        return resolve(limited)
    except ConnectionMissing:
        return resolve(otherwise)


@dataclass
class LandingWatch:
    """Looks at the landing prefix of each pipeline with `schedules.on_delivery`, until `stop` is set.

    `beat`: file that each look touches.
    """

    platform: Platform
    runs: Runs
    stop: threading.Event
    seconds: Callable[[], float] = time.monotonic
    pipelines: Callable[[], Mapping[str, Pipeline | PipelineError]] = load_all
    beat: Path | None = None
    seen: dict[str, Seen] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Look every EVERY_SECONDS. An error of a look is logged once, and the next look tries again."""
        logger.info("watching the landing bucket every %.0f s", EVERY_SECONDS)
        while not self.stop.is_set():
            self.look()
            if self.beat:
                self.beat.touch()
            self.stop.wait(EVERY_SECONDS)

    def look(self) -> None:
        """Look at each pipeline once."""
        for name, pipeline in self.pipelines().items():
            if isinstance(pipeline, PipelineError) or not pipeline.schedules.on_delivery:
                continue
            try:
                if started := self._look(pipeline):
                    logger.info("deliveries of '%s' wait: started run %s", name, started)
                self._told.pop(name, None)
            except RempartError as error:
                if self._told.get(name) != error.what:
                    logger.warning("the ingestion of '%s' was not started; the next look tries again: %s", name, error)
                    self._told[name] = error.what

    def _look(self, pipeline: Pipeline) -> str | None:
        """Return the id of the run that this look started, if any."""
        site = landing_site(self.platform, pipeline.classification)
        waiting = landing.waiting(site, self.platform.config.buckets.landing, pipeline.source.prefix)
        seen, due = decide(self.seen.get(pipeline.name, Seen()), digest(waiting), self.seconds())
        self.seen[pipeline.name] = seen
        if not due:
            return None
        if removals.unfinished(self.platform.ledger, pipeline.name):
            return None  # a reset puts deliveries back: they are taken in once it has ended
        dag_id = f"ingest_{pipeline.name}"
        dag = self._dag(dag_id, dag_id)
        if dag.get("is_paused"):
            raise AirflowApiError(f"start {dag_id}: the DAG is paused", "Unpause it: the files are taken in then.")
        if BROKEN in (tag["name"] for tag in dag.get("tags") or ()):
            raise AirflowApiError(
                f"start {dag_id}: Airflow finds the pipeline at fault",
                f"Correct its file: `rempart pipeline check {pipeline.name}`. The files are taken in then.",
            )
        for stage in STAGES if isinstance(pipeline, ModelPipeline) else ():
            self._dag(f"{stage}_{pipeline.name}", dag_id)
        if self.runs.unfinished_runs(dag_id):
            return None  # a queued run takes these files; after a running one they are looked at again
        return self._start(dag_id, seen)

    def _dag(self, dag_id: str, wanted: str) -> dict[str, Any]:
        """Return a DAG. Raises AirflowApiError, also while Airflow has not read its file."""
        try:
            return self.runs.get(f"/api/v2/dags/{dag_id}")
        except AirflowApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise AirflowApiError(
                f"start {wanted}: Airflow has not read {dag_id} yet, and would not start it on the new snapshot",
                "Airflow reads new files within half a minute. If it does not, look at the import errors on its page.",
            ) from error

    def _start(self, dag_id: str, seen: Seen) -> str | None:
        for attempt in range(1, MOST_RUNS + 1):
            wanted = run_id(seen.files, attempt)
            if self.runs.trigger_once(dag_id, wanted):
                return wanted
            known = self.runs.get(f"/api/v2/dags/{dag_id}/dagRuns/{wanted}")
            if known["state"] != "failed":
                break
            if _ended(known) > self.platform.clock() - AGAIN:
                return None
        self.seen[dag_id.removeprefix("ingest_")] = replace(seen, started=seen.files)
        return None


def _ended(run: Mapping[str, Any]) -> datetime:
    at = run.get("end_date")
    if not at:
        raise AirflowApiError(f"run {run['dag_run_id']}: Airflow gave no end of a failed run", "Look at it in Airflow.")
    found = datetime.fromisoformat(str(at))
    return found if found.tzinfo else found.replace(tzinfo=UTC)
