"""The release that started a stack last, the releases that may follow it, and the schemas that they may migrate."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from rempart.cli import upgrade
from rempart.deployment.embedded import release
from rempart.deployment.servers import postgresql, schemas
from rempart.deployment.servers.schemas import Schema
from rempart.deployment.setup import paths, services
from rempart.errors import RempartError, StackError
from rempart.flows.upgrade import upgrade_journal
from rempart.flows.upgrade.upgrade_journal import BegunUpgrade
from rempart.ingestion import snapshots
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[4]
FORMATS = (
    "include/rempart/backup/points/points.py",
    "include/rempart/backup/keys/key_envelope.py",
    "include/rempart/ingestion/snapshots.py",
)


@pytest.fixture
def stack(tmp_path: Path) -> paths.Stack:
    made = paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"), 0, "/opt/a venv/bin/python")
    made.prepare()
    return made


@pytest.fixture
def before(stack: paths.Stack, tmp_path: Path) -> paths.Stack:
    """A checkout of the release before, with an older MLflow, which has started the stack."""
    root = tmp_path / "the one before"
    for name in ("requirements.txt", "pyproject.toml", "rempart.yaml", *FORMATS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "include" / "sql", root / "include" / "sql")
    file = root / "requirements.txt"
    locked = release.of_checkout(root, "").packages["mlflow"]
    file.write_text(file.read_text().replace(f"\nmlflow=={locked} ", "\nmlflow==3.16.1 "))
    started = dataclasses.replace(stack, root=root, python=sys.executable)
    (stack.state / "supervisord.conf").write_text(services.supervisor_configuration(started, None))
    return started


def test_a_checkout_is_told_by_its_own_files() -> None:
    found = release.of_checkout(ROOT, "python")
    assert found.postgresql == 18 and found.packages["apache-airflow-core"].startswith("3.")
    assert set(found.scripts) == {"ledger", "continuity", "feast_online"} and found.point_format == 5
    assert found.key_format == 2 and found.snapshot_format == snapshots.FORMAT
    assert found.same_code(dataclasses.replace(found, root=Path("/elsewhere"), python="other"))
    assert release.of_checkout(ROOT / "docs", "python").packages == {}


def test_a_release_that_kept_no_record_is_found_by_what_the_supervisor_runs(
    stack: paths.Stack, before: paths.Stack
) -> None:
    found = release.recorded(stack)
    assert found and found.root == before.root and found.python == sys.executable
    assert found.packages["mlflow"] == "3.16.1"
    shutil.rmtree(before.root)
    assert release.recorded(stack) is None


def test_a_record_tells_of_a_release_whose_folder_holds_another_one_by_now(
    stack: paths.Stack, before: paths.Stack
) -> None:
    release.record(stack, release.of_checkout(before.root, before.python))
    shutil.copy(ROOT / "requirements.txt", before.root / "requirements.txt")
    found = release.recorded(stack)
    assert found and found.packages["mlflow"] == "3.16.1"
    assert not found.same_code(release.of_checkout(before.root, before.python))


def test_a_record_that_lacks_a_field_of_this_release_is_completed_from_that_folder(
    stack: paths.Stack, before: paths.Stack
) -> None:
    release.record(stack, release.of_checkout(before.root, before.python))
    record = stack.state / "release.json"
    kept = json.loads(record.read_text())
    del kept["key_format"]
    record.write_text(json.dumps(kept))
    key_envelope = before.root / FORMATS[1]
    key_envelope.write_text(key_envelope.read_text().replace("\nFORMAT = 2\n", "\nFORMAT = 1\n"))
    found = release.recorded(stack)
    assert found and found.key_format == 1 and found.packages["mlflow"] == "3.16.1"


def test_a_record_that_lacks_a_field_is_believed_before_a_folder_that_holds_another_release_by_now(
    stack: paths.Stack, before: paths.Stack
) -> None:
    release.record(stack, release.of_checkout(before.root, before.python))
    record = stack.state / "release.json"
    kept = json.loads(record.read_text())
    del kept["key_format"]
    record.write_text(json.dumps(kept))
    shutil.copy(ROOT / "requirements.txt", before.root / "requirements.txt")
    found = release.recorded(stack)
    assert found and found.packages["mlflow"] == "3.16.1" and found.key_format == 2


def test_a_new_stack_was_started_by_nobody(stack: paths.Stack) -> None:
    assert release.recorded(stack) is None
    release.check(None, release.of_checkout(ROOT, "python"), migrate=False)


def test_another_release_does_not_migrate_databases_unless_that_is_said(before: paths.Stack) -> None:
    was, ours = release.recorded(before), release.of_checkout(ROOT, "python")
    with pytest.raises(StackError, match=r"mlflow 3\.16\.1") as refused:
        release.check(was, ours, migrate=False)
    assert "rempart stack upgrade" in refused.value.hint
    release.check(was, ours, migrate=True)
    release.check(ours, dataclasses.replace(ours, version="9"), migrate=False)


def test_a_schema_is_only_migrated_where_that_is_said_and_a_later_one_never() -> None:
    old = Schema("MLflow", "mlflow", "a", "b", frozenset("ab"))
    with pytest.raises(StackError, match="from revision a to b"):
        schemas.check([old], migrate=False)
    schemas.check([old], migrate=True)
    later = dataclasses.replace(old, revision="c")
    for migrate in (False, True):
        with pytest.raises(StackError, match="later release"):
            schemas.check([later], migrate=migrate)
    schemas.check([dataclasses.replace(old, revision=""), dataclasses.replace(old, revision="b")], migrate=False)


def test_data_of_another_version_of_postgresql_are_not_started(stack: paths.Stack) -> None:
    stack.postgresql_data.mkdir(parents=True)
    (stack.postgresql_data / "PG_VERSION").write_text("17\n")
    with pytest.raises(StackError, match="PostgreSQL 17"):
        postgresql.initialise(stack, "none")


def test_an_upgrade_that_was_begun_is_read_as_it_was_written(stack: paths.Stack, before: paths.Stack) -> None:
    assert upgrade_journal.read(stack) is None
    found = release.recorded(stack)
    assert found
    begun = BegunUpgrade(
        "P", "haven", found, ("mlflow",), {"m": "3"}, (7, "aa"), ("train",), "2026-11-25T20:00:00+00:00"
    )
    upgrade_journal.write(stack, begun)
    assert upgrade_journal.read(stack) == begun
    (stack.var / "upgrade.json").write_text("{}")
    with pytest.raises(RempartError, match="cannot be read"):
        upgrade_journal.read(stack)


def test_nobody_goes_back_without_an_upgrade_or_without_the_release_before(
    stack: paths.Stack, before: paths.Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RempartError, match="No upgrade"):
        upgrade.go_back(stack, yes=False)
    found = release.recorded(stack)
    assert found
    begun = BegunUpgrade("P", "haven", found, ("mlflow",), {}, (7, "aa"), (), "2026-11-25T20:00:00+00:00")
    upgrade_journal.write(stack, begun)
    upgrade.go_back(stack, yes=False)
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing was changed. Pass --yes to execute the plan."
    shutil.rmtree(before.root)
    with pytest.raises(RempartError, match="is missing in") as gone:
        upgrade.go_back(stack, yes=True)
    assert "make setup" in gone.value.hint


def test_the_release_before_works_with_its_own_programs_and_its_failure_is_told(
    stack: paths.Stack, before: paths.Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = release.recorded(stack), tmp_path / "told"
    assert found
    python = before.root / "python"
    python.write_text(f'#!/bin/sh\n(echo "$@"; pwd; env | sort) > "{told}"\nexit 3\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "include"))
    found = dataclasses.replace(found, python=str(python))
    begun = BegunUpgrade("P", "haven", found, (), {}, (7, "aa"), (), "2026-11-25T20:00:00+00:00")
    upgrade_journal.write(stack, begun)
    with pytest.raises(RempartError, match=r"`rempart up` of the previous release, .* ended with 3"):
        upgrade.go_back(stack, yes=True)
    lines = told.read_text().splitlines()
    assert lines[:2] == ["-m rempart.cli up", str(before.root)]
    assert f"REMPART_HOME={before.root}" in lines and f"REMPART_VAR={stack.var}" in lines
    assert not any(line.startswith("PYTHONPATH=") for line in lines)
    assert upgrade_journal.read(stack) == begun, "the way back is still there"
    assert release.recorded(stack) is None, "it would refuse to follow on a later one"


def test_an_upgrade_without_a_platform_names_what_is_missing(stack: paths.Stack) -> None:
    for words in ({"check": True, "yes": False}, {"check": False, "yes": True}):
        with pytest.raises(RempartError, match="No platform exists in") as refused:
            upgrade.take_over(stack, **words)
        assert "REMPART_VAR" in refused.value.hint
