"""Compare the schemas of Airflow's and MLflow's databases with the revisions of this release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rempart.backup.drill import airflow_schema
from rempart.errors import StackError
from rempart.settings.config import Connections


@dataclass(frozen=True)
class Schema:
    """One schema.

    `revision`: empty without a schema, None if unreadable. `head`: the revision of this release, the last of
    the revisions in `known`, from which it can migrate.
    """

    name: str
    database: str
    revision: str | None
    head: str
    known: frozenset[str]

    @property
    def pending(self) -> bool:
        """Return whether this release would migrate the schema."""
        return bool(self.revision) and self.revision != self.head and self.revision in self.known

    @property
    def unknown(self) -> bool:
        """Return whether the revision is unknown to this release."""
        return bool(self.revision) and self.revision not in self.known


@dataclass(frozen=True)
class Lineage:
    """Places of a schema's revisions: a table, and files of a package."""

    name: str
    database: str
    table: str
    package: str
    versions: str


LINEAGES = (
    Lineage("Airflow", "airflow", airflow_schema.AIRFLOW[0], "airflow", airflow_schema.AIRFLOW[1]),
    Lineage("Airflow's users", "airflow", airflow_schema.PEOPLE[0], "airflow", airflow_schema.PEOPLE[1]),
    Lineage("MLflow", "mlflow", "alembic_version", "mlflow", "store/db_migrations/versions"),
    Lineage("MLflow's users", "mlflow", "alembic_version_auth", "mlflow", "server/auth/db/migrations/versions"),
)


def read(resolve: Connections, databases: Sequence[str]) -> Iterator[Schema]:
    """Return the schemas of these databases. Raises BackupError, DatabaseUnavailable, ConnectionMissing."""
    for lineage in LINEAGES:
        if lineage.database in databases:
            known = airflow_schema.revisions(lineage.package, lineage.versions)
            revision = airflow_schema.revision(resolve(f"pg_{lineage.database}"), lineage.table)
            yield Schema(lineage.name, lineage.database, revision, airflow_schema.head(known), frozenset(known))


def check(schemas: Sequence[Schema], *, migrate: bool) -> None:
    """Check that no schema is from a later release or, without `migrate`, needs a migration. Raises StackError."""
    if later := [f"{schema.name} (revision {schema.revision})" for schema in schemas if schema.unknown]:
        raise StackError(
            f"use the schema of {', '.join(later)}: a later release made it, and this release cannot read it",
            "Start that release, or go back by its restore point: docs/runbooks/upgrade-failed.md.",
        )
    pending = [
        f"{schema.name} from revision {schema.revision} to {schema.head}" for schema in schemas if schema.pending
    ]
    if pending and not migrate:
        raise StackError(
            f"start this release: it would migrate {'; '.join(pending)}, and then no earlier release can use the "
            "database",
            "Start the release that made them, then run `rempart stack upgrade` here, which first writes a restore "
            "point. Without that release, or after a restore, run `rempart up --migrate`.",
        )
