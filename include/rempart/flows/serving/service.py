"""The scorer as a process: it reads the ledger every few seconds, opens the champions and serves them."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rempart.errors import DatabaseUnavailable, PipelineError, RempartError, ServingError
from rempart.flows.serving import model_files, standings
from rempart.flows.serving.answering import AnsweringVersion
from rempart.flows.serving.logs import ServedLogs
from rempart.flows.serving.standings import Standings
from rempart.flows.serving.stored_features import StoredFeatures
from rempart.flows.shared.platform import Platform
from rempart.models.loading import open_verified
from rempart.models.onnx_format import MODEL_FILE
from rempart.serving.entries import PredictionLog
from rempart.serving.scorer import http_server, shadows
from rempart.serving.scorer.app import Scorer
from rempart.serving.scorer.clients import Clients
from rempart.serving.scorer.deployments import OPENING, Deployment, Deployments, OpenedVersion, Slot
from rempart.settings.champions.serving import log_folder
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

EVERY = 3.0
"""Seconds between two looks at the ledger."""
PATIENCE = 10.0
"""Seconds after which the ledger counts as away. What it answers later counts at the next look."""
OPEN_PATIENCE = 5.0
"""Seconds that a look waits for versions that are opened. They go on: a slow site delays no revocation of a key."""
AGAIN = 30.0
"""Seconds after which a version that could not be opened is tried again."""
logger = logging.getLogger(__name__)
T = TypeVar("T")
Opened = Callable[[ModelPipeline, Mapping[str, Any]], OpenedVersion]


@dataclass
class Opening:
    """Opens versions. `folder`: where models stay on this machine."""

    platform: Platform
    folder: Path

    def open(self, pipeline: ModelPipeline, record: Mapping[str, Any]) -> OpenedVersion:
        """Return a version whose bytes equal its evidence.

        Raises ModelRefused, PredictionError, SiteError, PlacementDenied, ServingError.
        """
        platform = self.platform
        body = model_files.body_of(record, self._sites(record), platform.config.buckets.artifacts, self.folder)
        stored = StoredFeatures(lambda: platform.database_to_read("feast_online"), pipeline)
        return AnsweringVersion(open_verified(record, body), pipeline, stored, platform.clock)

    def _sites(self, record: Mapping[str, Any]) -> Iterator[Callable[[], Site]]:
        """Yield the function that opens each site, that of the active site first."""
        platform, active = self.platform, self.platform.config.active_site
        with suppress(RempartError):  # its database does not answer: the sites are tried nevertheless
            active = platform.active().site
        for name in sorted(platform.config.sites, key=lambda name: name != active):
            yield partial(platform.site_to_read, name, record["classification"])


@dataclass
class ScorerService:
    """Keeps a scorer's deployments as the ledger says. `load`: reads the pipeline files."""

    platform: Platform
    folder: Path
    scorer: Scorer
    open: Opened
    load: Callable[[], Mapping[str, Pipeline | PipelineError]] = load_all
    logs: ServedLogs | None = None
    known: Standings | None = None
    _failed: dict[tuple[str, str], float] = field(default_factory=dict)
    _wanted: Any = None
    _looked: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: asyncio.Task[Standings] | None = None
    _deploying: asyncio.Task[None] | None = None
    _threads: set[asyncio.Task[Any]] = field(default_factory=set)

    async def watch(self) -> None:
        """Follow the ledger until the task is cancelled."""
        try:
            while True:
                try:
                    await self.refresh()
                except RempartError as error:
                    logger.warning("the scorer goes on with what it knows: %s", error.what)
                except Exception as cause:
                    logger.error("the scorer goes on with what it knows: %s", type(cause).__name__)  # noqa: TRY400 # it may quote a value
                await asyncio.sleep(EVERY)
        finally:
            if self._deploying is not None:
                self._deploying.cancel()
                await asyncio.wait([self._deploying])

    async def looked(self) -> None:
        """Return after the next look at the ledger, or after as long as three looks take."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._looked.wait(), 3 * EVERY)

    async def refresh(self) -> None:
        """Read the ledger if it changed, and let the champions on record answer.

        If the ledger does not answer, the newest reading on disk counts. Raises RempartError, PipelineError.
        """
        pipelines = {name: found for name, found in self.load().items() if isinstance(found, ModelPipeline)}
        deployments, waiting = self.scorer.deployments, self._looked
        self._looked = asyncio.Event()  # of those who come from now on: this look may be too early for them
        try:
            self.known = await self._read_in_time(pipelines)
        except RempartError as error:
            if not deployments.fault or self.known is None:
                logger.warning("the ledger cannot be read: %s", error.what)
            deployments.fault = error.what
            if self.known is None and (kept := standings.kept(self.folder)):
                self.known, deployments.known_at = kept, kept.at
        else:
            deployments.known_at, deployments.fault = self.platform.clock(), ""
        if self.known is not None:
            self.scorer.clients.replace(self.known.clients)
            if self.logs is not None:
                self.logs.follow(pipelines, self.known.sealed_with)
        waiting.set()
        if self.known is not None:
            await self._deploy_in_time(self.known, pipelines)

    async def _deploy_in_time(self, known: Standings, pipelines: Mapping[str, ModelPipeline]) -> None:
        """Deploy what is known, and return after OPEN_PATIENCE at the latest. Nothing else is deployed meanwhile."""
        if self._deploying is None:
            self._deploying = asyncio.create_task(self._deploy(known, pipelines))
        done, _ = await asyncio.wait([self._deploying], timeout=OPEN_PATIENCE)
        if done:
            found, self._deploying = self._deploying, None
            found.result()

    async def _read_in_time(self, pipelines: Mapping[str, ModelPipeline]) -> Standings:
        """Return a reading of the ledger. One that takes long goes on, and no other begins meanwhile.

        Raises DatabaseUnavailable after PATIENCE, and the errors of `_read`.
        """
        if self._reading is None:
            self._reading = self._in_thread(self._read, pipelines)
        done, _ = await asyncio.wait([self._reading], timeout=PATIENCE)
        if not done:
            raise DatabaseUnavailable(
                f"read the ledger: no answer within {PATIENCE:.0f} s", "`rempart status` shows whether PostgreSQL runs."
            )
        found, self._reading = self._reading, None
        return found.result()

    def _in_thread(self, act: Callable[..., T], *given: Any) -> asyncio.Task[T]:
        task = asyncio.create_task(asyncio.to_thread(act, *given))
        self._threads.add(task)
        task.add_done_callback(self._threads.discard)
        return task

    @property
    def is_waiting(self) -> bool:
        """Return whether a thread waits for the ledger or a site."""
        return bool(self._threads)

    def _read(self, pipelines: Mapping[str, ModelPipeline]) -> Standings:
        ledger, known = self.platform.ledger, self.known
        newest, before = standings.newest_record(ledger), known or standings.kept(self.folder)
        if before is not None and newest < before.seq:  # a revoked key would work again
            raise ServingError(
                f"read the ledger: it ends at record {newest}, and was read up to record {before.seq} before",
                f"Verify the ledger. Then delete {self.folder / standings.FILE}, and start the scorer again.",
            )
        shadowed = {name for name, pipeline in pipelines.items() if pipeline.serving.shadow}
        wanted = (sorted(pipelines), sorted(shadowed))
        if known is None or known.seq != newest or wanted != self._wanted:
            found = standings.read(ledger, pipelines, shadowed, self.platform.clock())
            known = standings.with_undecided(before, found, pipelines)
            self._wanted = wanted
            try:
                standings.keep(known, self.folder)
            except ServingError as error:  # it counts all the same
                logger.warning("the reading is not kept on disk: %s", error.what)
        return known

    async def _deploy(self, known: Standings, pipelines: Mapping[str, ModelPipeline]) -> None:
        deployments = self.scorer.deployments
        files = self.load()
        deployments.champions = tuple(name for name in known.champions if isinstance(files.get(name), ModelPipeline))
        for name in known.champions.keys() & files.keys():
            slot = deployments.slots.get(name, Slot())
            if slot.champion is None and not slot.fault:
                deployments.fail(name, OPENING)
        for name in {*deployments.slots, *known.champions}:
            slot = deployments.slots.get(name, Slot())
            record = known.champions.get(name) if name in files else None
            if isinstance(files.get(name), PipelineError):
                continue  # what answers goes on
            champion = await self._as_recorded(name, slot.champion, record, pipelines)
            if record is None or champion is not None:
                deployments.replace(name, champion)
            shadow_record = known.shadows.get(name) if champion else None
            shadow = await self._as_recorded(name, slot.shadow, shadow_record, pipelines, is_shadow=True)
            deployments.replace_shadow(name, shadow)
        deployments.has_started = True
        records = (*known.champions.values(), *known.shadows.values())
        model_files.forget_others(self.folder, {str(record["files"].get(MODEL_FILE, "")) for record in records})

    async def _as_recorded(
        self,
        name: str,
        present: Deployment | None,
        record: Mapping[str, Any] | None,
        pipelines: Mapping[str, ModelPipeline],
        *,
        is_shadow: bool = False,
    ) -> Deployment | None:
        """Return the deployment of the recorded version: the present one, or a new one; None if it cannot be opened."""
        if record is None:
            return None
        version, digest = str(record["version"]), str(record["files"].get(MODEL_FILE, ""))
        running = present.opened if present and not present.opened.is_broken else None
        if running and (running.version, running.sha256) == (version, digest):
            return present
        if time.monotonic() < self._failed.get((name, version), 0.0):
            return None
        try:
            opened = await asyncio.shield(self._in_thread(self.open, pipelines[name], record))
        except Exception as error:  # the other pipelines go on
            what = error.what if isinstance(error, RempartError) else f"open it: {type(error).__name__}"
            self._failed[name, version] = time.monotonic() + AGAIN
            logger.error("version %s of %s cannot be opened: %s", version, name, what)  # noqa: TRY400
            if not is_shadow:
                self.scorer.deployments.fail(name, what)
            return None
        logger.info("%s: version %s %s", name, version, "shadows the champion" if is_shadow else "answers")
        return Deployment(opened, most_waiting=shadows.MOST_WAITING if is_shadow else None)


def open_scorer(platform: Platform, log: PredictionLog) -> Scorer:
    """Return a scorer that knows nothing yet."""
    machine = platform.config.machine
    place = f"{machine.operator if machine else 'unknown'}/{socket.gethostname()}/{os.getpid()}"
    return Scorer(Deployments(), Clients(), log, place, importlib.metadata.version("rempart"))


def run(platform: Platform, folder: Path, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
    """Serve until the process is asked to stop. Requests in flight are answered. Raises ServingError.

    What does not end in time is left: everything that was answered is on disk.
    """
    import uvloop

    listening = http_server.listen(host, port)
    uvloop.run(_run(platform, folder, listening, tls))


async def _run(platform: Platform, folder: Path, listening: socket.socket, tls: tuple[Path, Path] | None) -> None:
    logs = ServedLogs(log_folder())
    scorer = open_scorer(platform, logs)
    service = ScorerService(platform, folder, scorer, Opening(platform, folder).open, logs=logs)
    scorer.looked = service.looked
    most = http_server.allowed_connections()
    watching = asyncio.create_task(service.watch())
    try:
        await http_server.server(scorer.application(), "", 0, tls, most=most).serve([listening])
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        has_ended = await _ended(scorer, logs) and not service.is_waiting
    if not has_ended:  # a thread that waits for a database or a disk would keep the process
        logger.warning("the scorer ends, although a database or the disk does not answer")
        logging.shutdown()
        os._exit(0)


async def _ended(scorer: Scorer, logs: ServedLogs) -> bool:
    """End models and logs. Return whether they ended in time; one that fails is logged, and keeps no process."""

    async def end() -> None:
        await scorer.shadows.finish()
        await scorer.deployments.finish()
        await logs.close()

    ending = asyncio.create_task(end())
    done, _ = await asyncio.wait([ending], timeout=http_server.STOP_SECONDS)
    if done and (cause := ending.exception()) is not None:
        logger.error("a model or the prediction log did not end well: %s", type(cause).__name__)  # it may quote a value
    return bool(done)
