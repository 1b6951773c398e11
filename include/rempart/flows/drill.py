"""The restore drill: rebuild a restore point in scratch space, compare it with what it should be, remove it again."""

from __future__ import annotations

import hashlib
import io
import random
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rempart.backup import chain, domains, platform_secrets, points, postgresql, scratch, tracking_server
from rempart.backup.checks import Check, equal_count, equal_predictions, equal_tables, passed
from rempart.backup.keyring import Keyring
from rempart.backup.sealed_objects import unseal
from rempart.backup.stored_dumps import restore_from
from rempart.config import Connection
from rempart.errors import BackupError, DrillFailed, IntegrityError, RempartError
from rempart.flows.heartbeats import beat
from rempart.flows.keys import open_keyring
from rempart.flows.pairs import classification_of, physical_bucket
from rempart.flows.platform import Platform
from rempart.flows.repositories import repository_of
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.pipeline import load_all
from rempart.replication.active import backup_site
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

T = TypeVar("T")
SAMPLE = 50
"""Sealed objects that a drill opens."""


@dataclass(frozen=True)
class DrillResult:
    """`rto_seconds` from the start to the last check; `rpo_seconds` is how old the point was at the start."""

    ok: bool
    point_id: str
    rto_seconds: float
    rpo_seconds: float
    checks: tuple[Check, ...]


def drill(
    platform: Platform,
    point_id: str | None = None,
    progress: Callable[[str], object] = print,
    *,
    suffix: Callable[[], str] = lambda: secrets.token_hex(3),
    tools: postgresql.Tools | None = None,
) -> DrillResult:
    """Restore a point (the newest unless named) into scratch databases, bucket and MLflow server, and prove it.

    Everything scratch is removed at the end, also after a failure, and so is what a killed drill left. Writes evidence
    of kind `drill`; then raises DrillFailed naming the failed checks. Raises BackupError before that when there is no
    point or another drill runs; DatabaseUnavailable, SiteError, PlacementDenied when the drill cannot even begin.
    """
    active, holder = platform.active().site, _holder(platform, point_id)
    beside = active if active != holder else None
    site = platform.site(holder, classification_of(load_all()), "restore-point", beside=beside)
    began = platform.clock()
    point_id = _choose(platform, site, point_id)
    with scratch.only_drill(platform.database("drill")):
        run = _Drill(platform, site, point_id, progress, tools or postgresql.find_tools())
        ended = run.run(began, suffix())
    result = DrillResult(
        passed(run.checks),
        point_id,
        round((ended - began).total_seconds(), 3),
        round((began - (run.created_at or points.created_at(point_id))).total_seconds(), 3),
        tuple(run.checks),
    )
    platform.ledger.append("drill", point_id, {**asdict(result), "checks": [asdict(check) for check in run.checks]})
    beat(platform, "drill", {"point": point_id, "ok": result.ok, "rto_seconds": result.rto_seconds})
    if not result.ok:
        failed = "\n".join(f"  {check.what}: {check.detail}" for check in run.checks if check.ok is False)
        raise DrillFailed(
            f"Restore point {point_id} did not prove itself:\n{failed}",
            "Follow docs/runbooks/restore-drill.md; until a drill passes, count on an older point only.",
        )
    return result


def _holder(platform: Platform, point_id: str | None) -> str:
    """The site of a point (the newest on record unless named): after a switch the next one goes elsewhere."""
    for record in platform.ledger.find("restore-point", point_id, limit=1):
        return str(record.body["site"])
    return backup_site(platform.config, platform.active().site)


def _choose(platform: Platform, site: Site, point_id: str | None) -> str:
    """The point that is named, else the newest that lacks nothing, else the newest."""
    if point_id is not None:
        return points.valid_id(point_id)
    if not (found := points.list(site, platform.config.buckets.backups)):
        raise BackupError(f"Site '{site.name}' holds no restore point", "Run the DAG backup_platform first.")
    lacking = {one.subject for one in platform.ledger.find("restore-point") if one.body.get("dangling")}
    return next((one for one in found if one not in lacking), found[0])


