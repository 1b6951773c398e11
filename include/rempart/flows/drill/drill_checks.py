"""Check a restore point that is restored in scratch space. Each finding is a check."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rempart.backup.databases import postgresql
from rempart.backup.databases.stored_dumps import restore_from
from rempart.backup.drill import airflow_schema, scratch, tracking_server
from rempart.backup.drill.checks import RestoreCheck, equal_predictions
from rempart.backup.keys import encryption_scopes, platform_secrets
from rempart.backup.keys.keyring import Keyring
from rempart.backup.points import erasures as register
from rempart.backup.points import points
from rempart.backup.points.sealed_objects import unseal
from rempart.errors import RempartError
from rempart.flows.restore import restore_checks
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.replication_pairs import physical_bucket
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.settings.config import DATABASES, Connection
from rempart.sites.port import Site
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")
SAMPLE = 50
"""Number of sealed objects that a drill opens."""
FEATURES = frozenset({"feast_registry", "feast_offline", "feast_online"})


@dataclass
class Tally:
    """Collects checks and logs each one."""

    checks: list[RestoreCheck] = field(default_factory=list)

    def add(self, check: RestoreCheck) -> None:
        self.checks.append(check)
        logger.log(logging.WARNING if check.ok is False else logging.INFO, "%s", check.line)

    def attempt(self, what: str, step: Callable[[], T]) -> T | None:
        """Return the value of a step, or None after adding a failed check with the error."""
        logger.info("%s ...", what)
        try:
            return step()
        except RempartError as error:
            self.add(RestoreCheck(what, False, error.what))
            return None

    def judge(self, what: str, step: Callable[[], RestoreCheck]) -> None:
        """Add the check that a step returns, or a failed check with its error."""
        self.judge_all(what, lambda: [step()])

    def judge_all(self, what: str, step: Callable[[], Iterable[RestoreCheck]]) -> None:
        """Add the checks that a step returns, or a failed check with its error."""
        for check in self.attempt(what, lambda: list(step())) or ():
            self.add(check)


@dataclass(frozen=True)
class Sealed:
    """Sealed objects of a restore point at the backup site."""

    platform: Platform
    site: Site
    keyring: Keyring

    def check(self, tally: Tally, manifest: points.Manifest) -> dict[str, str] | None:
        """Open a new random sample of objects, and the secrets. Return the secrets: never log them."""
        chosen = random.Random(f"{manifest.id} {self.platform.clock()}")  # noqa: S311 # a sample, no secret
        sample = chosen.sample(manifest.objects, min(SAMPLE, len(manifest.objects)))
        what = f"sealed objects open to the recorded content, {len(sample)} of {len(manifest.objects)}"
        with spool_folder() as folder:
            size = tally.attempt(what, lambda: sum(self._open(sealed, folder / "object") for sealed in sample))
            if size is not None:
                tally.add(RestoreCheck(what, True, f"{size} bytes"))
            what = "the platform's secrets open and contain Airflow's key"
            found = tally.attempt(what, lambda: self._secrets(manifest.secrets, folder / "secrets"))
        if found is not None:
            keyed = platform_secrets.has_fernet_key(found)
            missing = "Airflow's Fernet key is missing: its connections and variables would be unreadable"
            tally.add(RestoreCheck(what, keyed, f"{len(found)} values" if keyed else missing))
        tally.judge_all("the register of erasures", self._register)
        return found

    def _register(self) -> Iterator[RestoreCheck]:
        """Return whether a restore could apply the erasures again; None if nobody was erased."""
        entries, doubts = register.verified(
            register.read(self.site, self.platform.config.buckets.backups), self.platform.trusted_keys()
        )
        for scope, serial in sorted({(entry.scope, entry.serial) for entry in entries}):
            self.keyring.open(encryption_scopes.parse(scope), serial)
        if entries or doubts:
            wrong = [f"{file}: {why}" for file, why in doubts.items()]
            what = "the register of erasures is signed, and the keys of its pseudonyms open"
            yield RestoreCheck(what, not wrong, wrong[0] if wrong else f"{len(entries)} entries")

    def _open(self, held_object: points.HeldObject | points.Secrets, file: Path) -> int:
        key = self.keyring.open(encryption_scopes.parse(held_object.sealed.scope), held_object.sealed.serial)
        backups = self.platform.config.buckets.backups
        unseal(self.site, backups, key, held_object.sealed, file, sha256=held_object.sha256, size=held_object.size)
        return held_object.size

    def _secrets(self, held: points.Secrets, file: Path) -> dict[str, str]:
        self._open(held, file)
        return platform_secrets.decode(file.read_bytes())


@dataclass(frozen=True)
class Restored:
    """A restore point in scratch space: its databases, and the platform on top of them."""

    platform: Platform
    site: Site
    keyring: Keyring
    manifest: points.Manifest
    space: scratch.Scratch
    tools: postgresql.Tools

    @property
    def server(self) -> Connection:
        return self.platform.database("drill")

    def database(self, name: str) -> Connection:
        """Return the scratch database that replaces one of the platform."""
        return postgresql.for_database(self.server, self.space.database(name))

    def on_scratch(self, tracking: Connection | None = None) -> Platform:
        """Return the platform with databases, ledger and (if given) MLflow server replaced by scratch ones."""
        names = {f"pg_{name}": name for name in DATABASES}

        def resolve(name: str) -> Connection:
            if name == "mlflow" and tracking:
                return tracking
            return self.database(names[name]) if name in names else self.platform.connections(name)

        return replace(self.platform, connections=resolve, ledger_=PostgresqlLedger(self.database("ledger")))

    def restore(self, dump: points.Dump) -> tuple[dict[str, int], dict[str, str]]:
        """Restore one dump. Return rows and, if recorded, digests of each table."""
        key, target = self.keyring.open(encryption_scopes.parse(dump.scope), dump.serial), self.database(dump.name)
        repository = repository_of(self.platform.config, self.platform.connections, self.site.name, key)
        restore_from(self.tools, repository, dump.snapshot, target, database=dump.name, sha256=dump.sha256)
        with postgresql.session(target, "count restored rows") as opened:
            return postgresql.row_counts(opened), postgresql.digests(opened) if dump.digests else {}

    def check_databases(self, tally: Tally, restored: set[str], secrets: Mapping[str, str] | None) -> None:
        """Check the restored content: secrets decrypt, features agree, the ledger verifies, Airflow migrates.

        The checks that change a scratch database come last.
        """
        if "airflow" in restored and secrets is not None:
            what = "Airflow's encrypted connections and variables can be read"
            tally.judge(what, lambda: restore_checks.decrypts(self.database("airflow"), secrets))
        if "ledger" in restored:
            what = "the ledger verifies up to the record that the point names"
            ledger = PostgresqlLedger(self.database("ledger"))
            tally.judge(what, lambda: restore_checks.ledger_verifies(ledger, self.manifest.ledger_head))
        what = "online features equal the newest offline ones"
        if restored >= FEATURES:
            tally.judge_all(what, lambda: restore_checks.online_features(self.on_scratch()))
        else:
            tally.add(RestoreCheck(what, None, "not run: not every database of features was restored"))
        if "airflow" in restored:
            what = "Airflow's restored database migrates to this release"
            tally.judge(what, self._migrates)

    def _migrates(self) -> RestoreCheck:
        return airflow_schema.migrates(self.database("airflow"), self.space.id)

    def tracking(self) -> AbstractContextManager[tracking_server.ScratchServer]:
        """Start MLflow on its restored database and the scratch bucket."""
        place = self.platform.config.sites[self.site.name]
        return tracking_server.scratch_server(
            self.space.id,
            self.platform.tracking(),
            self.database("mlflow"),
            self.platform.connections(place.connection),
            place.region,
            self.space.bucket,
        )

    def check_models(self, tally: Tally, server: tracking_server.ScratchServer | None, *, trusts_live: bool) -> None:
        """Check that the champions load from the restored MLflow and predict; compare with live models if trusted."""
        what = "MLflow's artifacts equal their record"
        held = [obj for obj in self.manifest.objects if obj.bucket == "artifacts" and obj.key.startswith("mlflow/")]
        copied = tally.attempt(what, lambda: scratch.restore_objects(self.site, held, self._bucket, self.space.bucket))
        if copied:
            tally.add(RestoreCheck(what, True, f"{copied[0]} objects, {copied[1]} bytes"))
        if server is None or not copied:
            tally.add(RestoreCheck("the restored MLflow starts", None, "not run: a required part was not restored"))
            return
        what = "the restored registry names the champions on record"
        found = tally.attempt(what, self._champions)
        if found is not None:
            named = ", ".join(f"{name} version {version}" for name, version in found.items()) or "none"
            ours = {name: version for name, version in found.items() if name in self.manifest.champions}
            tally.add(RestoreCheck(what, ours == self.manifest.champions, named))
        # while the server starts
        live = dict(self._live(tally)) if trusts_live else {}
        what = "the restored MLflow starts"
        tracking = tally.attempt(what, server.wait)
        if tracking is None:
            return
        tally.add(RestoreCheck(what, True, f"on {tracking.host}:{tracking.port}, until the drill ends"))
        if not self.manifest.champions:
            detail = "not run: no pipeline had a champion when the point was made"
            tally.add(RestoreCheck("the champions predict as before", None, detail))
        if not trusts_live:
            tally.judge_all("the champions load and predict", lambda: self._alone(tracking))
        for (name, version), known in live.items():
            what = _predicts(name, version)
            tally.judge(what, lambda w=what, k=known: _compare(w, tracking, k))  # type: ignore[misc] # bound now

    def _bucket(self, logical: str) -> str:
        return physical_bucket(self.platform.config, logical)

    def _champions(self) -> dict[str, str]:
        with postgresql.session(self.database("mlflow"), "read the restored champions") as opened:
            return postgresql.champions(opened)

    def _alone(self, tracking: Connection) -> Iterator[RestoreCheck]:
        known = erasures.rewritten(self.platform.ledger)
        return restore_checks.champions(self.on_scratch(tracking), self.manifest.champions, self.site, known)

    def _live(self, tally: Tally) -> Iterator[tuple[tuple[str, str], _Live]]:
        """Return the predictions of the live server's models on held-out rows, or add a failed check."""
        for name, version in self.manifest.champions.items():
            found = tally.attempt(_predicts(name, version), lambda n=name, v=version: self._predict_live(n, v))  # type: ignore[misc] # bound now
            if found:
                yield (name, version), found

    def _predict_live(self, name: str, version: str) -> _Live:
        from rempart.models import loading

        record = restore_checks.training_record(PostgresqlLedger(self.database("ledger")), name, version)
        table = restore_checks.held_out(self.site, record["dataset"], erasures.rewritten(self.platform.ledger))
        return _Live(record, table, loading.load(self.platform.tracking(), record).predict(table))


@dataclass(frozen=True)
class _Live:
    """Training record of a champion, held-out rows (pyarrow Table) and the live model's predictions (numpy)."""

    record: Mapping[str, Any]
    table: Any
    predictions: Any


def _predicts(name: str, version: str) -> str:
    return f"champion {name} version {version} predicts as before"


def _compare(what: str, restored: Connection, live: _Live) -> RestoreCheck:
    """Compare the recorded champion in the restored MLflow with the live model of the same version."""
    from rempart.models import loading

    predictions = loading.load(restored, live.record).predict(live.table)
    return equal_predictions(what, predictions.ravel().tolist(), live.predictions.ravel().tolist())
