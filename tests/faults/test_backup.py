"""Faults that a restore point must survive, on the stack's real PostgreSQL and sites."""

import dataclasses
import http.server
import json
import multiprocessing
import secrets
import signal
import socket
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rempart.backup.databases import postgresql
from rempart.backup.databases.stored_dumps import dump_into, file_name, restore_from
from rempart.backup.points import chain, points
from rempart.coordination import lease
from rempart.errors import BackupError, DatabaseUnavailable, DrillFailed, LeaseHeld, LeaseLost, SiteError
from rempart.flows.backup import back_up as flow
from rempart.flows.backup import stores_not_held
from rempart.flows.backup.back_up import back_up
from rempart.flows.backup.locks import read_known
from rempart.flows.backup.prune import prune
from rempart.flows.drill.drill import drill
from rempart.flows.drill.drill_verdict import RPO, RTO
from rempart.flows.monitoring import rpo
from rempart.flows.restore.repair import uncover
from rempart.flows.restore.restore_source import Wish, find, open_point
from rempart.flows.shared.keys import own_identity
from rempart.flows.shared.platform import Platform
from rempart.flows.shared.repositories import repository_of
from rempart.ledger.memory import MemoryLedger
from rempart.models import tracking
from rempart.settings import config
from rempart.settings.sections import External, StackService
from tests.buckets import own_buckets
from tests.registered import insert_version

pytestmark = pytest.mark.tracking


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, monkeypatch):
    """Four of the stack's databases; empty buckets of the test's at both sites and a ledger in memory."""
    monkeypatch.setattr(flow, "DATABASES", ("airflow", "mlflow", "feast_offline", "ledger"))
    with own_buckets(platform, "fault") as buckets:
        settings = platform.config.model_copy(update={"buckets": buckets})
        yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)


@pytest.fixture
def tools_that(tmp_path):
    """PostgreSQL's tools with a pg_dump that first runs a few lines of shell; `$dumps` is empty unless it dumps."""
    real = postgresql.find_tools().folder

    def make(lines: str) -> postgresql.Tools:
        for name in ("pg_dump", "pg_restore"):
            script = tmp_path / name
            extra = 'for a in "$@"; do case $a in --snapshot=*) dumps=yes;; esac; done\n' + lines
            script.write_text(f'#!/bin/sh\n{extra if name == "pg_dump" else ""}\nexec {real / name} "$@"\n')
            script.chmod(0o755)
        return postgresql.Tools(tmp_path)

    return make


def stored(platform) -> tuple[str, ...]:
    return points.list(platform.site("haven", "personal"), platform.config.buckets.backups)


@pytest.mark.parametrize(
    "fault",
    [
        "printf PGDMP-half; exit 1",
        pytest.param("printf PGDMP-half; kill -9 $$", marks=pytest.mark.full),
        pytest.param("printf PGDMP-half; exit 0", marks=pytest.mark.full),  # a tool that hides its failure
    ],
    ids=["exits", "killed", "hides"],
)
def test_d1_a_dump_that_dies_half_way_leaves_no_point(standing, tools_that, fault):
    first = back_up(standing)
    faulty = tools_that(f'[ "$PGDATABASE" = feast_offline ] && [ "$dumps" ] && {{ {fault}; }}')
    with pytest.raises(BackupError, match="feast_offline"):
        back_up(standing, tools=faulty)
    assert stored(standing) == (first.id,)
    assert [r.subject for r in standing.ledger.find("restore-point")] == [first.id]


def test_d2_an_older_client_is_refused_before_it_dumps(standing, tools_that):
    older = tools_that('[ "$1" = --version ] && { echo "pg_dump (PostgreSQL) 12.22"; exit 0; }')
    with pytest.raises(BackupError, match="pg_dump 12 is older than the server"):
        back_up(standing, tools=older)
    assert stored(standing) == ()


