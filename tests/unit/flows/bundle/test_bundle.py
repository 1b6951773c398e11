"""The bundle of a project at a site in memory: its content, the files that are sent, and when."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.backup.bundle import bundle, open_bundle
from rempart.backup.databases import restic
from rempart.cli import app
from rempart.errors import BackupError, IntegrityError
from rempart.flows.bundle import bundle as flow
from rempart.flows.bundle import bundle_contents
from rempart.flows.shared import platform as platforms
from rempart.flows.shared.platform import Platform
from tests.memory_site import MemorySite
from tests.restorable import SIGNER, TRUSTED, house

NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)
SECRET = "correct-horse-battery-staple"
WHEEL = b"wheel" * 100


class Project:
    """A small project, its site in memory, and how often its wheels were fetched."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.now, self.fetched = folder / "project", NOW, 0
        for name in (
            *bundle_contents.LOCKS,
            *("rempart.yaml", "pyproject.toml", "README.md", bundle_contents.ENTRY, "dags/one.py", "dags/.hidden"),
            *(".env", "var/secrets.env", "data/people.csv", "dags/__pycache__/one.pyc", "tests/test_one.py"),
        ):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(f"of {name}\n")
        program = folder / "restic-program"
        program.write_bytes(b"restic")
        made = house()
        made.haven.ensure_bucket("doctor", versioned=False)
        self.haven: MemorySite = made.haven
        self.platform = dataclasses.replace(made.platform, clock=lambda: self.now)
        monkeypatch.setattr(Platform, "signer", lambda self, connection="": SIGNER)
        monkeypatch.setenv("REMPART_HOME", str(self.root))
        monkeypatch.setenv("REMPART_VAR", str(folder / "var"))
        monkeypatch.setattr(restic, "find_program", lambda: program)
        monkeypatch.setattr(bundle_contents, "wheels", self.wheels)
        monkeypatch.setattr(bundle_contents, "variables", lambda: {"REMPART_ADMIN_PASSWORD": SECRET})
        monkeypatch.setattr(platforms, "open_platform", lambda: self.platform)

    def wheels(self, root: Path, folder: Path) -> dict[str, Path]:
        self.fetched += 1
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a-1-py3-none-any.whl").write_bytes(WHEEL)
        return {"a-1-py3-none-any.whl": folder / "a-1-py3-none-any.whl"}

    def store(self) -> flow.StoredBundle:
        return flow.store(self.platform)

    def fetch(self, folder: Path) -> bundle.Index:
        return flow.fetch(self.haven, "backups", TRUSTED, folder)

    def ends(self) -> set[datetime | None]:
        versions = self.haven.versions("backups", "bundle/")
        return {self.haven.retained_until("backups", version.key, version.version_id or "") for version in versions}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def test_the_code_is_in_it_and_neither_data_nor_what_lies_about(project: Project, tmp_path: Path) -> None:
    project.store()
    index = project.fetch(tmp_path / "to")
    with tarfile.open(tmp_path / "to" / "code.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"rempart.yaml", "dags/one.py", bundle_contents.ENTRY, *bundle_contents.LOCKS} <= names
    assert not {
        name for name in names if name.startswith((".", "var", "data", "tests")) or "pyc" in name or "hid" in name
    }
    assert set(index.files) == {"code.tar.gz", "restic", "wheels/a-1-py3-none-any.whl"}
    assert (tmp_path / "to" / "wheels" / "a-1-py3-none-any.whl").read_bytes() == WHEEL
    record = project.platform.ledger.find("bundle")[0]
    assert record.body["files"] == 3 and record.body["open_bundle_sha256"] == flow.opener_sha256()


def test_a_second_time_nothing_is_sent_and_a_change_of_the_code_sends_the_code_alone(project: Project) -> None:
    first, again = project.store(), project.store()
    assert first.changed and first.sent == first.bytes and not again.changed and again.key == first.key
    (project.root / "dags" / "one.py").write_text("changed\n")
    assert "code changed" in CliRunner().invoke(app, ["bundle", "status"]).output
    project.now += timedelta(hours=1)
    changed = project.store()
    index = bundle.newest(project.haven, "backups", TRUSTED, open_bundle.this_machine())
    assert index and index[0] == changed.key and changed.sent == index[1].files["code.tar.gz"].size
    assert project.fetched == 1
    project.now += timedelta(hours=1)  # of two bundles of one second, the newest is not known
    (project.root / bundle_contents.LOCKS[0]).write_text("another\n")
    assert project.store().changed and project.fetched == 2
    assert CliRunner().invoke(app, ["bundle", "status"]).exit_code == 0


def test_locks_are_extended_before_a_point_could_outlive_them(project: Project) -> None:
    project.store()
    (first,) = project.ends()
    assert first and first > NOW + timedelta(days=372)
    project.now += timedelta(days=1)
    assert not project.store().changed and project.ends() == {first}
    project.now += timedelta(days=30)
    assert not project.store().changed
    assert all(end and end == first + timedelta(days=31) for end in project.ends())


@pytest.mark.parametrize("planted", [SECRET, "-----BEGIN PRIVATE KEY-----\n" + "A" * 64, "AGE-SECRET-KEY-1" + "Q" * 58])
def test_a_secret_does_not_leave_and_is_not_told(planted: str, project: Project) -> None:
    (project.root / "rempart.yaml").write_text(f"password: {planted}\n")
    with pytest.raises(BackupError, match=r"rempart\.yaml holds") as refused:
        project.store()
    assert planted not in str(refused.value) and not [*project.haven.list("backups", "bundle/")]


def test_what_somebody_hid_or_altered_is_refused_and_sent_again(project: Project, tmp_path: Path) -> None:
    stored = project.store()
    index = project.fetch(tmp_path / "to")
    project.haven.write("backups", bundle.file_key(index.files["restic"]), b"RESTIC")
    with pytest.raises(IntegrityError, match="restic differs from the signed file"):
        project.fetch(tmp_path / "again")
    project.haven.delete("backups", bundle.file_key(index.files["wheels/a-1-py3-none-any.whl"]))
    project.now += timedelta(hours=1)
    repaired = project.store()
    assert repaired.key != stored.key and repaired.sent >= len(WHEEL)
    assert not project.store().changed


def test_a_project_that_lacks_its_locks_is_refused(project: Project) -> None:
    (project.root / bundle_contents.LOCKS[1]).unlink()
    with pytest.raises(BackupError, match="lacks requirements-bootstrap"):
        project.store()


def test_the_command_line_stores_tells_and_fetches(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CliRunner().invoke
    assert run(app, ["bundle", "status"]).exit_code == 1
    assert flow.opener_sha256() in run(app, ["bundle", "store"], catch_exceptions=False).output
    assert "nothing was sent" in run(app, ["bundle", "store"], catch_exceptions=False).output
    told = run(app, ["bundle", "status"], catch_exceptions=False)
    assert told.exit_code == 0 and "it matches the running release" in told.output and "locked until" in told.output
    shown = json.loads(run(app, ["bundle", "status", "--json"], catch_exceptions=False).stdout)
    assert shown["good"] is True and shown["stale"] == [] and shown["bytes"] > 0 and shown["key"] in told.output
    monkeypatch.setattr(flow, "detached", lambda: project.platform)
    monkeypatch.setattr(flow, "open_platform", lambda: project.platform)
    fetched = run(app, ["bundle", "fetch", str(tmp_path / "to")], catch_exceptions=False)
    assert "every file matches its signature" in fetched.output and (tmp_path / "to" / "restic").is_file()
