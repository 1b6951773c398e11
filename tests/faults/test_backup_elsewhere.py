"""A backup whose tracking server or database is elsewhere: what no restore point holds is named."""

import dataclasses
import http.server
import json
import socket
import threading

import pytest

from rempart.backup.databases import postgresql
from rempart.backup.points import points
from rempart.flows.backup import stores_not_held
from rempart.flows.backup.back_up import back_up
from rempart.flows.monitoring import rpo
from rempart.flows.shared.platform import Platform
from rempart.settings import config
from rempart.settings.sections import External, StackService
from tests.faults.backed_up import own_platform

pytestmark = pytest.mark.tracking


@pytest.fixture
def standing(platform, proven_ledger, own_continuity, monkeypatch):
    yield from own_platform(platform, proven_ledger, own_continuity, monkeypatch)


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
