"""Check a restore point that is restored into a sandbox. Each finding is a check."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rempart.backup.databases import postgresql
from rempart.backup.drill import airflow_schema, tracking_server
from rempart.backup.drill.checks import RestoreCheck, equal_count, equal_predictions
from rempart.backup.keys import platform_secrets
from rempart.backup.points import erasures as register
from rempart.backup.points.points import HeldObject, Manifest
from rempart.backup.points.sealed_objects import unseal
from rempart.counts import counted
from rempart.features.databases import FeatureDatabases
from rempart.flows.drill.drill_steps import Tally
from rempart.flows.restore import restore_checks
from rempart.flows.restore.restore_source import OpenPoint
from rempart.flows.restore.targets import Sandbox
from rempart.flows.shared import erasures
from rempart.flows.shared.platform import Platform
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.settings.config import Connection
from rempart.sites.spool import spool_folder

logger = logging.getLogger(__name__)

SAMPLE = 50
"""Number of sealed objects that a drill opens."""
FEATURES = frozenset({"feast_registry", "feast_offline", "feast_online"})


@dataclass(frozen=True)
class Sealed:
    """Sealed objects of a restore point at the backup site."""

    point: OpenPoint

    def check(self, tally: Tally) -> dict[str, str] | None:
        """Open a random sample of objects, and the secrets. Return the secrets. The caller must not log them."""
        manifest = self.point.manifest
        chosen = random.Random(f"{manifest.id} {self.point.platform.clock()}")  # noqa: S311 # a sample, no secret
        sample = chosen.sample(manifest.objects, min(SAMPLE, len(manifest.objects)))
        what = f"sealed objects open to the recorded content, {len(sample)} of {len(manifest.objects)}"
        with spool_folder() as folder:
            size = tally.attempt(what, lambda: sum(self._open(sealed, folder / "object") for sealed in sample))
        if size is not None:
            tally.add(RestoreCheck(what, True, f"{size} bytes"))
        what = "the platform's secrets open and contain Airflow's key"
        found = tally.attempt(what, self.point.secrets)
        if found is not None:
            keyed = platform_secrets.has_fernet_key(found)
            missing = "Airflow's Fernet key is missing: its connections and variables would be unreadable"
            tally.add(RestoreCheck(what, keyed, counted(len(found), "value") if keyed else missing))
        tally.judge_all("the register of erasures", self._register)
        return found

    def _register(self) -> Iterator[RestoreCheck]:
        """Return whether a restore could apply the erasures again."""
        platform = self.point.platform
        entries, doubts = register.verified(
            register.read(self.point.site, platform.config.buckets.backups), platform.trusted_keys()
        )
        for scope, serial in sorted({(entry.scope, entry.serial) for entry in entries}):
            self.point.keys.of(scope, serial)
        wrong = [f"{file}: {why}" for file, why in doubts.items()]
        what = "the register of erasures is signed, and the keys of its pseudonyms open"
        yield RestoreCheck(what, not wrong, wrong[0] if wrong else counted(len(entries), "entry", "entries"))

    def _open(self, held: HeldObject, file: Path) -> int:
        key, backups = self.point.keys.of_sealed(held.sealed), self.point.platform.config.buckets.backups
        unseal(self.point.site, backups, key, held.sealed, file, sha256=held.sha256, size=held.size)
        return held.size


@dataclass(frozen=True)
class Restored:
    """A restore point in its sandbox: the databases, and the platform on top of them."""

    point: OpenPoint
    sandbox: Sandbox
    drill_id: str

    @property
    def platform(self) -> Platform:
        return self.point.platform

    @property
    def manifest(self) -> Manifest:
        return self.point.manifest

    def _features(self) -> FeatureDatabases:
        """Return the feature store in the sandbox."""
        names = ("feast_registry", "feast_offline", "feast_online")
        return FeatureDatabases(*(self.sandbox.connection(name) for name in names))

    def _ledger(self) -> PostgresqlLedger:
        """Return the ledger in the sandbox."""
        return PostgresqlLedger(self.sandbox.connection("ledger"))

    def count_rows(self, tally: Tally, restored: Collection[str]) -> None:
        """Check that no record of evidence and no DAG run is lost."""
        for name, table, label in (
            ("ledger", "public.evidence", "evidence"),
            ("airflow", "public.dag_run", "DAG runs"),
        ):
            if name in restored:
                what = f"{label}: no row is lost"
                tally.judge(what, partial(self._equal_count, what, name, table))

    def _equal_count(self, what: str, name: str, table: str) -> RestoreCheck:
        with postgresql.session(self.sandbox.connection(name), "count restored rows") as opened:
            return equal_count(what, table, self.manifest.database(name).tables, postgresql.row_counts(opened))

    def check_databases(self, tally: Tally, restored: set[str], secrets: Mapping[str, str] | None) -> None:
        """Check the restored content: secrets decrypt, features agree, the ledger verifies, Airflow migrates.

        The checks that change a scratch database come last.
        """
        if "airflow" in restored and secrets is not None:
            what = "Airflow's encrypted connections and variables can be read"
            tally.judge(what, lambda: restore_checks.decrypts(self.sandbox.connection("airflow"), secrets))
        if "ledger" in restored:
            what = "the ledger verifies up to the record that the point names"
            ledger = PostgresqlLedger(self.sandbox.connection("ledger"))
            tally.judge(what, lambda: restore_checks.ledger_verifies(ledger, self.manifest.ledger_head))
        what = "online features equal the newest offline ones"
        if restored >= FEATURES:
            tally.judge_all(what, lambda: restore_checks.online_features(self._features()))
        else:
            tally.add(RestoreCheck(what, None, "not run: not all databases of features were restored"))
        if "airflow" in restored:
            what = "Airflow's restored database migrates to this release"
            tally.judge(what, self._migrates)

    def _migrates(self) -> RestoreCheck:
        return airflow_schema.migrates(self.sandbox.connection("airflow"), self.drill_id)

    def tracking(self) -> AbstractContextManager[tracking_server.ScratchServer]:
        """Start MLflow on its restored database and the sandbox's bucket."""
        place = self.platform.config.sites[self.point.site.name]
        return tracking_server.scratch_server(
            self.drill_id,
            self.platform.tracking(),
            self.sandbox.connection("mlflow"),
            self.platform.connections(place.connection),
            place.region,
            self.sandbox.bucket("artifacts"),
        )

    def check_models(self, tally: Tally, server: tracking_server.ScratchServer | None, *, trusts_live: bool) -> None:
        """Check that the champions load from the restored MLflow and predict.

        Compare them with the live models if the point is trusted.
        """
        if server is None:
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
            tally.judge(what, partial(_compare, what, tracking, known))

    def _champions(self) -> dict[str, str]:
        with postgresql.session(self.sandbox.connection("mlflow"), "read the restored champions") as opened:
            return postgresql.champions(opened)

    def _alone(self, tracking: Connection) -> Iterator[RestoreCheck]:
        known = erasures.rewritten(self.platform.ledger)
        return restore_checks.champions(
            lambda: tracking, self._ledger(), self.manifest.champions, self.point.site, known
        )

    def _live(self, tally: Tally) -> Iterator[tuple[tuple[str, str], _Live]]:
        """Return the predictions of the live server's models on held-out rows, or add a failed check."""
        for name, version in self.manifest.champions.items():
            found = tally.attempt(
                f"the live model {name} version {version} predicts", partial(self._predict_live, name, version)
            )
            if found:
                yield (name, version), found

    def _predict_live(self, name: str, version: str) -> _Live:
        record = restore_checks.training_record(self._ledger(), name, version)
        table = restore_checks.held_out(self.point.site, record["dataset"], erasures.rewritten(self.platform.ledger))
        return _Live(record, table, restore_checks.predicted(self.platform.tracking(), record, table))


@dataclass(frozen=True)
class _Live:
    """Training record of a champion, held-out rows (pyarrow Table) and the figures that the live model predicts."""

    record: Mapping[str, Any]
    table: Any
    predictions: Sequence[float]


def _predicts(name: str, version: str) -> str:
    return f"champion {name} version {version} predicts as before"


def _compare(what: str, restored: Connection, live: _Live) -> RestoreCheck:
    """Compare the recorded champion in the restored MLflow with the live model of the same version."""
    predictions = restore_checks.predicted(restored, live.record, live.table)
    return equal_predictions(what, predictions, live.predictions)
