"""Start the ingestion of a pipeline when deliveries wait in the landing bucket.

The id of the run is made from the waiting files: their names, checksums and times. So the same files start one run,
however often and by however many watchers they are seen, and a restart needs no memory. Files that land while no
watcher runs still wait at the next look.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from rempart import canonical_json
from rempart.airflow_api import AirflowApiError
from rempart.errors import PipelineError, RempartError
from rempart.flows.shared import removals
from rempart.flows.shared.platform import Platform
from rempart.ingestion import landing
from rempart.settings.pipeline import Pipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import ObjectInfo

logger = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
"""Seconds between two looks. A run starts at the second look that shows the same files, so within ten seconds."""
LONGEST_SECONDS = 60.0
"""Seconds for which a run waits for files that keep coming."""
AGAIN = timedelta(hours=1)
"""Time after which files that wait still, because their run failed, start another run."""
MOST_RUNS = 24


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


@dataclass
class LandingWatch:
    """Looks at the landing prefix of each pipeline with `schedules.on_delivery`, until `stop` is set."""

    platform: Platform
    runs: Runs
    stop: threading.Event
    seconds: Callable[[], float] = time.monotonic
    pipelines: Callable[[], Mapping[str, Pipeline | PipelineError]] = load_all
    seen: dict[str, Seen] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Look every EVERY_SECONDS. An error of a look is logged once, and the next look tries again."""
        logger.info("watching the landing bucket every %.0f s", EVERY_SECONDS)
        while not self.stop.is_set():
            self.look()
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
        site = self.platform.active_site(pipeline.classification)
        waiting = landing.waiting(site, self.platform.config.buckets.landing, pipeline.source.prefix)
        seen, due = decide(self.seen.get(pipeline.name, Seen()), digest(waiting), self.seconds())
        self.seen[pipeline.name] = seen
        if not due:
            return None
        if removals.unfinished(self.platform.ledger, pipeline.name):
            return None  # a reset puts deliveries back: they are taken in once it has ended
        dag_id = f"ingest_{pipeline.name}"
        if self.runs.get(f"/api/v2/dags/{dag_id}").get("is_paused"):
            raise AirflowApiError(f"start {dag_id}: the DAG is paused", "Unpause it: the files are taken in then.")
        if self.runs.unfinished_runs(dag_id):
            return None  # a queued run takes these files; after a running one they are looked at again
        return self._start(dag_id, seen)

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
