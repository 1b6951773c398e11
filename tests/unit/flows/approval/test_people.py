"""Who made a candidate, by files and git; who may sit at the command line; and notes that name nobody."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from rempart.errors import AccessError, ConfigError, WatchError
from rempart.flows.approval import committers, notice
from rempart.flows.approval.ask import Question
from rempart.flows.approval.directory import Directory
from rempart.flows.approval.rules import Person
from rempart.flows.monitoring.watch_file import Mail, Webhook
from rempart.flows.shared import authors
from rempart.flows.training.check_pipeline import check_approval
from rempart.settings import pipelines
from rempart.settings.approval.rule import Approval
from rempart.settings.config import Connection
from tests.switchovers import in_memory

AT = datetime(2026, 3, 1, tzinfo=UTC)
QUESTION = Question("3", True, "Version 3 of model m waits until 2026-03-03 12:00 UTC", 17, 60.0, "Version 3?", "")
PAGE = "https://airflow.example.eu/dags/approve_model_m/runs/approval__17__0/tasks/decide/required_actions"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two pipelines, by two committers."""
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    (tmp_path / "include" / "pipelines").mkdir(parents=True)
    (tmp_path / "include" / "trainers").mkdir()
    git(tmp_path, "init", "-q")
    for name, email in (("a", "Marie@example.eu"), ("b", "pierre@example.eu")):
        (tmp_path / "include" / "pipelines" / f"{name}.yaml").write_text(f"name: {name}\n")
        git(tmp_path, "add", ".")
        git(tmp_path, "-c", f"user.email={email}", "-c", "user.name=x", "commit", "-qm", name)
    return tmp_path


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def test_authors_come_from_git_by_number_and_hold_for_the_bytes_that_were_committed(project: Path) -> None:
    a, b = "include/pipelines/a.yaml", "include/pipelines/b.yaml"
    (project / "include" / "trainers" / "new.py").write_text("x = 1\n")  # was never committed
    found = committers.write(committers.parsed(["marie@example.eu=3", "jean@example.eu=9"]))
    assert found == {a: 3, b: None, "include/trainers/new.py": None}
    assert "example.eu" not in (project / authors.FILE).read_text()
    assert authors.committers(project, [a, b]) == {a: 3, b: None}
    (project / a).write_text("name: a # changed\n")
    assert authors.committers(project, [a]) == {a: None}
    assert committers.write({"marie@example.eu": 3})[a] is None  # changed, and not committed
    (project / authors.FILE).write_text(json.dumps({a: {"sha256": authors.sha256(project / a), "user": "3"}}))
    assert authors.committers(project, [a]) == {a: None}
    (project / authors.FILE).write_text("[")
    assert authors.committers(project, [a]) == {a: None}


@pytest.mark.parametrize("wrong", ["marie@example.eu", "=3", "marie@example.eu=0", "marie@example.eu=x"])
def test_a_committer_without_a_number_is_refused(wrong: str) -> None:
    with pytest.raises(AccessError, match="not of the form"):
        committers.parsed([wrong])


def test_who_answers_is_the_user_whom_airflow_logged_in() -> None:
    known = Directory((Person(3, ("operator",)), Person(5, ("admin",))), {"ada": 3, "bob": 5})
    assert known.of_user("5") == Person(5, ("admin",))
    for stranger in ("9", "ada", "", None):
        assert known.of_user(stranger).roles == ()
    simple = Directory((Person(None, ("admin",)),))
    assert simple.of_user("admin").number is None


def test_four_eyes_need_an_airflow_that_tells_people_apart() -> None:
    loaded = in_memory().config
    alone = loaded.model_copy(update={"access": loaded.access.model_copy(update={"auth_manager": "simple"})})
    shipped = pipelines.with_model(pipelines.named("hotel_bookings"))

    def gated(**rule: Any) -> Any:
        gate = shipped.gate.model_copy(update={"approval": Approval.model_validate(rule)})
        return shipped.model_copy(update={"gate": gate})

    check_approval(loaded, gated(by="operator"))
    check_approval(alone, gated(by="admin", four_eyes=False))
    check_approval(alone, shipped)
    for rule in ({"by": "operator"}, {"by": [3], "four_eyes": False}):
        with pytest.raises(Exception, match="everybody is the platform's admin"):
            check_approval(alone, gated(**rule))


def connection(**more: Any) -> Connection:
    given = {"name": "chat", "conn_type": "http", "host": "127.0.0.1", "password": "s3cret", **more}
    return Connection(**given)


class Hook(BaseHTTPRequestHandler):
    """A chat server's webhook."""

    seen: list[tuple[str, str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers["Authorization"], body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        pass


def test_a_note_names_model_version_time_and_page_and_each_recipient_is_tried() -> None:
    handler = type("Hook", (Hook,), {"seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        to = {
            "chat": connection(port=server.server_port, schema="http", extra={"path": "/hooks/1"}),
            "wrong": connection(name="wrong", conn_type="postgres"),
        }
        asked = replace(QUESTION, notify=("wrong", "chat"))
        with pytest.raises(ConfigError, match=r"'wrong' cannot receive notes: its type is 'postgres'"):
            notice.notify(to.__getitem__, AT, "m", asked, PAGE)
        ((path, token, body),) = handler.seen  # type: ignore[attr-defined] # of the class made above
        assert (path, token) == ("/hooks/1", "Bearer s3cret")
        assert (body["model"], body["version"], body["page"]) == ("m", "3", PAGE)
        assert "waits until 2026-03-03 12:00 UTC" in body["text"] and PAGE in body["text"]
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(WatchError, match=r"POST to 127\.0\.0\.1: no answer") as silent:
        notice.notify(to.__getitem__, AT, "m", replace(QUESTION, notify=("chat",)), PAGE)
    assert "s3cret" not in str(silent.value) and "hooks" not in str(silent.value)


def test_connections_become_recipients_and_what_would_leak_is_refused() -> None:
    to, secrets = notice.recipient(connection(conn_type="https", host="chat.example.eu", extra={"path": "hooks/1"}))
    assert isinstance(to, Webhook) and secrets["URL"] == "https://chat.example.eu/hooks/1"
    extra = {"from_email": "rempart@example.eu", "to": "models@example.eu"}
    to, secrets = notice.recipient(connection(conn_type="smtp", host="mail", login="rempart", extra=extra))
    assert isinstance(to, Mail) and (to.tls, to.port, to.user) == ("tls", 465, "rempart")
    assert secrets == {"PASSWORD": "s3cret"}
    to, _ = notice.recipient(
        connection(conn_type="smtp", host="mail", password="", extra={**extra, "disable_tls": True})
    )
    assert isinstance(to, Mail) and (to.tls, to.port, to.user) == ("none", 25, None)
    for wrong in ({}, {"from_email": "rempart@example.eu"}, {**extra, "disable_tls": True}):
        with pytest.raises(ConfigError, match="'chat' cannot receive notes") as refused:
            notice.recipient(connection(conn_type="smtp", host="mail", login="rempart", extra=wrong))
        assert "s3cret" not in str(refused.value)
