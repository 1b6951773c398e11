"""Restore a restore point without Airflow: the whole platform on a bare machine, or parts, in place or side by side.

Start the same restore again to continue a killed run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta

from rempart.backup.databases import postgresql
from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.points.erasures import Erasure
from rempart.backup.points.points import Dump
from rempart.backup.points.restore_journal import Journal, Progress
from rempart.backup.points.restore_plan import Selection
from rempart.counts import counted
from rempart.deployment.compose import containers
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup import credentials
from rempart.deployment.setup.paths import Stack
from rempart.errors import BackupError
from rempart.flows.restore import restore_active, restore_checks, restore_erasures
from rempart.flows.restore.fill import empty, fill_databases, fill_objects, side_by_side
from rempart.flows.restore.restore_databases import administrator, forget_replicas, give_rights
from rempart.flows.restore.restore_objects import RestoredObjects, publish_tables
from rempart.flows.restore.restore_refusals import (
    only_restore,
    refuse_nothing_here,
    refuse_red,
    refuse_running,
    refuse_without_fernet_key,
)
from rempart.flows.restore.restore_source import OpenPoint, Wish
from rempart.flows.restore.targets import LiveTarget, Target
from rempart.flows.shared.platform import Platform, classification_of, open_platform
from rempart.flows.shared.replication_pairs import BUCKETS, physical_bucket
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config as configuration
from rempart.settings.pipelines import load_all
from rempart.sites.port import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestoreResult:
    """Result of a restore. `steps` has the seconds of each step over all its runs; `rto_seconds` are the seconds since
    the first start.

    `rpo_seconds` is the age of the restore point at that start. `served` counts the objects by the kind of copy that
    they came from. `withheld` counts the objects that stay erased, by the encryption scope whose key was destroyed.
    """

    ok: bool
    point: str
    checks: tuple[RestoreCheck, ...]
    steps: Mapping[str, float]
    rto_seconds: float
    rpo_seconds: float
    databases: tuple[str, ...]
    objects: int
    object_bytes: int
    served: Mapping[str, int]
    withheld: Mapping[str, int]


def restore(
    stack: Stack,
    point: OpenPoint,
    wish: Wish,
    selection: Selection,
    *,
    tools: postgresql.Tools | None = None,
    live: Callable[[], Platform] = open_platform,
    runs: bool = False,
    patience: float = 0.0,
    preparation: float = 0.0,
) -> RestoreResult:
    """Restore the selection, verify it, and write evidence of kind `restore`.

    `live` opens the restored platform once its secrets are in place. With `runs`, the platform already runs, perhaps on
    other machines, and nothing is started. `patience` is the number of seconds to wait in containers until the platform
    is started. `preparation` are the seconds since the request, from which the restore counts. Raises BackupError if
    the restore is not allowed, before any change, and at the end if a check failed. Raises IntegrityError, SiteError,
    DatabaseUnavailable or StackError if a step fails; the same call then continues the restore.
    """
    name = f"restore-{wish.aside}" if wish.aside else "restore" if selection.whole else "restore.part"
    file = stack.var / f"{name}.json"
    with only_restore(stack):
        run = _Restore(
            stack,
            point,
            wish,
            selection,
            tools or postgresql.find_tools(),
            live,
            Journal(file),
            runs,
            patience,
            preparation,
        )
        result = run.whole() if selection.whole and not wish.aside else run.part()
    if not result.ok:
        failed = "\n".join(f"  {check.what}: {check.detail}" for check in result.checks if check.ok is False)
        raise BackupError(
            f"Restore point {result.point} is restored, but checks failed:\n{failed}",
            "Follow docs/runbooks/everything-is-gone.md, 'A check is red'.",
        )
    return result


@dataclass
class _Restore:
    """State of one restore."""

    stack: Stack
    point: OpenPoint
    wish: Wish
    selection: Selection
    tools: postgresql.Tools
    live: Callable[[], Platform]
    journal: Journal
    runs: bool = False
    patience: float = 0.0
    preparation: float = 0.0
    checks: list[RestoreCheck] = field(default_factory=list)
    brought: RestoredObjects = field(default_factory=RestoredObjects)

    def __post_init__(self) -> None:
        self.clock = self.point.platform.clock
        asked = self.clock() - timedelta(seconds=self.preparation)
        self.progress: Progress = self.journal.read(self.point.link.point, self.point.link.manifest_sha256, asked)
        if self.preparation:
            self.progress = self.progress.took("preparation", self.preparation)

    def whole(self) -> RestoreResult:
        """Restore everything in place: secrets, databases, objects, then start and check the services."""
        environment = self.point.secrets()
        refuse_without_fernet_key(self.point, environment, force=self.wish.force)
        if not self.progress.opened:
            register = restore_erasures.register_of(self.point, force=self.wish.force)
            refuse_running(self.stack)
            with self._step("secrets"):
                self._take_over(environment)
            with self._step("stores"):
                lifecycle.start_stores(self.stack, active=self.wish.active)
            # no evidence before its database is restored: the permission for the target is kept in memory until then
            platform = replace(self.live(), ledger_=self.point.platform.ledger_)
            target = self._target(platform)
            if not self.progress.filled:
                with self._step("databases"):
                    self._databases(target)
                    give_rights(self.stack)
                with self._step("objects"):
                    self._objects(target)
                refuse_red(self.checks, force=self.wish.force)
            self._erase_again(register)
            self._publish_tables()
            self._keep(replace(self.progress, opened=True))
        with self._step("services"):
            if not lifecycle.works(self.stack):
                lifecycle.start_stores(self.stack, active=self.wish.active)
                gone = forget_replicas(self.live().database("continuity"), self.point.manifest.source)
                logger.info("forgot %d replicas: the next replication compares all objects", gone)
                self._switch()
            lifecycle.up(self.stack, migrate=True, patience=self.patience)
        platform = self.live()
        if self.wish.active:
            with self._step("switch"):
                restore_active.resume(platform, self.wish.active)
        with self._step("proof"):
            self._prove(platform)
        return self._end(platform)

    def _switch(self) -> None:
        """Make the requested site active before any process works on the databases."""
        if self.wish.active:
            now = restore_active.switch(
                self.live(), self.point.manifest, self.wish.active, len(self.selection.objects), self.progress.began
            )
            logger.info("switched to site '%s' (generation %d)", now.site, now.generation)

    def part(self) -> RestoreResult:
        """Restore parts in place, or any selection side by side with the platform."""
        databases, aside = self.selection.databases, self.wish.aside
        if databases and not aside:
            refuse_running(self.stack)
        register = restore_erasures.register_of(self.point, force=self.wish.force)
        if not (self.runs or lifecycle.works(self.stack)):
            refuse_nothing_here(self.stack)
            with self._step("stores"):
                lifecycle.start_stores(self.stack)
        platform = self.live()
        if aside:
            restore_erasures.refuse_side_by_side(
                self.point, register, self.selection, platform.ledger, force=self.wish.force
            )
        target = self._target(platform)
        if databases and not self.progress.filled:
            with self._step("databases"):
                self._databases(target)
                if not aside:
                    give_rights(self.stack)
        if self.selection.objects and not self.progress.filled:
            with self._step("objects"):
                self._objects(target)
        if not aside:
            self._erase_again(restore_erasures.concerned(register, self.selection, platform.ledger))
            self._publish_tables()
        return self._end(platform)

    def _erase_again(self, register: Sequence[Erasure]) -> None:
        """Erase registered subjects again in the restored data.

        Raises BackupError if any of their rows is still found.
        """
        if not register:
            return
        # from here on the databases differ from the point, and are no longer compared with it
        self._keep(replace(self.progress, filled=True))
        with self._step("erasures"):
            platform = self.live()
            checks = [*restore_erasures.apply_again(platform, self.point, register, self._home)]
        for check in checks:
            self._add(check)
        refuse_red(checks, force=self.wish.force)

    def _publish_tables(self) -> None:
        """Bring the Delta tables to the restored snapshots."""
        platform, objects = self.live(), self.selection.objects
        if any(obj.bucket == "lake" for obj in objects):
            site = platform.site(self._home, classification_of(load_all()))
            for check in publish_tables(site, physical_bucket(platform.config, "lake"), objects):
                self._add(check)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        logger.info("--- %s", name)
        try:
            yield
        finally:
            self.progress = self.progress.took(name, time.monotonic() - began)
            self.journal.write(self.progress)
        logger.info("%s: done in %.1f s", name, self.progress.steps[name])

    def _keep(self, progress: Progress) -> None:
        self.progress = progress
        self.journal.write(progress)

    def _add(self, check: RestoreCheck) -> None:
        self.checks.append(check)
        logger.log(logging.WARNING if check.ok is False else logging.INFO, "%s", check.line)

    def _take_over(self, environment: Mapping[str, str]) -> None:
        if not self.stack.services:
            logger.info("skipped %d secrets of the restore point: every service is external", len(environment))
            return
        if self.stack.containers:  # each was given its files by `rempart stack init --from-point`, and writes none
            existing = configuration.read_env_file(self.stack.secrets)
            containers.refuse_others(self.stack, self.stack.secrets, existing, environment)
            return
        changed = credentials.take_over(self.stack, environment, replace=self.wish.force)
        logger.info("%s %d secrets in %s", "wrote" if changed else "found", len(environment), self.stack.secrets)

    def _target(self, platform: Platform) -> Target:
        def open_site() -> Site:
            return platform.site(self._home, classification_of(load_all()))

        if self.wish.aside:
            return side_by_side(self.stack, self.point, self.wish, self.selection, open_site())
        config, resolve = self.point.platform.config, self.point.platform.connections
        return LiveTarget(
            administrator(self.stack, resolve),
            resolve,
            {logical: physical_bucket(config, logical) for logical in BUCKETS},
            open_site,
            self.wish.force,
        )

    @property
    def _home(self) -> str:
        """Return the name of the site that receives the objects."""
        return self.wish.active or self.point.manifest.source

    def _databases(self, target: Target) -> None:
        failures = fill_databases(target, self.point, self.selection, self.tools, self._database_is_there)
        for error in failures.values():
            raise error

    def _database_is_there(self, dump: Dump, checks: list[RestoreCheck]) -> None:
        for check in checks:
            self._add(check)
        if all(check.ok is not False for check in checks) and dump.name not in self.progress.databases:
            self._keep(replace(self.progress, databases=(*self.progress.databases, dump.name)))

    def _objects(self, target: Target) -> None:
        self.brought = fill_objects(target, self.point, self.selection)
        told = ", ".join(f"{count} {name}" for name, count in sorted(self.brought.served.items())) or "none"
        objects = counted(len(self.selection.objects), "object")
        self._add(RestoreCheck("every object equals its record", True, f"{objects}: {told}"))

    def _prove(self, platform: Platform) -> None:
        """Check the restored services the way their users use them."""
        manifest, environment = self.point.manifest, self.point.secrets()
        if not any(check.what.startswith("database") for check in self.checks):
            what = "databases were compared with the restore point before the services were opened"
            self._add(RestoreCheck(what, True, ", ".join(self.progress.databases)))
        site, head = platform.site(self._home, classification_of(load_all())), manifest.ledger_head
        for check in restore_checks.of_service(platform, manifest.champions, head, environment, site):
            self._add(check)

    def _end(self, platform: Platform) -> RestoreResult:
        manifest, began = self.point.manifest, self.progress.began
        result = RestoreResult(
            all(check.ok is not False for check in self.checks),
            manifest.id,
            tuple(self.checks),
            self.progress.steps,
            round((self.clock() - began).total_seconds(), 3),
            round((began - manifest.created_at).total_seconds(), 3),
            tuple(database.name for database in self.selection.databases),
            len(self.selection.objects),
            self.brought.bytes,
            self.brought.served,
            self.selection.withheld,
        )
        body = {
            **asdict(result),
            "checks": [asdict(check) for check in self.checks],
            "site": self.point.site.name,
            "manifest_sha256": self.point.link.manifest_sha256,
            "link": self.point.link.seq,
            "parts": [str(part) for part in self.wish.parts] or ["all"],
            "aside": self.wish.aside,
            "force": self.wish.force,
            "active": platform.active().site,
        }
        before = self.point.platform.ledger_
        if isinstance(before, MemoryLedger) and before is not platform.ledger_:
            for decision in before.find("decision"):  # decided before the ledger existed
                platform.ledger.append("decision", decision.subject, decision.body)
        platform.ledger.append("restore", manifest.id, body)
        self.journal.end()
        return result


def remove(stack: Stack, point: OpenPoint, wish: Wish, selection: Selection, live: Callable[[], Platform]) -> None:
    """Remove databases and buckets of a side-by-side restore. Raises BackupError without `aside`."""
    site = live().site(point.manifest.source, classification_of(load_all()))
    empty(side_by_side(stack, point, wish, selection, site))
