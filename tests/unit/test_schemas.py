"""Of several processes of tests one migrates a database, and the others copy its schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rempart.settings.config import Connection
from tests import schemas

DATABASE = Connection("pg_airflow", "postgres", "127.0.0.1", 9, "airflow", "password", "airflow")
Act = Callable[[str], list[str]]


@pytest.fixture
def done_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Act:
    """What the next process of a run does for its database: a migration, or a program that it runs."""

    def act(run: str) -> list[str]:
        done: list[str] = []

        def program(database: Connection, name: str, *arguments: str) -> None:
            done.append(name)
            if name == "pg_dump":
                Path(arguments[-1].removeprefix("--file=")).write_text("CREATE TABLE dag ();")

        with monkeypatch.context() as patch:
            patch.setattr(schemas, "_run", program)
            patch.setenv(schemas.RUN, run)
            schemas.copied(tmp_path / "shared", DATABASE, lambda: done.append("migrate"))
        return done

    return act


def test_the_first_process_migrates_and_the_others_copy(done_in: Act) -> None:
    assert [done_in("this run") for _ in range(3)] == [["migrate", "pg_dump"], ["psql"], ["psql"]]


def test_nothing_is_copied_from_an_earlier_run(done_in: Act, tmp_path: Path) -> None:
    done_in("an earlier run")
    assert done_in("this run") == ["migrate", "pg_dump"]
    assert [found.name for found in (tmp_path / "shared").iterdir() if found.is_dir()] == ["this run"]


def test_a_process_that_is_alone_migrates_and_leaves_nothing(done_in: Act, tmp_path: Path) -> None:
    assert done_in("") == ["migrate"] and not (tmp_path / "shared").exists()