class _Drill:
    """One drill's state: the checks so far, and where things are."""

    def __init__(
        self, platform: Platform, site: Site, point_id: str, progress: Callable[[str], object], tools: postgresql.Tools
    ) -> None:
        self.platform, self.site, self.point_id = platform, site, point_id
        self.progress, self.tools = progress, tools
        self.backups = platform.config.buckets.backups
        self.connection = platform.database("drill")
        self.checks: list[Check] = []
        self.created_at: datetime | None = None

    @cached_property
    def keyring(self) -> Keyring:
        return open_keyring(self.platform, self.progress)

    def add(self, check: Check) -> None:
        self.checks.append(check)
        self.progress(f"{ {True: 'ok', False: 'FAILED', None: 'not run'}[check.ok] }: {check.what} ({check.detail})")

    def attempt(self, what: str, step: Callable[[], T]) -> T | None:
        """A step's value; None, and a failed check that says why, when it raised."""
        self.progress(f"{what} ...")
        try:
            return step()
        except RempartError as error:
            self.add(Check(what, False, error.what))
            return None

    def run(self, began: datetime, suffix: str) -> datetime:
        """All steps and the removal of the scratch space; the moment of the last check before that removal."""
        for old in scratch.leftovers(self.site, self.backups):
            self.progress(f"removing what the drill {old.id} left behind ...")
            self._remove(old)
        manifest = self.attempt("the manifest is the one on record", self._manifest)
        if manifest is None:
            return self.platform.clock()
        self.created_at = manifest.created_at
        self.add(Check("the manifest is the one on record", True, f"{len(manifest.objects)} objects"))
        what = "the chain of restore points vouches for it"
        if (length := self.attempt(what, lambda: self._vouched(manifest))) is None:
            return self.platform.clock()
        self.add(Check(what, True, f"{length} links, each signed"))
        lacks = "; ".join(manifest.dangling[:5]) + (" ..." if len(manifest.dangling) > 5 else "")
        self.add(Check("nothing is missing that it refers to", manifest.consistent, lacks or "every reference is held"))
        space = scratch.name_scratch(began, suffix, [dump.name for dump in manifest.databases])
        try:
            with ExitStack() as stack:
                self._restore_and_check(manifest, space, stack)
                ended = self.platform.clock()
        finally:
            what = "the scratch space is removed"
            if self.attempt(what, lambda: self._remove(space)):
                self.add(Check(what, True, "databases, bucket and server"))
        return ended

    def _prepare(self, space: scratch.Scratch) -> bool:
        scratch.prepare(self.site, self.backups, self.connection, space)
        return True

    def _remove(self, space: scratch.Scratch) -> bool:
        scratch.remove(self.site, self.backups, self.connection, space)
        return True

    def _manifest(self) -> points.Manifest:
        records = self.platform.ledger.find("restore-point", self.point_id, limit=1)
        if not records:
            raise IntegrityError(
                f"The ledger has no record of restore point {self.point_id}: it may not be what a backup wrote",
                "Choose another point; if its backup was killed at the very end, the next one replaces it.",
            )
        return points.read(self.site, self.backups, self.point_id, str(records[0].body["manifest_sha256"]))

    def _vouched(self, manifest: points.Manifest) -> int:
        """How many links the chain has. Raises IntegrityError if it is broken, or does not name this manifest."""
        links = chain.verify(chain.read(self.site, self.backups), self.platform.trusted_keys())
        link = chain.of_point(links, manifest.id)
        if link.manifest_sha256 != hashlib.sha256(points.encode(manifest)).hexdigest():
            raise IntegrityError(
                f"Link {link.seq} of the chain vouches for another manifest of restore point {manifest.id}",
                "Choose another point, and find out who changed the backup bucket.",
            )
        return len(links)

    def _restore_and_check(self, manifest: points.Manifest, space: scratch.Scratch, stack: ExitStack) -> None:
        if not self.attempt("scratch databases and bucket are created", lambda: self._prepare(space)):
            return
        rows: dict[str, dict[str, int]] = {}
        server: tracking_server.ScratchServer | None = None
        # MLflow's database first: its server starts, which takes longest, while the others are restored
        for dump in sorted(manifest.databases, key=lambda one: one.name != "mlflow"):
            what = f"database {dump.name} is restored with the rows on record"
            found = self.attempt(what, lambda dump=dump: self._database(dump, space))  # type: ignore[misc] # bound now
            if found is None:
                continue
            rows[dump.name], content = found
            if dump.name == "mlflow":
                server = stack.enter_context(self._server(space))
            self.add(equal_tables(what, dump.tables, rows[dump.name], show=True))
            if dump.digests:
                label = {"feast_online": "online features", "ledger": "evidence"}.get(dump.name, dump.name)
                self.add(equal_tables(f"{label} are equal in content", dump.digests, content, show=False))
        for name, table, label in (
            ("ledger", "public.evidence", "evidence"),
            ("airflow", "public.dag_run", "DAG runs"),
        ):
            if name in rows:
                wanted = manifest.database(name).tables
                self.add(equal_count(f"{label}: none is lost", table, wanted, rows[name]))
        self._sealed(manifest)
        self._models(manifest, space, server)

    def _sealed(self, manifest: points.Manifest) -> None:
        """Open a sample of the sealed objects, another at each drill, and the secrets."""
        chosen = random.Random(f"{self.point_id} {self.platform.clock()}")  # noqa: S311 # a sample, no secret
        sample = chosen.sample(manifest.objects, min(SAMPLE, len(manifest.objects)))
        what = f"sealed objects open to what is on record, {len(sample)} of {len(manifest.objects)}"
        with spool_folder() as folder:
            size = self.attempt(what, lambda: sum(self._open(one, folder / "object") for one in sample))
            if size is not None:
                self.add(Check(what, True, f"{size} bytes"))
            what = "the platform's secrets open, and Airflow's key is among them"
            found = self.attempt(what, lambda: self._secrets(manifest.secrets, folder / "secrets"))
        if found is not None:
            keyed = platform_secrets.has_fernet_key(found)
            missing = "Airflow's Fernet key is missing: its connections and variables could not be read"
            self.add(Check(what, keyed, f"{len(found)} values" if keyed else missing))

    def _open(self, one: points.HeldObject | points.Secrets, file: Path) -> int:
        key = self.keyring.open(domains.parse(one.sealed.domain), one.sealed.serial)
        unseal(self.site, self.backups, key, one.sealed, file, sha256=one.sha256, size=one.size)
        return one.size

    def _secrets(self, held: points.Secrets, file: Path) -> dict[str, str]:
        self._open(held, file)
        return platform_secrets.decode(file.read_bytes())

    def _database(self, dump: points.Dump, space: scratch.Scratch) -> tuple[dict[str, int], dict[str, str]]:
        """Restore one dump; rows and digests (where the point has any) of each table."""
        target = postgresql.for_database(self.connection, space.database(dump.name))
        key = self.keyring.open(domains.parse(dump.domain), dump.serial)
        repository = repository_of(self.platform, self.site.name, key)
        restore_from(self.tools, repository, dump.snapshot, target, database=dump.name, sha256=dump.sha256)
        with postgresql.session(target, "count restored rows") as opened:
            return postgresql.row_counts(opened), postgresql.digests(opened) if dump.digests else {}

    def _models(
        self, manifest: points.Manifest, space: scratch.Scratch, server: tracking_server.ScratchServer | None
    ) -> None:
        what = "MLflow's artifacts are restored as on record"
        held = [one for one in manifest.objects if one.bucket == "artifacts" and one.key.startswith("mlflow/")]
        copied = self.attempt(what, lambda: scratch.restore_objects(self.site, held, self._bucket, space.bucket))
        if copied:
            self.add(Check(what, True, f"{copied[0]} objects, {copied[1]} bytes"))
        if server is None or not copied:
            self.add(Check("the restored MLflow starts", None, "not run: what it needs was not restored"))
            return
        what = "the restored registry names the champions on record"
        champions = self.attempt(what, lambda: self._champions(space))
        if champions is not None:
            found = ", ".join(f"{name} version {version}" for name, version in champions.items()) or "none"
            self.add(Check(what, champions == manifest.champions, found))
        # while the server starts
        live = {name: self._live(name, version, space) for name, version in manifest.champions.items()}
        what = "the restored MLflow starts"
        tracking = self.attempt(what, server.wait)
        if tracking is None:
            return
        self.add(Check(what, True, f"on {tracking.host}:{tracking.port}, until the drill ends"))
        if not manifest.champions:
            detail = "not run: no pipeline had a champion when the point was made"
            self.add(Check("the champions predict as before", None, detail))
        for name, version in manifest.champions.items():
            known = live[name]
            if known is None:
                continue
            what = _predicts(name, version)
            check = self.attempt(what, lambda w=what, n=name, v=version, k=known: _compare(w, n, v, tracking, k))  # type: ignore[misc] # bound now
            if check:
                self.add(check)

    def _bucket(self, logical: str) -> str:
        return physical_bucket(self.platform.config, logical)

    def _champions(self, space: scratch.Scratch) -> dict[str, str]:
        database = postgresql.for_database(self.connection, space.database("mlflow"))
        with postgresql.session(database, "read the restored champions") as opened:
            return postgresql.champions(opened)

    def _server(self, space: scratch.Scratch) -> AbstractContextManager[tracking_server.ScratchServer]:
        place = self.platform.config.sites[self.site.name]
        return tracking_server.scratch_server(
            space.id,
            self.platform.tracking(),
            postgresql.for_database(self.connection, space.database("mlflow")),
            self.platform.connections(place.connection),
            place.region,
            space.bucket,
        )

    def _live(self, name: str, version: str, space: scratch.Scratch) -> _Live | None:
        """What the live server's model of this version predicts on the held-out rows; a failed check if it cannot."""
        return self.attempt(_predicts(name, version), lambda: self._predict_live(name, version, space))

    def _predict_live(self, name: str, version: str, space: scratch.Scratch) -> _Live:
        from rempart.models import loading

        ledger = PostgresqlLedger(postgresql.for_database(self.connection, space.database("ledger")))
        bodies = [record.body for record in ledger.find("candidate", name, limit=10_000)]
        record = next((body for body in bodies if str(body.get("version")) == version), None)
        if record is None:
            raise BackupError(
                f"The restored ledger has no evidence of {name} version {version}'s training",
                "Promote only what the train DAG registered; then back up again.",
            )
        table = self._held_out(record["dataset"])
        return _Live(record, table, loading.load(self.platform.tracking(), record).predict(table))

    def _held_out(self, dataset: dict[str, Any]) -> Any:
        """Held-out rows of a frozen training set, a pyarrow Table, read from the replica. Raises IntegrityError."""
        import pyarrow.compute
        import pyarrow.parquet

        body = self.site.read(dataset["bucket"], dataset["key"], sha256=dataset["sha256"])
        table = pyarrow.parquet.read_table(io.BytesIO(body))
        return table.filter(pyarrow.compute.equal(table["split"], "holdout"))


@dataclass(frozen=True)
class _Live:
    """A champion's training record, the held-out rows (pyarrow Table) and the live model's predictions (numpy)."""

    record: Mapping[str, Any]
    table: Any
    predictions: Any


def _predicts(name: str, version: str) -> str:
    return f"champion {name} version {version} predicts as before"


def _compare(what: str, name: str, version: str, restored: Connection, live: _Live) -> Check:
    """The champion of the restored MLflow beside the live model of the same version."""
    from rempart.models import loading, registry

    if (found := registry.champion(restored, name)) != version:
        return Check(what, False, f"the restored registry's champion is {found or 'none'}")
    predictions = loading.load(restored, live.record).predict(live.table)
    return equal_predictions(what, predictions.ravel().tolist(), live.predictions.ravel().tolist())
