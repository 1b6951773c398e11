"""The record of a drill's sandbox: it names only things that a drill creates, or the whole record is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.drill import scratch
from rempart.backup.drill.scratch import Scratch
from rempart.errors import BackupError, IntegrityError
from rempart.settings.config import DATABASES, Connection
from tests.memory_site import MemorySite

NOW = datetime(2026, 1, 5, 3, 30, tzinfo=UTC)
ID = "20260105t033000-abcdef"


def site() -> MemorySite:
    made = MemorySite("haven")
    made.ensure_bucket("backups", versioned=True)
    return made


@given(st.sets(st.sampled_from(DATABASES)), st.booleans())
def test_a_record_is_read_as_it_was_written(databases: set[str], waits: bool) -> None:
    haven, space = site(), scratch.name_scratch(ID, sorted(databases))
    space = space.waiting(NOW) if waits else space
    scratch.write(haven, "backups", space)
    assert scratch.read(haven, "backups", ID) == space and scratch.recorded(haven, "backups") == (space,)
    scratch.forget(haven, "backups", space)
    assert scratch.read(haven, "backups", ID) is None and scratch.recorded(haven, "backups") == ()


def test_the_names_fit_postgresql_and_s3() -> None:
    space = scratch.name_scratch(scratch.new_id(datetime(2025, 1, 31, 23, 59, 59, tzinfo=UTC), "ab12cd"), DATABASES)
    names = space.databases.values()
    assert all(len(name) <= 63 and name.startswith("drill_20250131t235959_ab12cd_") for name in names)
    assert space.bucket == "drill-20250131t235959-ab12cd"


@pytest.mark.parametrize("body", [b"junk", b"[]", b'{"id": "x", "bucket": "lake", "databases": []}'])
def test_a_record_that_is_none_is_refused(body: bytes) -> None:
    haven = site()
    haven.write("backups", "drills/x.json", body)
    with pytest.raises(IntegrityError):
        scratch.recorded(haven, "backups")


@pytest.mark.parametrize(
    "altered",
    [
        {"databases": ["mlflow"]},
        {"databases": ["drill_20260105t033000_ffffff_mlflow"]},
        {"bucket": "lake"},
        {"bucket": "drill-20260105t033000-ffffff"},
        {"id": "20260105t033000-ffffff"},
        {"id": "../../keys"},
        {"waits_until": "2026-01-05T04:30:00"},
        {"waits_until": "soon"},
        {"databases": None},
    ],
)
def test_a_record_that_names_what_this_drill_did_not_make_is_refused(altered: dict[str, object]) -> None:
    haven = site()
    scratch.write(haven, "backups", scratch.name_scratch(ID, ["mlflow"]))
    key = f"drills/{ID}.json"
    haven.write("backups", key, json.dumps(json.loads(haven.read("backups", key)) | altered).encode())
    for read in (lambda: scratch.read(haven, "backups", ID), lambda: scratch.recorded(haven, "backups")):
        with pytest.raises(IntegrityError):
            read()


def test_a_record_that_the_site_damaged_stands_for_all_that_its_drill_can_have_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(bucket: str, key: str) -> bytes:
        raise IntegrityError(f"read {bucket}/{key}: the SHA-256 differs", "Restore the object.")

    haven = site()
    monkeypatch.setattr(haven, "read", damaged)
    scratch.write(haven, "backups", scratch.name_scratch(ID, ["mlflow"]))
    assert scratch.read(haven, "backups", ID) == Scratch(ID, DATABASES)
    assert scratch.recorded(haven, "backups") == (Scratch(ID, DATABASES),)
    haven.write("backups", "drills/x.json", b"y")
    with pytest.raises(IntegrityError):
        scratch.recorded(haven, "backups")


@pytest.mark.parametrize("error", [None, BackupError("it failed", "Run again.")])
def test_the_lock_is_given_back_before_the_session_ends(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    done: list[str] = []

    class Session:
        def execute(self, statement: str, values: object) -> Session:
            done.append(statement.split("(")[0])
            return self

        def fetchone(self) -> tuple[bool]:
            return (True,)

    @contextmanager
    def session(connection: object, doing: str) -> Iterator[Session]:
        yield Session()
        done.append("the session ends")

    monkeypatch.setattr(scratch.postgresql, "session", session)
    with (
        suppress(BackupError),
        scratch.only_drill(Connection("nowhere", "postgres", "127.0.0.1", 1, "drill", "", "x", {})),
    ):
        if error:
            raise error
    wanted = ["SELECT pg_try_advisory_lock", "SELECT pg_advisory_unlock"]
    assert done == ([*wanted] if error else [*wanted, "the session ends"])


def test_each_task_of_a_run_has_the_same_id_and_another_run_has_another() -> None:
    paris = NOW.astimezone(timezone(timedelta(hours=1)))
    first = scratch.id_of_run(NOW, "scheduled__2026-01-05T03:30:00+00:00")
    assert first == scratch.id_of_run(paris, "scheduled__2026-01-05T03:30:00+00:00") == scratch.valid_id(first)
    assert first != scratch.id_of_run(NOW, "manual__2026-01-05T03:30:00+00:00")
    for wrong in ("", "../x", f"{ID}x", ID.upper()):
        with pytest.raises(BackupError, match="is not the id of a drill"):
            scratch.valid_id(wrong)
