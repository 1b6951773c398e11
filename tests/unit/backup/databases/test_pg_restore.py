"""A dump's table of contents: the restored entries, their needs, and the meaning of pg_restore's refusals."""

import pytest

from rempart.backup.databases import pg_restore, postgresql
from rempart.errors import BackupError, DatabaseUnavailable

ENTRIES = [
    "2; 3079 16400 EXTENSION - vector ",
    "4321; 0 0 COMMENT - EXTENSION vector ",
    "3; 3079 16500 EXTENSION - pg_trgm ",
    "220; 1259 16385 TABLE public EXTENSION backup",
    "4400; 0 0 COMMENT public TABLE champions backup",
    "4322; 0 16385 TABLE DATA public champions backup",
]


def test_extensions_are_those_of_the_contents() -> None:
    assert pg_restore.extensions(ENTRIES) == ("pg_trgm", "vector")


def test_all_is_restored_but_comments_that_only_an_extensions_owner_may_make() -> None:
    assert pg_restore.restorable(ENTRIES) == [ENTRIES[0], *ENTRIES[2:]]


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        ('pg_restore: error: ERROR:  permission denied to create extension "vector"', BackupError, "extension vector"),
        ('pg_restore: error: connection to server at "h" failed', DatabaseUnavailable, "closed the connection"),
        (
            'pg_restore: error: COPY failed for table "a": ERROR: bad "row of a person"',
            BackupError,
            "ended with status 1",
        ),
    ],
)
def test_why_a_restore_failed(messages: str, kind: type[Exception], message: str) -> None:
    found = pg_restore.restore_failure("mlflow", 1, messages)
    assert type(found) is kind and message in found.what and found.hint
    assert "person" not in str(found)


def test_a_lock_that_was_not_had_is_worth_another_try() -> None:
    message = "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout"
    locked = postgresql.dump_failure("airflow", message)
    assert locked.transient and "'airflow': a table stayed locked" in locked.what
    assert not postgresql.dump_failure("airflow", "pg_dump: error: boom").transient
