"""After a rollback the former scorings of a champion come into the user's table one by one, each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rempart.errors import DatabaseUnavailable, ObjectMissing
from rempart.flows.prediction import brought, user_table
from rempart.flows.prediction import score as flow
from rempart.orchestration import run_notes
from rempart.settings.champions.scoring import Into, Scoring
from rempart.settings.config import Connection
from rempart.settings.sections import DeclaredConnection
from tests.erasable import secrets_in_memory
from tests.unit.flows.erasure.booked import without_features
from tests.unit.flows.prediction.scored_stays import Scored, made, stays

INTO = Into(connection="sales_db", table="public.stay_prices")
MONTHS = [f"2026-0{month}-01" for month in range(1, 5)]


class Table:
    """The user's table: its rows by key, as the statement in PostgreSQL merges them."""

    def __init__(self) -> None:
        self.rows: dict[int, Mapping[str, Any]] = {}
        self.calls = 0

    def upsert(self, _: Any, into: Any, model: str, columns: Any, keys: Any, files: Iterable[Path]) -> int:
        self.calls += 1
        changed = 0
        for row in (row for file in files for row in pq.read_table(file).to_pylist()):
            old = self.rows.get(row["stay_id"])
            if old is None or old["sha256"] != row["sha256"] or old["scored_at"] < row["scored_at"]:
                self.rows[row["stay_id"]], changed = row, changed + 1
        return changed

    def versions(self) -> set[str]:
        return {row["version"] for row in self.rows.values()}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    found = Table()
    monkeypatch.setattr(user_table, "upsert", found.upsert)
    monkeypatch.setattr(user_table, "count_of_others", lambda *_: 0)
    return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, table: Table) -> Scored:
    """Version 7 scored three months, then version 8 did, and now 7 is champion again."""
    without_features(monkeypatch)
    found = made(monkeypatch)
    place = DeclaredConnection(operator="this-machine", service="machine", region="local")
    config = found.platform.config.model_copy(update={"connections": {INTO.connection: place}})

    def connections(name: str) -> Connection:
        return Connection(name, "postgres") if name == INTO.connection else secrets_in_memory(name)

    found.platform = replace(found.platform, config=config, connections=connections)
    found.pipeline = found.pipeline.model_copy(update={"scoring": Scoring(into=INTO)})
    found.deliver("one", stays(60))
    for found.version in ("7", "8"):
        for since, until in pairwise(MONTHS):
            found.score(since=since, until=until)
    assert table.versions() == {"8"}
    found.version, table.calls = "7", 0
    return found


def last_month(world: Scored) -> Any:
    return world.score(since=MONTHS[-2], until=MONTHS[-1])


def test_a_backup_need_not_wait_for_all_former_scorings(
    world: Scored, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, sites, passed = brought._fetched, world.platform.continuity.active_sites("primary"), list[str]()

    def between(run: Any, scoring: Any, folder: Path) -> list[Path]:
        with sites.barrier(0):
            passed.append(scoring.id)
        return fetched(run, scoring, folder)

    monkeypatch.setattr(brought, "_fetched", between)
    done = last_month(world)
    assert len(passed) == table.calls == 3 and table.versions() == {"7"}
    assert done.changed_rows == len(table.rows)


def test_a_run_that_ends_half_way_keeps_what_came_and_the_next_goes_on(
    world: Scored, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*given: Any) -> int:
        if table.calls == 2:
            raise DatabaseUnavailable("The database does not answer", "Start it.")
        return table.upsert(*given)

    with monkeypatch.context() as patch:
        patch.setattr(user_table, "upsert", refusing)
        with pytest.raises(DatabaseUnavailable):
            last_month(world)
    assert table.versions() == {"7", "8"}
    last_month(world)
    assert table.calls == 3 and table.versions() == {"7"}


def test_a_lost_scoring_keeps_no_other_from_the_table_and_fails_each_run_until_it_is_back(
    world: Scored, table: Table
) -> None:
    oldest = next(each for each in world.all() if each.version == "7")
    (part,) = oldest.parts
    whole = world.home.read("lake", part.key)
    world.home.delete("lake", part.key)
    for _ in range(2):
        with pytest.raises(ObjectMissing, match=part.key):
            last_month(world)
        assert sum(row["version"] == "8" for row in table.rows.values()) == oldest.rows
    world.home.write("lake", part.key, whole)
    last_month(world)
    assert table.versions() == {"7"}


def test_a_promotion_in_between_keeps_the_rest_out_and_says_so(
    world: Scored, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "champion_version", lambda *_: "7" if table.calls < 2 else "9")
    done = last_month(world)
    assert done.superseded and table.calls == 2 and table.versions() == {"7", "8"}
    told = run_notes.words("score", done.__dict__)
    assert "so the rest did not come into your table: start score_stays_test again." in str(told)
    monkeypatch.setattr(flow, "champion_version", lambda *_: "9")
    told = run_notes.words("score", last_month(world).__dict__)
    assert "so your table was left as it was: start score_stays_test again." in str(told)


def test_a_scoring_that_an_erasure_in_an_input_reached_while_it_was_fetched_does_not_come(
    world: Scored, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, erased = brought._fetched, set[str]()

    def meanwhile(run: Any, scoring: Any, folder: Path) -> list[Path]:
        files = fetched(run, scoring, folder)
        if table.calls == 1 and not erased:
            erased.add(scoring.id)
        return files

    monkeypatch.setattr(brought, "_fetched", meanwhile)
    monkeypatch.setattr(brought, "_may_go", lambda run, scoring, keys: scoring.id not in erased)
    last_month(world)
    assert len(erased) == 1 and table.calls == 2 and table.versions() == {"7", "8"}
