"""A logged prediction is computed again by the version that answered; what took an entry is told by its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from rempart.backup.keys import age
from rempart.cli.predictions import replay as command
from rempart.errors import ConnectionMissing, KeyDestroyed, KeyWrong, ModelRefused, ServingError
from rempart.flows.erasure import erase_descendant_logs
from rempart.flows.prediction.champion import Champion
from rempart.flows.prediction_log import keys, replay, retention, shipment
from rempart.flows.shared.keys import destroy, open_keyring
from rempart.serving import segments
from rempart.serving.entries import PredictionEntry, new_id
from rempart.settings import pipelines
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline
from tests.erasable import NOW, Lake, in_two_memories
from tests.logged import AT, SHA256, entry, journal, written
from tests.unit.flows.erasure.booked import without_features
from tests.unit.flows.prediction.test_champion import HASH, PIPELINE, TABLE, champion, raw

__all__ = ["champion"]
NAME = PIPELINE.name


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch, champion: Champion) -> Lake:
    """A platform whose only pipeline is that of the stays, and whose version 7 is the trained logged_entry."""
    without_features(monkeypatch)
    monkeypatch.setattr(pipelines, "named", lambda name: PIPELINE)
    monkeypatch.setattr(replay, "version_of", lambda platform, name, version: champion.model)
    made = in_two_memories()
    made.pipeline = PIPELINE
    return made


def answered(champion: Champion, number: int, at: datetime = AT) -> PredictionEntry:
    """The entry of a row as the scorer writes it, with dates as text."""
    (inputs,) = raw(TABLE.slice(number, 1)).to_pylist()
    (features,) = TABLE.slice(number, 1).select([each.name for each in champion.model.features]).to_pylist()
    (output,) = champion.model.predict(TABLE.slice(number, 1)).to_pylist()
    return entry(
        number,
        at,
        pipeline=NAME,
        version="7",
        sha256=HASH,
        inputs=inputs | {"stay_id": number, "arrival": inputs["arrival"].isoformat()},
        features=features,
        output=output,
    )


def log(lake: Lake, root: Path, *entries: PredictionEntry) -> None:
    keys.make(lake.platform, model(lake))
    written(journal(lake.platform, model(lake), root), entries)


def model(lake: Lake) -> ModelPipeline:
    assert isinstance(lake.pipeline, ModelPipeline)
    return lake.pipeline


def test_a_prediction_is_the_same_before_and_after_it_is_shipped(
    lake: Lake, champion: Champion, tmp_path: Path
) -> None:
    asked = [answered(champion, number, AT + timedelta(hours=number)) for number in range(3)]
    log(lake, tmp_path, *asked)
    found = replay.replay(lake.platform, PIPELINE, asked[1].id, tmp_path / NAME)
    assert found.same and found.from_inputs is not None and found.logged.where.endswith(".journal")
    shipment.ship(lake.platform, tmp_path / NAME)
    again = replay.replay(lake.platform, PIPELINE, asked[1].id, tmp_path / NAME)
    assert again.same and again.from_inputs is not None and "hour=11" in again.logged.where
    with pytest.MonkeyPatch.context() as race:
        race.setattr(segments, "all_in", lambda folder: [folder / "shipped-just-now.journal"])
        assert replay.replay(lake.platform, PIPELINE, asked[1].id, tmp_path / NAME).same
    assert again.logged.private.inputs == asked[1].inputs
    told = "\n".join(command.lines(again, with_inputs=False))
    assert told.count("(the same)") == 2 and "answered by version 7 at acme/node-1/scorer" in told
    assert '"stay_id": 1' in "\n".join(command.lines(again, with_inputs=True)) and '"stay_id"' not in told


def test_a_difference_is_told(lake: Lake, champion: Champion, tmp_path: Path) -> None:
    logged_entry = answered(champion, 1)
    other = {name: value if isinstance(value, str) else value / 2 for name, value in logged_entry.output.items()}
    log(lake, tmp_path, dataclasses.replace(logged_entry, output=other))
    found = replay.replay(lake.platform, PIPELINE, logged_entry.id, tmp_path / NAME)
    assert not found.same and "DIFFERENT" in "\n".join(command.lines(found, with_inputs=False))


def test_inputs_that_do_not_give_the_features_leave_the_logged_ones(
    lake: Lake, champion: Champion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_entry = answered(champion, 1)
    log(lake, tmp_path, dataclasses.replace(logged_entry, inputs={"stay_id": 1}))
    found = replay.replay(lake.platform, PIPELINE, logged_entry.id, tmp_path / NAME)
    assert found.same and found.from_inputs is None and "does not have every column" in found.note
    fewer = dataclasses.replace(champion.model, inputs=champion.model.inputs[1:])
    monkeypatch.setattr(replay, "version_of", lambda platform, name, version: fewer)
    assert "defined in another way" in replay.replay(lake.platform, PIPELINE, logged_entry.id, tmp_path / NAME).note
    changed = dataclasses.replace(champion.model, sha256=SHA256[::-1])
    monkeypatch.setattr(replay, "version_of", lambda platform, name, version: changed)
    with pytest.raises(ModelRefused, match="another SHA-256"):
        replay.replay(lake.platform, PIPELINE, logged_entry.id, tmp_path / NAME)


def test_what_took_an_entry_is_told(lake: Lake, champion: Champion, tmp_path: Path) -> None:
    old = answered(champion, 1, NOW - timedelta(days=200))
    log(lake, tmp_path, old, answered(champion, 2))
    shipment.ship(lake.platform, tmp_path / NAME)
    retention.expire(lake.platform, PIPELINE)
    with pytest.raises(ServingError, match=r"does not have it. Entries from before .* after 183 days \(evidence"):
        replay.replay(lake.platform, PIPELINE, old.id, tmp_path / NAME)
    successors = [{"key": f"predictions-log/{NAME}/date=2099-03-01/hour=10/a.parquet", "to": None, "bucket": "lake"}]
    lake.platform.ledger.append("erasure", NAME, {"state": "rewritten", "successors": successors})
    reasons: Iterator[str] = replay.reasons(lake.platform.ledger, PIPELINE, new_id(AT, bytes(10)), NOW)
    assert any("An erasure on" in reason for reason in reasons)
    later = replay.reasons(lake.platform.ledger, PIPELINE, new_id(AT + timedelta(hours=3), bytes(10)), NOW)
    assert not any("An erasure on" in reason for reason in later)


def test_a_restored_platform_with_another_key_replays_with_an_escrowed_one(
    lake: Lake, champion: Champion, tmp_path: Path
) -> None:
    escrow, own, before = age.new_identity(), age.new_identity(), lake.platform
    backup = before.config.backup.model_copy(update={"recipients": [escrow.recipient]})
    config = before.config.model_copy(update={"backup": backup})
    lake.platform = dataclasses.replace(before, config=config)
    log(lake, tmp_path, found := answered(champion, 1))
    shipment.ship(lake.platform, tmp_path / NAME)

    def restored(name: str, *, has_key: bool) -> Connection:
        if name != "backup_key":
            return before.connections(name)
        if not has_key:
            raise ConnectionMissing("no key here", "Define it.")
        return Connection(name, "generic", login=own.recipient, password=own.secret)

    for has_key, fault in ((True, KeyWrong), (False, ConnectionMissing)):
        there = dataclasses.replace(lake.platform, connections=partial(restored, has_key=has_key))
        with pytest.raises(fault):
            replay.replay(there, PIPELINE, found.id, tmp_path / NAME)
        assert replay.replay(there, PIPELINE, found.id, tmp_path / NAME, escrow).same


def test_an_entry_whose_values_an_erasure_in_a_source_took_is_told(
    lake: Lake, champion: Champion, tmp_path: Path
) -> None:
    log(lake, tmp_path, found := answered(champion, 1))
    told = {"state": erase_descendant_logs.STATE, "before": found.at.isoformat(), "erasures": []}
    lake.platform.ledger.append("erasure", NAME, told)
    shipment.ship(lake.platform, tmp_path / NAME)
    with pytest.raises(ServingError, match="an erasure took its inputs and features"):
        replay.replay(lake.platform, PIPELINE, found.id, tmp_path / NAME)


def test_an_entry_that_was_shipped_after_its_key_was_destroyed_does_not_blame_an_erasure(
    lake: Lake, champion: Champion, tmp_path: Path
) -> None:
    log(lake, tmp_path, found := answered(champion, 1))
    scope = keys.scope_of(model(lake))
    destroy(lake.platform.ledger, open_keyring(lake.platform), scope.id, dry_run=False)
    shipment.ship(lake.platform, tmp_path / NAME)
    with pytest.raises(KeyDestroyed):
        replay.replay(lake.platform, PIPELINE, found.id, tmp_path / NAME)


def test_the_hour_of_an_id_is_searched_first() -> None:
    hours = {AT.replace(minute=0) + timedelta(hours=number) for number in range(5)}
    assert replay.nearest(hours, AT + timedelta(hours=2))[0].hour == 12
    assert [hour.hour for hour in replay.nearest(hours, None)] == [14, 13, 12, 11, 10]
    assert replay.equal({"a": "x", "b": 1.0}, {"a": "x", "b": 1.0 + 3e-8})
    assert not replay.equal({"a": pa.NA}, {})