def test_d3_a_table_that_stays_locked_ends_the_backup_in_bounded_time(standing, monkeypatch):
    monkeypatch.setattr(postgresql, "LOCK_WAIT_SECONDS", 1)
    with psycopg.connect(standing.database("feast_offline").postgresql_url()) as holder:
        holder.execute("CREATE TABLE locked_by_a_test (id int)")
        holder.commit()
        try:
            holder.execute("LOCK TABLE locked_by_a_test IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseUnavailable, match="locked"):
                back_up(standing)
        finally:
            holder.rollback()
            holder.execute("DROP TABLE locked_by_a_test")
            holder.commit()
    assert stored(standing) == ()


class Flipped:
    """A real site of which one version of one key has another bit at each read."""

    def __init__(self, site, key, version):
        self._site, self._key, self._version = site, key, version

    def __getattr__(self, name):
        return getattr(self._site, name)

    def fetch(self, bucket, key, **how):
        info, body = self._site.fetch(bucket, key, **how)
        if (key, info.version_id) == (self._key, self._version):
            body = body[:60] + bytes([body[60] ^ 1]) + body[61:]
        return info, body


def test_i7_an_altered_manifest_is_refused_and_restores_nothing(standing):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    key = f"points/{point.id}/manifest.json"
    first = site.head(bucket, key)
    site.write(bucket, key, site.read(bucket, key).replace(b'"source":"primary"', b'"source":"another"'))
    altered = dataclasses.replace(standing, sites={**standing.sites, "haven": Flipped(site, key, first.version_id)})
    with pytest.raises(DrillFailed, match="manifest"):
        drill(altered)
    evidence = standing.ledger.find("drill", point.id)[0].body
    assert evidence["ok"] is False
    verdicts = {check["what"]: check["ok"] for check in evidence["checks"]}
    # nobody can count on the newest point, and nothing was restored whose time could count
    assert verdicts == {"the manifest equals its record": False, RPO: None, RTO: None}


@pytest.mark.full
def test_i7_a_point_that_no_ledger_knows_is_refused(standing):
    back_up(standing)
    stranger = dataclasses.replace(standing, ledger_=MemoryLedger())
    with pytest.raises(DrillFailed, match="no record"):
        drill(stranger)


@pytest.mark.full
def test_i7_an_altered_dump_is_refused_and_the_scratch_space_removed(standing):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    assert point.bytes_added > 0
    packs = [info for info in site.list(bucket, "restic/database-mlflow-") if "/data/" in info.key]
    for pack in packs:
        body = bytearray(site.read(bucket, pack.key))
        body[len(body) // 2] ^= 1
        site.write(bucket, pack.key, bytes(body))
    with pytest.raises(DrillFailed, match="database mlflow is restored"):
        drill(standing)
    checks = {check["what"]: check["ok"] for check in standing.ledger.find("drill")[0].body["checks"]}
    assert checks["database mlflow is restored with the rows on record"] is False
    assert checks["database ledger is restored with the rows on record"] is True
    assert checks["the restored MLflow starts"] is None
    assert checks["the sandbox is removed"] is True
    assert list(site.list(bucket, "drills/")) == []


@pytest.mark.full
def test_i7_an_object_that_the_replica_lost_turns_the_drill_red(standing):
    primary, haven = standing.site("primary", "personal"), standing.site("haven", "personal")
    artifacts = standing.config.buckets.artifacts
    primary.write(artifacts, "mlflow/1/model.onnx", b"model")
    back_up(standing)
    haven.delete(artifacts, "mlflow/1/model.onnx", version_id=haven.head(artifacts, "mlflow/1/model.onnx").version_id)
    with pytest.raises(DrillFailed, match=r"artifacts equal their record.*model\.onnx"):
        drill(standing)


@pytest.mark.full
def test_i11_a_bit_that_flips_in_a_link_turns_the_drill_red_and_the_next_backup_puts_the_link_back(standing, caplog):
    point, site, bucket = back_up(standing), standing.site("haven", "personal"), standing.config.buckets.backups
    link = chain.key_of(1)
    assert json.loads(site.read(bucket, link))["link"]["point"] == point.id
    first = site.head(bucket, link)
    on_top = site.write(bucket, link, site.read(bucket, link).replace(b'"consistent":', b'"consistent" :'))
    drill(standing)  # what lies on top, and a marker, displace nothing
    site.delete(bucket, link)
    drill(standing)
    broken = dataclasses.replace(standing, sites={**standing.sites, "haven": Flipped(site, link, first.version_id)})
    with pytest.raises(DrillFailed, match="chain of restore points: it is broken at link 1"):
        drill(broken)
    newer = back_up(broken)
    assert "restored link 1 of the chain at site 'haven'" in caplog.text
    drill(broken, newer.id)
    healed = site.head(bucket, link)
    assert healed.version_id not in (first.version_id, on_top.version_id)
    assert site.retained_until(bucket, link, healed.version_id) > standing.clock()
    assert site.read(bucket, link) == site.read(bucket, link, version_id=first.version_id)


@pytest.mark.full
def test_d5_an_artifact_that_is_deleted_between_dump_and_copy_makes_the_point_inconsistent(standing, monkeypatch):
    primary, artifacts = standing.site("primary", "personal"), standing.config.buckets.artifacts
    name, bring = f"lost-{secrets.token_hex(4)}", flow.bring
    key = f"models/{name}/MLmodel"
    with tracking.session(standing.tracking()) as client:
        client.create_registered_model(name)
    insert_version(name, f"s3://{artifacts}/models/{name}")
    try:
        lost = f"model {name} version 1: artifacts/models/{name}/"
        primary.write(artifacts, key, b"model")
        primary.write(artifacts, "another", b"model")
        assert lost not in back_up(standing, suffix=lambda: "aaaaaa").dangling

        def delete_first(*arguments, **named):
            primary.delete(artifacts, key)
            standing.site("haven", "personal").delete(artifacts, key)
            return bring(*arguments, **named)

        monkeypatch.setattr(flow, "bring", delete_first)
        point = back_up(standing)
        assert lost in point.dangling
        site, bucket = standing.site("haven", "personal"), standing.config.buckets.backups
        links = chain.verify(chain.read(site, bucket, standing.trusted_keys()), standing.trusted_keys())
        assert chain.of_point(links, point.id).consistent is False
        with pytest.raises(DrillFailed, match=r"no referenced object is missing: .*" + name):
            drill(standing, point.id)
    finally:
        with tracking.session(standing.tracking()) as client:
            client.delete_registered_model(name)


@pytest.fixture
def their_mlflow():
    """A tracking server of another team: it answers the two listings of MLflow's REST API as MLflow 3 does."""
    made = {"experiment_id": "0", "name": "Default", "lifecycle_stage": "active", "creation_time": 7}
    version = {"name": "hotel_bookings", "version": "1", "creation_timestamp": 8, "status": "READY", "source": "s3://x"}

    class Answers(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = {"model_versions": [version]} if "model-versions" in self.path else {"experiments": [made]}
            plain = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(plain)))
            self.end_headers()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.wfile.write(plain)

        do_GET = do_POST = answer  # noqa: N815 - names that the library gives

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def _on_another(platform, port):
    """The platform with an external tracking server on that port."""
    place = {"operator": "this-machine", "service": "machine", "region": "local"}
    external = External(url=f"http://127.0.0.1:{port}", connection="mlflow", **place)
    services = platform.config.services | {"mlflow": StackService(external=external)}
    theirs = config.Connection("mlflow", "http", "127.0.0.1", port, "u", "p", "http")
    resolve = platform.connections
    return dataclasses.replace(
        platform,
        config=platform.config.model_copy(update={"services": services}),
        connections=lambda name: theirs if name == "mlflow" else resolve(name),
    )


@pytest.mark.full
def test_d8_a_tracking_server_on_another_database_is_named_and_red_for_a_champion(standing, their_mlflow, monkeypatch):
    monkeypatch.setattr(postgresql, "decided_champions", lambda session: {"hotel_bookings": "1"})
    platform = _on_another(standing, their_mlflow)
    point = back_up(platform)
    (told,) = point.not_held
    assert told.startswith("mlflow: ") and "hotel_bookings version 1" in told
    site, bucket = standing.site("haven", "personal"), standing.config.buckets.backups
    record = standing.ledger.find("restore-point", point.id)[0].body
    manifest = points.read(site, bucket, point.id, record["manifest_sha256"])
    assert manifest.not_held[0].needed_by == ("hotel_bookings version 1",)
    assert manifest.consistent == (not manifest.dangling)  # what it holds can be restored
    assert stores_not_held.lines(platform)[0].startswith(stores_not_held.RED)
    assert not rpo.rpo(platform).ok
    assert "another database" in manifest.lacking[-1]  # a drill of it is red


@pytest.mark.full
def test_d8_the_platforms_own_database_behind_an_external_server_is_held(standing):
    port = standing.tracking().port
    own = _on_another(standing, port)
    own = dataclasses.replace(own, connections=standing.connections)
    assert back_up(own).not_held == ()


def test_d8_a_tracking_server_that_does_not_answer_is_no_success(standing):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        asked = _asked(_on_another(standing, taken.getsockname()[1]), ())
    assert isinstance(asked.server, str)


def test_d8_a_database_that_backups_do_not_reach_is_named(standing):
    resolve = standing.connections
    aliased = dataclasses.replace(resolve("pg_feast_online"), host="localhost")
    other = dataclasses.replace(resolve("pg_feast_online"), schema="feast_offline", **_login(resolve("pg_backup")))
    for used, told in ((aliased, {}), (other, {"feast_online"})):
        connections = lambda name, used=used: used if name == "pg_feast_online" else resolve(name)  # noqa: E731
        asked = _asked(dataclasses.replace(standing, connections=connections), ("feast_online",))
        assert set(asked.elsewhere) == set(told)


def _asked(platform: Platform, databases: tuple[str, ...]) -> stores_not_held.StoreAnswers:
    return stores_not_held.ask(platform.config.services.get("mlflow"), platform.tracking, platform.database, databases)


def _login(connection):
    return {"login": connection.login, "password": connection.password}


def test_d5_a_drill_takes_the_newest_point_that_lacks_nothing(standing):
    whole = {"dangling": []}
    for number, lacks in enumerate((whole, whole, {"dangling": ["model hotel version 1: gone"]})):
        point = f"2026010{number + 1}T000000Z-aaaaaa"
        standing.site("haven", "personal").write(
            standing.config.buckets.backups, f"points/{point}/manifest.json", b"{}"
        )
        standing.ledger.append("restore-point", point, {"site": "haven", "manifest_sha256": "0" * 64, **lacks})
    with pytest.raises(DrillFailed, match="Restore point 20260102T000000Z-aaaaaa"):
        drill(standing)


def _back_up_in_child(settings, ledger, continuity, tools):
    back_up(Platform(settings, config.environment_connections, ledger_=ledger, continuity_=continuity), tools=tools)


@pytest.mark.parametrize(
    "database",
    [
        "airflow",
        pytest.param("feast_offline", marks=pytest.mark.full),
        pytest.param("ledger", marks=pytest.mark.full),
    ],
)
def test_x1_killed_between_dumps_the_previous_point_stays_the_newest(standing, tools_that, database):
    continuity = type(standing.continuity_)(standing.database("continuity"))  # of its own, for it is not given back
    first = back_up(standing)
    whoever = "kill -9 $(ps -o ppid= -p $PPID)"  # restic started pg_dump, and the backup restic
    killing = tools_that(f'[ "$PGDATABASE" = {database} ] && [ "$dumps" ] && {{ {whoever}; exit 1; }}')
    child = multiprocessing.get_context("fork").Process(
        target=_back_up_in_child, args=(standing.config, standing.ledger_, continuity, killing)
    )
    child.start()
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    assert stored(standing) == (first.id,)
    second = back_up(standing)
    assert stored(standing) == (second.id, first.id)


@pytest.fixture
def small(standing, monkeypatch):
    """Of one database, and with leases of the test's own."""
    monkeypatch.setattr(flow, "DATABASES", ("ledger",))
    return standing


# --- K2, K3: what an attacker with the site's key cannot take away ----------------------------------------------------


def attack(site, bucket):
    """Delete whatever can be deleted, hide all else, write rubbish over it, and lock some of that."""
    for info in list(site.versions(bucket)):
        if info.key.startswith("heartbeats/"):
            continue
        try:
            site.delete(bucket, info.key, version_id=info.version_id)
            continue
        except SiteError:
            rubbish = site.write(bucket, info.key, b"ransom")
            if "/data/" in info.key:
                site.retain(bucket, info.key, rubbish.version_id, datetime.now(UTC) + timedelta(minutes=5))
            else:
                site.delete(bucket, info.key)


@pytest.mark.full
def test_k2_an_attacker_with_the_backup_sites_key_takes_no_restore_point_away(small):
    primary, (point, site) = small.site("primary", "personal"), (back_up(small), small.site("haven", "personal"))
    bucket = small.config.buckets.backups
    record = small.ledger.find("restore-point", point.id)[0].body
    locked = {
        info.key: site.retained_until(bucket, info.key, info.version_id)
        for info in site.versions(bucket)
        if not info.marker and not info.key.startswith(("keys/", "heartbeats/")) and "/locks/" not in info.key
    }
    assert {key.split("/")[0] for key in locked} == {"chain", "locks", "points", "restic", "sealed"}
    now = small.clock()
    assert not [key for key, until in locked.items() if not until or until < now + small.config.backup.locked], locked
    assert record["locks_set"] == sum(key.startswith("restic/") for key in locked)
    second = back_up(small)
    assert small.ledger.find("restore-point", second.id)[0].body["locks_set"] <= 4  # pack, index, snapshot; no more

    attack(site, bucket)
    assert points.list(site, bucket) == () and not list(site.list(bucket, "keys/"))
    with pytest.raises(BackupError, match="Nothing was pruned"):
        prune(small, dry_run=False)
    trusted = small.trusted_keys()
    note = read_known(site, bucket, trusted.values())
    assert note and len(uncover(site, bucket, note).keys) > 10
    uncover(site, bucket, note, dry_run=False)
    assert uncover(site, bucket, note).keys == ()
    wish = Wish("haven", point=second.id)
    detached = dataclasses.replace(small, ledger_=MemoryLedger())
    opened = open_point(
        find(detached, wish, trusted), wish, own_identity(small.connections)
    )  # keys come from the other site
    (dump,) = opened.manifest.databases
    repository = repository_of(small.config, small.connections, "haven", opened.keys.of(dump.scope, dump.serial))
    assert repository.dump(dump.snapshot, file_name(dump.name), lambda chunk: None).sha256 == dump.sha256
    assert opened.secrets() and list(primary.list(bucket, "keys/"))
    prune(small, dry_run=False)  # and the platform goes on
    last = back_up(small)
    assert stored(small) == (last.id, second.id, point.id)


def test_x2_a_second_backup_beside_a_live_one_is_refused_and_writes_nothing(small, monkeypatch):
    refused, before = [], flow.before_bringing

    def meanwhile(*arguments):  # half way, the first one's dumps are made
        with pytest.raises(LeaseHeld, match="restore points at haven") as error:
            back_up(small)
        refused.append(error.value)
        with pytest.raises(LeaseHeld):  # nor does a prune take away what it is about to name
            prune(small, dry_run=False, patience=0)
        return before(*arguments)

    monkeypatch.setattr(flow, "before_bringing", meanwhile)
    point = back_up(small)
    assert refused[0].transient and stored(small) == (point.id,)
    assert [record.subject for record in small.ledger.find("restore-point")] == [point.id]
    assert not small.ledger.find("prune")


def test_x3_who_was_paused_past_his_turn_does_not_commit_his_point(small, monkeypatch):
    before = flow.before_bringing

    def paused(*arguments):  # so long that his lease ended, and another began
        with psycopg.connect(small.database("continuity").postgresql_url(), autocommit=True) as session:
            ended = "UPDATE lease SET until = now() - interval '1 s' WHERE name LIKE '%% restore points at haven'"
            session.execute(ended + " AND holder = %s", [flow.holder()])
        held.append(small.continuity.take("restore points at haven", "the next one", 60))
        return before(*arguments)

    held = []
    monkeypatch.setattr(flow, "before_bringing", paused)
    with pytest.raises(LeaseLost, match="restore points at haven"):
        back_up(small)
    assert stored(small) == () and not small.ledger.find("restore-point")
    assert not list(small.site("haven", "personal").list(small.config.buckets.backups, "chain/"))
    small.continuity.release(held[0])


def test_x3_nobody_takes_a_turn_while_its_holder_commits_even_if_he_is_paused(small, monkeypatch):
    monkeypatch.setattr(lease, "WAIT_SECONDS", 4)  # longer than what is left of the first one's lease
    name, continuity = f"test {secrets.token_hex(4)}", small.database("continuity")
    first = lease.take(continuity, name, "the first", seconds=60)
    over_before_the_block = lease.still(continuity, first, seconds=3)
    with over_before_the_block, pytest.raises(LeaseHeld, match="the first"):
        lease.take(continuity, name, "the second")
    lease.release(continuity, lease.take(continuity, name, "the second"))
    with pytest.raises(LeaseLost), lease.still(continuity, first):
        pytest.fail("a stale holder committed")


def test_rows_that_arrive_while_dumping_change_neither_dump_nor_manifest(standing, repository, empty_database):
    """The counts in the manifest are those of the dump, because both see one snapshot."""
    connection = standing.database("feast_offline")
    source, tools = postgresql.for_database(standing.database("backup"), "feast_offline"), postgresql.find_tools()
    with psycopg.connect(connection.postgresql_url(), autocommit=True) as writer:
        writer.execute("CREATE TABLE grown_by_a_test (id int)")
        stop = threading.Event()

        def grow():
            while not stop.is_set():
                writer.execute("INSERT INTO grown_by_a_test SELECT generate_series(1, 100)")

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            with postgresql.frozen(source) as (session, snapshot):
                rows = postgresql.row_counts(session)
                stored = dump_into(tools, repository, source, snapshot, len(rows))
        finally:
            stop.set()
            thread.join()
            writer.execute("DROP TABLE grown_by_a_test")
    restore_from(tools, repository, stored.snapshot, empty_database, database="feast_offline", sha256=stored.sha256)
    with postgresql.session(empty_database, "count") as restored:
        assert postgresql.row_counts(restored) == rows
