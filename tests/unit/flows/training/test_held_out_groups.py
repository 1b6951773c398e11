"""A hold-out by groups or classes in the platform: what is learned from, watched, and counted as opened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from rempart.errors import TrainingError
from rempart.features import labels
from rempart.flows.monitoring.champion_drift import since_training
from rempart.flows.training.candidates import openings
from rempart.flows.training.labelled import split
from rempart.flows.training.train import without_late
from rempart.ledger.memory import MemoryLedger
from rempart.training.protocol import splits
from tests.unit.training import stage

BY_AGENT = stage.pipeline(holdout={"share": 0.4, "by": ["agent"]})


def test_agents_are_held_out_as_a_whole_and_stay_held_out_with_more_rows() -> None:
    few, many = split(BY_AGENT, stage.table(300)), split(BY_AGENT, stage.table(900))
    learn, held_out = (set(rows["agent"].to_pylist()) for rows in (many.learn, many.held_out))
    assert learn and held_out and not learn & held_out
    assert set(few.learn["agent"].to_pylist()) <= learn and set(few.held_out["agent"].to_pylist()) <= held_out
    assert many.learn.num_rows + many.held_out.num_rows == 900


def test_each_class_is_held_out_by_its_share_and_validated_apart() -> None:
    holdout = {"share": 0.25, "stratify": "target"}
    rows = split(stage.pipeline(task="classification", holdout=holdout), stage.table())
    whole = stage.table()["season"].value_counts().to_pylist()
    held = {each["values"]: each["counts"] for each in rows.held_out["season"].value_counts().to_pylist()}
    assert held == {each["values"]: -(-each["counts"] // 4) for each in whole}
    again = splits.hashed(rows.learn, ["stay_id"], 0.25, key="validation")
    assert 0.15 < again.mean() < 0.35  # of another draw, else the smallest hashes were all held out


def test_groups_have_no_begin_so_no_target_is_late() -> None:
    table = stage.table()
    late = pa.array([datetime(2030, 1, 1, tzinfo=UTC)] * table.num_rows, pa.timestamp("us", "UTC"))
    known = table.append_column(labels.KNOWN_AT, late)
    assert without_late(BY_AGENT, known) == known


def test_a_hold_out_that_takes_every_group_is_refused() -> None:
    only = stage.table().filter(pa.array([agent == "agent-1" for agent in stage.table()["agent"].to_pylist()]))
    with pytest.raises(TrainingError, match="The holdout of 40% by agent leaves"):
        split(BY_AGENT, only)


def later(rows: pa.Table, days: int) -> pa.Table:
    """Return rows as of so many days later."""
    moved = [at + timedelta(days=days) for at in rows["event_timestamp"].to_pylist()]
    return rows.set_column(1, "event_timestamp", pa.array(moved, rows.schema.field(1).type))


def test_the_watch_takes_rows_after_those_that_were_there_for_the_training() -> None:
    trained = split(BY_AGENT, stage.table())
    rows = since_training(
        BY_AGENT, trained.held_out, trained.learn, pa.concat_tables([stage.table(), later(stage.table(), 200)])
    )
    newest = max(stage.table()["event_timestamp"].to_pylist())
    assert rows.num_rows and min(rows["event_timestamp"].to_pylist()) > newest


def test_the_watch_takes_no_row_that_the_champion_learned_from_after_the_newest_held_out_one() -> None:
    trained = split(BY_AGENT, stage.table())  # the agents that are held out leave then, the others stay
    learned, after = pa.concat_tables([trained.learn, later(trained.learn, 300)]), later(trained.learn, 320)
    rows = since_training(BY_AGENT, trained.held_out, learned, pa.concat_tables([learned, after]))
    assert rows.num_rows and min(rows["event_timestamp"].to_pylist()) > max(learned["event_timestamp"].to_pylist())


def test_the_watch_takes_no_row_that_the_champion_learned_from_if_the_file_has_another_hold_out_by_now() -> None:
    trained = split(BY_AGENT, stage.table())
    assert not since_training(stage.pipeline(), trained.held_out, trained.learn, stage.table()).num_rows


def test_openings_are_counted_by_the_held_out_rows_whatever_features_they_have() -> None:
    ledger = MemoryLedger()
    first, fewer_features = {"sha256": "a", "examples": "1"}, {"sha256": "b", "examples": "1"}
    assert openings.record(ledger, "stays", first, "registration", "job-1", ()) == 1
    assert openings.record(ledger, "stays", {"sha256": "c", "examples": "2"}, "registration", "job-2", ()) == 1
    assert openings.record(ledger, "stays", fewer_features, "gate", "job-3", ["1", "2"]) == 2
    newest = ledger.find("opening", "stays", limit=1)[0].body
    told = {"held_out": "b", "examples": "1", "opening": 2, "why": "gate", "job_id": "job-3", "versions": ["1", "2"]}
    assert newest == told
    del ledger.records[0]  # as after somebody altered it
    assert openings.record(ledger, "stays", first, "gate", "job-1", ["1", "2"]) == 3
