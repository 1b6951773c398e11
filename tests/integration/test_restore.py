"""A side-by-side restore on the running stack: everything of a point equals its record, and is removed again."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from rempart.backup.databases import postgresql
from rempart.backup.points import points
from rempart.backup.points.restore_plan import Part
from rempart.deployment.setup import paths
from rempart.errors import BackupError, RempartError
from rempart.flows.backup.back_up import back_up
from rempart.flows.restore import restore as flow
from rempart.flows.restore.fill import empty
from rempart.flows.restore.restore_aside import restore_aside
from rempart.flows.restore.restore_databases import Server, administrator
from rempart.flows.restore.restore_source import OpenPoint, Wish, find, open_point, plan
from rempart.flows.restore.targets import OWNERS, Sandbox, live_names
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.memory import MemoryLedger
from rempart.models import tracking
from rempart.settings import sections
from rempart.settings.config import DATABASES
from tests.conftest import OwnContinuity
from tests.registered import insert_version

pytestmark = pytest.mark.tracking

BODIES = {
    ("lake", "raw/hotel_bookings/1/a.csv"): b"a,b\n1,2\n" * 5000,
    ("lake", "snapshots/hotel_bookings/s/manifest.json"): b"{}",
    ("lake", "raw/another/1/a.csv"): b"",
    ("artifacts", "jobs/1/model.onnx"): b"\x00\x01" * 40000,
}


@pytest.fixture(scope="module")
def house(platform: Platform, capability_records: list[dict[str, object]]) -> Iterator[Platform]:
    """The stack's databases; buckets of the module's own with a few objects, and a model that MLflow knows."""
    mark = f"restore-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    for site in sites:
        for name in (buckets.lake, buckets.artifacts):
            site.ensure_bucket(name, versioned=True)
        site.ensure_bucket(buckets.backups, versioned=True, locked=site.name == "haven")
    ledger = MemoryLedger()
    for record in capability_records:
        ledger.append("capabilities", str(record["site"]), record)
    for (bucket, key), body in BODIES.items():
        sites[0].write(getattr(buckets, bucket), key, body, metadata={"note": "kept"})
    sites[0].write(buckets.artifacts, f"models/{mark}/1/MLmodel", b"model")
    with tracking.session(platform.tracking()) as client:
        client.create_registered_model(mark)
    insert_version(mark, f"s3://{buckets.artifacts}/models/{mark}/1")
    with tracking.session(platform.tracking()) as client:
        client.set_model_version_tag(mark, "1", "rempart.job_id", "1")
    settings = platform.config.model_copy(update={"buckets": buckets})
    continuity = OwnContinuity(platform.database("continuity"))
    yield dataclasses.replace(platform, config=settings, ledger_=ledger, continuity_=continuity)
    with tracking.session(platform.tracking()) as client:
        client.delete_registered_model(mark)


@pytest.fixture(scope="module")
def point(house: Platform) -> str:
    return back_up(house).id


def opened(house: Platform, wish: Wish) -> OpenPoint:
    """As a stranger opens it: with the keys alone. Named, for MLflow may know models that are in other buckets."""
    newest = points.list(house.site("haven", "personal"), house.config.buckets.backups)[0]
    wish = wish if wish.point else dataclasses.replace(wish, point=newest)
    detached = dataclasses.replace(house, ledger_=MemoryLedger())
    return open_point(find(detached, wish, house.trusted_keys()), wish, own_identity(house.connections))


def names(platform: Platform) -> set[str]:
    with psycopg.connect(platform.database("drill").postgresql_url()) as session:
        return {row[0] for row in session.execute("SELECT datname FROM pg_database").fetchall()}


def test_everything_is_restored_beside_the_platform_and_removed_again(
    stack: paths.Stack, house: Platform, point: str, caplog: pytest.LogCaptureFixture
) -> None:
    wish = Wish("haven", aside=f"t{secrets.token_hex(3)}")
    found = opened(house, wish)
    assert found.manifest.id == point
    selection = plan(found, wish)
    result = flow.restore(stack, found, wish, selection, live=lambda: house)
    try:
        assert result.ok and set(result.databases) == set(DATABASES)
        assert "database airflow is restored with the rows" in caplog.text
        assert {f"{name}_{wish.aside}" for name in DATABASES} <= names(house)
        assert result.objects == len(BODIES) + 1 and result.served == {"replica": result.objects}
        primary = house.site("primary", "personal")
        for (bucket, key), body in BODIES.items():
            name = f"{getattr(house.config.buckets, bucket)}-{wish.aside}"
            info, read = primary.fetch(name, key)
            assert read == body and info.metadata["note"] == "kept"
        record = house.ledger.find("restore", point)[0].body
        assert record["ok"] is True and record["parts"] == ["all"] and record["aside"] == wish.aside
        assert set(record["steps"]) >= {"databases", "objects"} and 0 < record["rto_seconds"] < 300
        assert not (stack.var / f"restore-{wish.aside}.json").exists()
        again = flow.restore(stack, found, wish, selection, live=lambda: house)
        assert again.ok and again.served == {"in place": result.objects} and not again.object_bytes
    finally:
        flow.remove(stack, found, wish, selection, lambda: house)
    assert not {name for name in names(house) if str(wish.aside) in name}


def test_the_ledger_restored_aside_belongs_to_a_role_that_cannot_log_in(
    stack: paths.Stack, house: Platform, point: str
) -> None:
    wish = Wish("haven", parts=(Part("database", "ledger"),), aside=f"t{secrets.token_hex(3)}")
    found = opened(house, wish)
    selection = plan(found, wish)
    flow.restore(stack, found, wish, selection, live=lambda: house)
    try:
        admin = postgresql.for_database(administrator(stack), f"ledger_{wish.aside}")
        query = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
        with psycopg.connect(admin.postgresql_url()) as session:
            assert session.execute(query).fetchall() == [("ledger_owner",)]
            settings = session.execute("SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0").fetchone()
            assert settings == (0,)
    finally:
        flow.remove(stack, found, wish, selection, lambda: house)


@pytest.mark.parametrize("part", ["dataset:hotel_bookings", "bucket:artifacts", "model"])
def test_one_part_is_restored_alone(stack: paths.Stack, house: Platform, point: str, part: str) -> None:
    name = house.config.buckets.lake.removesuffix("-lake")
    kind, _, rest = (part if part != "model" else f"model:{name}").partition(":")
    wish = Wish("haven", parts=(Part(kind, rest),), aside=f"t{secrets.token_hex(3)}")  # type: ignore[arg-type]
    found = opened(house, wish)
    selection = plan(found, wish)
    flow.restore(stack, found, wish, selection, live=lambda: house)
    try:
        bucket = "lake" if kind == "dataset" else "artifacts"
        target = f"{getattr(house.config.buckets, bucket)}-{wish.aside}"
        keys = {info.key for info in house.site("primary", "personal").list(target)}
        expected = {
            "dataset": {key for name, key in BODIES if "hotel_bookings" in key},
            "bucket": {"jobs/1/model.onnx", f"models/{name}/1/MLmodel"},
            "model": {"jobs/1/model.onnx", f"models/{name}/1/MLmodel"},
        }
        assert keys == expected[kind] and not selection.databases
    finally:
        flow.remove(stack, found, wish, selection, lambda: house)


def test_the_dag_restores_beside_the_platform_and_removes_it_again(
    stack: paths.Stack, house: Platform, point: str
) -> None:
    arguments: dict[str, Any] = {"aside": f"t{secrets.token_hex(3)}", "point": point}
    arguments["parts"] = ["database:feast_registry", "bucket:artifacts"]
    names_made = {f"feast_registry_{arguments['aside']}"}
    bucket = f"{house.config.buckets.artifacts}-{arguments['aside']}"
    planned = restore_aside(house, stack, **arguments)
    assert planned.dry_run and set(planned.databases) == names_made and planned.buckets == (bucket,)
    assert not names_made & names(house)
    try:
        done = restore_aside(house, stack, dry_run=False, **arguments)
        assert done.result and done.result.ok and names_made <= names(house)
        assert len(list(house.site("primary", "personal").list(bucket))) == done.objects == 2
        json.dumps(dataclasses.asdict(done))
    finally:
        restore_aside(house, stack, dry_run=False, removing=True, **arguments)
    assert not names_made & names(house)
    restore_aside(house, stack, dry_run=False, removing=True, **arguments)  # is no error
    assert house.ledger.find("restore", point)[0].body["removed"] == [*names_made, bucket]
    for wrong in ({"aside": "x; DROP"}, {"parts": ["database:../x y"]}, {"point": "../../keys"}):
        with pytest.raises(RempartError):
            restore_aside(house, stack, dry_run=False, **{**arguments, **wrong})


def test_a_database_of_a_running_platform_is_not_replaced(stack: paths.Stack, house: Platform, point: str) -> None:
    wish = Wish("haven", parts=(Part("database", "mlflow"),))
    found = opened(house, wish)
    with pytest.raises(BackupError, match="The platform runs on this machine"):
        flow.restore(stack, found, wish, plan(found, wish), live=lambda: house)
    whole = Wish("haven")
    with pytest.raises(BackupError, match="The platform runs on this machine"):
        flow.restore(stack, opened(house, whole), whole, plan(found, whole), live=lambda: house)


def test_a_database_that_holds_something_else_is_not_dropped_unless_told(
    stack: paths.Stack, house: Platform, point: str
) -> None:
    wish = Wish("haven", parts=(Part("database", "feast_registry"),), aside=f"t{secrets.token_hex(3)}")
    found = opened(house, wish)
    selection, name = plan(found, wish), f"feast_registry_{wish.aside}"
    owner = house.database("feast_registry")
    with psycopg.connect(administrator(stack).postgresql_url(), autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {} OWNER feast_registry").format(sql.Identifier(name)))
    try:
        with psycopg.connect(postgresql.for_database(owner, name).postgresql_url(), autocommit=True) as session:
            session.execute("CREATE TABLE precious (id int); INSERT INTO precious VALUES (1)")
        with pytest.raises(BackupError, match=r"not empty: public\.precious has rows"):
            flow.restore(stack, found, wish, selection, live=lambda: house)
        knowing = dataclasses.replace(wish, force=True)
        assert flow.restore(stack, found, knowing, selection, live=lambda: house).ok
    finally:
        flow.remove(stack, found, wish, selection, lambda: house)


@pytest.mark.full
def test_an_administrator_who_is_no_superuser_restores_every_database(
    stack: paths.Stack, house: Platform, point: str
) -> None:
    """As an operator's managed PostgreSQL has it: he may make databases, and is a member of their owners."""
    mark = f"t{secrets.token_hex(3)}"
    role, owners = sql.Identifier(f"dba_{mark}"), ["ledger_owner", *(name for name in DATABASES if name != "ledger")]
    admin = administrator(stack)
    with psycopg.connect(admin.postgresql_url(), autocommit=True) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB NOSUPERUSER PASSWORD 'of a test'").format(role))
        session.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
        for owner in owners:
            session.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), role))
    dba = dataclasses.replace(admin, login=f"dba_{mark}", password="of a test", schema="postgres")
    found = opened(house, Wish("haven", point=point))
    sandbox = Sandbox(
        dba,
        house.site("primary", "personal"),
        {name: f"{name}_{mark}" for name in DATABASES},
        {},
        live_names(house.config, house.connections),
        {name: OWNERS.get(name, name) for name in DATABASES},
    )
    server = Server(sandbox, postgresql.find_tools())
    try:
        for dump in found.manifest.databases:
            repository = repository_of(house.config, house.connections, "haven", found.keys.of(dump.scope, dump.serial))
            checks = server.restore(repository, dump)
            assert checks and not [check for check in checks if check.ok is False], checks
        # what no dump holds he gives again himself, by the same file
        with psycopg.connect(dataclasses.replace(dba, schema=f"ledger_{mark}").postgresql_url()) as session:
            session.execute((stack.root / "include" / "sql" / "platform" / "ledger.sql").read_text(encoding="utf-8"))
            may = "SELECT has_table_privilege('ledger', 'public.evidence', 'INSERT'),"
            may += " has_table_privilege('ledger', 'public.evidence', 'UPDATE')"
            assert session.execute(may).fetchone() == (True, False)
    finally:
        empty(sandbox)
        with psycopg.connect(admin.postgresql_url(), autocommit=True) as session:
            session.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
