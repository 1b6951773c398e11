"""The journal of a restore, and rows read straight from a dump."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rempart.backup.databases import dump_tables
from rempart.backup.points.restore_journal import Journal
from rempart.errors import BackupError

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_journal_goes_on_with_the_same_point_and_begins_anew_with_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "restore.json")
    fresh = journal.read("p1", "m1", NOW)
    assert fresh.began == NOW and not fresh.databases and not fresh.opened
    journal.write(
        replace(fresh.took("objects", 1.5).took("objects", 2.0), databases=("mlflow",), opened=True, filled=True)
    )
    again = journal.read("p1", "m1", NOW + timedelta(hours=1))
    assert (again.began, again.databases, again.opened, again.steps) == (NOW, ("mlflow",), True, {"objects": 3.5})
    assert again.filled and not journal.read("p2", "m1", NOW).filled
    assert journal.read("p2", "m1", NOW).databases == ()
    assert journal.read("p1", "another", NOW).databases == ()
    journal.end()
    assert not journal.file.exists() and not list(tmp_path.iterdir())


def test_a_journal_that_is_damaged_is_named(tmp_path: Path) -> None:
    file = tmp_path / "restore.json"
    file.write_text('{"point": ')
    with pytest.raises(BackupError, match=r"restore\.json"):
        Journal(file).read("p1", "m1", NOW)


def test_rows_of_copy_are_read_as_they_were_written() -> None:
    lines = [
        "SET search_path = '';",
        'COPY public.model_versions (name, "version", source) FROM stdin;',
        "a\\tb\t1\tmodels:/m",
        "x\\\\y\t2\t\\N",
        "\\.",
        "COPY public.other (id) FROM stdin;",
        "\\.",
        "SELECT 1;",
    ]
    assert list(dump_tables.copied(lines)) == [
        {"name": "a\tb", "version": "1", "source": "models:/m"},
        {"name": "x\\y", "version": "2", "source": None},
    ]
