"""The user's table gets what the champion predicted, after failed upserts, kills, promotions and rollbacks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pyarrow.parquet as pq
import pytest

from rempart.errors import PredictionError
from rempart.flows.prediction import score as flow
from rempart.flows.prediction import user_table
from rempart.ingestion.snapshots import SnapshotColumn
from rempart.orchestration import run_notes
from rempart.settings.champions.scoring import Into, Scoring
from rempart.settings.config import Connection
from rempart.settings.sections import DeclaredConnection
from tests.erasable import secrets_in_memory
from tests.unit.flows.prediction.scored_stays import Scored, made, stays

ALL: dict[str, Any] = {"since": "2026-01-01", "until": "2027-01-01"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Scored:
    return made(monkeypatch)


class UserTable:
    """The user's table in memory, in place of PostgreSQL: version and SHA-256 of each row."""

    def __init__(self, world: Scored, patch: pytest.MonkeyPatch) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.is_shut = False
        place = DeclaredConnection(operator="this-machine", service="machine", region="local")
        config = world.platform.config.model_copy(update={"connections": {"sales_db": place}})
        world.platform = replace(
            world.platform,
            config=config,
            connections=lambda name: Connection(name, "postgres") if name == "sales_db" else secrets_in_memory(name),
        )
        into = Scoring.model_validate({"into": {"connection": "sales_db", "table": "reports.stays"}})
        world.pipeline = world.pipeline.model_copy(update={"scoring": into})
        patch.setattr(user_table, "upsert", self.upsert)
        patch.setattr(user_table, "count_of_others", self.count_of_others)

    def upsert(self, *given: Any) -> int:
        if self.is_shut:
            raise PredictionError("bring predictions: the database is shut", "Open it.")
        changed = 0
        for row in [row for file in given[-1] for row in pq.read_table(file).to_pylist()]:
            old = self.rows.get(row["stay_id"])
            if old is None or old["sha256"] != row["sha256"] or old["scored_at"] < row["scored_at"]:
                self.rows[row["stay_id"]] = row
                changed += 1
        return changed

    def count_of_others(self, *given: Any) -> int:
        return sum(row["sha256"] != given[-1] for row in self.rows.values())

    def versions(self) -> list[str]:
        return [self.rows[stay]["version"] for stay in sorted(self.rows)]


def test_the_table_of_the_user_gets_what_an_upsert_that_failed_left_behind(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = UserTable(world, monkeypatch)
    world.deliver("one", stays(30))
    table.is_shut = True
    with pytest.raises(PredictionError, match="the database is shut"):
        world.score(since="2026-01-01", until="2026-06-01")
    table.is_shut = False
    rest = world.score(since="2026-06-01", until="2027-01-01")
    assert table.versions() == ["7"] * 30 and rest.changed_rows == 30 > rest.rows
    assert world.score(since="2026-06-01", until="2027-01-01").changed_rows == 0


def test_after_a_rollback_the_next_run_replaces_the_rows_of_the_former_champion(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, early = UserTable(world, monkeypatch), {"since": "2026-01-01", "until": "2026-06-01"}
    world.deliver("one", stays(30))
    world.score(**ALL)
    world.version = "8"  # promoted
    first = world.score(**early)
    assert 0 < first.rows < 30 and first.former_rows == 30 - first.rows
    words = run_notes.words("score", first.__dict__)
    assert (
        f"{30 - first.rows} of its rows are from versions that are no longer champion: start score_stays_test" in words
    )
    assert world.score(**ALL).former_rows == 0 and set(table.versions()) == {"8"}

    world.version = "7"  # rolled back; a window without rows does it as well
    back = world.score(since="2026-01-01", until="2026-01-02")
    assert (back.scoring, back.changed_rows, back.former_rows) == (None, 30, 0)
    assert set(table.versions()) == {"7"}
    assert "30 rows of your table were inserted or replaced." in run_notes.words("score", back.__dict__)
    assert world.score(since="2026-01-01", until="2026-01-02").changed_rows == 0
    assert world.score(**ALL).changed_rows == 0


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_rollback_after_a_run_that_was_killed_around_its_upsert_replaces_its_rows(
    world: Scored, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    table = UserTable(world, monkeypatch)
    world.deliver("one", stays(30))
    early, late = ({"since": "2026-01-01", "until": "2026-06-01"}, {"since": "2026-06-01", "until": "2027-01-01"})
    world.score(**early)
    world.score(**late)
    world.version = "8"

    def killed(*given: Any) -> int:
        if step == "after":
            table.upsert(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(user_table, "upsert", killed)
        with pytest.raises(KeyboardInterrupt):
            world.score(**ALL)
    world.version = "7"
    assert world.score(**early).former_rows == 0 and table.versions() == ["7"] * 30
    assert world.score(**early).changed_rows == 0


def test_a_run_whose_version_is_champion_no_longer_leaves_the_table_as_it_is(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = UserTable(world, monkeypatch)
    world.deliver("one", stays(30))
    keep = flow.keep

    def promoted_meanwhile(*given: Any) -> None:
        keep(*given)
        world.version = "8"

    with monkeypatch.context() as patch:
        patch.setattr(flow, "keep", promoted_meanwhile)
        late = world.score(**ALL)
    assert (late.version, late.rows, late.changed_rows, table.rows) == ("7", 30, None, {})
    assert "Another version became champion meanwhile, so your table" in run_notes.words("score", late.__dict__)
    assert world.score(**ALL).changed_rows == 30 and table.versions() == ["8"] * 30


def test_what_the_champion_does_not_answer_becomes_null_in_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A former champion's interval or classes never stand beside its successor's prediction."""
    opened = MagicMock()
    opened.execute.return_value.rowcount = 0
    monkeypatch.setattr(user_table, "_session", lambda *_: nullcontext(opened))
    monkeypatch.setattr(user_table, "_fit", lambda *_: None)
    there = ("stay_id", "prediction", "prediction_lower", "prediction_upper", "probability_yes", "note", "model")
    monkeypatch.setattr(user_table, "_columns", lambda *_: dict.fromkeys(there, "text"))
    columns = {"stay_id": SnapshotColumn("integer", False), "prediction": SnapshotColumn("number", True)}
    into = Into(connection="sales_db", table="reports.stays")
    user_table.upsert(Connection("sales_db", "postgres"), into, "stays", columns, ["stay_id"], [])
    merged = opened.execute.call_args.args[0].as_string(None)
    changed = merged.partition("DO UPDATE SET ")[2].partition(" WHERE ")[0]
    assert changed.split(", ") == [
        '"prediction" = excluded."prediction"',
        '"prediction_lower" = NULL',
        '"prediction_upper" = NULL',
        '"probability_yes" = NULL',
    ]
