"""Rows with a value that the champion never saw: told and left out by each way to predict, beside the others."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.cli.predictions import lines
from rempart.cli.views import pipelines
from rempart.errors import DatabaseUnavailable, PredictionError
from rempart.features.prediction.plan import StoredView, inputs_of, plan
from rempart.flows.prediction import files
from rempart.flows.prediction import score as flow
from rempart.flows.prediction.champion import Champion
from rempart.flows.prediction.judged_rows import judge_features
from rempart.models.encoding import Feature, encode, features_of
from rempart.models.isolated_model import IsolatedModel
from rempart.models.loading import LoadedModel
from rempart.orchestration import run_notes
from rempart.training.trainers import trainers
from rempart.web.read_models.pipeline_states import pipeline_states
from tests.cockpit import NOW as COCKPIT_NOW
from tests.cockpit import Watched
from tests.erasable import NOW
from tests.unit.cli.test_models_view import MODEL
from tests.unit.flows.prediction.scored_stays import NAME, Scored, made, stays
from tests.unit.training import stage

PIPELINE = stage.pipeline(
    features={
        "stay": {"kind": "row", "at": "booking", "columns": ["lead", "nights", "breakfast", "room"]},
        "past": {"kind": "trailing", "at": "booking", "by": ["agent"], "windows": ["90d"], "last": ["room"]},
    }
)
ALL: dict[str, Any] = {"since": "2026-01-01", "until": "2027-01-01"}
NEW = "cellar-9c1e"
"""A value that only later rows have. It may appear in no message."""
WHY = "feature 'past__room_last_90d' holds a value that the model does not know"


def champion(last: Mapping[str, str], version: str = "7") -> Champion:
    """A champion, and the room of each agent's latest stay in the online store."""
    features, table = features_of(PIPELINE), stage.table(80)
    table = table.append_column("past__room_last_90d", table["stay__room"])
    table = table.append_column("past__rows_90d", table["stay__lead"])
    matrix, truth = encode(features, table), table["price"].to_numpy()
    body = trainers.train("gradient_boosting", matrix, truth, {"max_iter": 3}, 1, "regression", matrix, 0).body
    names = [feature.name for feature in features]
    model = LoadedModel(
        NAME, version, "regression", None, features, inputs_of(PIPELINE, names), f"{int(version):064x}",
        IsolatedModel(body),
    )  # fmt: skip

    def lookup(view: StoredView, keys: pa.Array, at: datetime) -> pa.Table:
        rooms = [last.get(key, "sea") for key in keys.to_pylist()]
        return pa.table({"agent": keys, "room_last_90d": rooms, "rows_90d": pa.repeat(3, len(rooms))})

    return Champion(model, plan(PIPELINE, names), lookup, lambda: NOW)


def of_agents(rows: pa.Table, *agents: str) -> list[int]:
    found = zip(rows["stay_id"].to_pylist(), rows["agent"].to_pylist(), strict=True)
    return [stay for stay, agent in found if agent in agents]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Scored:
    """A lake without rows. Agent 3 sold a room of a new kind last."""
    world = made(monkeypatch)
    world.pipeline = PIPELINE
    monkeypatch.setattr(flow, "champion_of", lambda *_: champion({"agent-3": NEW}, world.version))
    return world


def quarantined(world: Scored) -> list[dict[str, Any]]:
    parts = [part for scoring in world.all() for part in scoring.quarantine]
    return [row for part in parts for row in pq.read_table(io.BytesIO(world.home.read("lake", part.key))).to_pylist()]


def test_a_scoring_leaves_such_rows_out_tells_them_and_predicts_the_others(
    world: Scored, caplog: pytest.LogCaptureFixture
) -> None:
    rows = stays(40)
    world.deliver("one", rows)
    unknown = of_agents(rows, "agent-3")
    with caplog.at_level(logging.WARNING):
        result = world.score(**ALL)
    assert (result.rows, result.refused, result.reasons) == (40 - len(unknown), len(unknown), {WHY: len(unknown)})
    assert quarantined(world) == [{"stay_id": stay, "reason": WHY} for stay in unknown]
    found = world.rows()
    assert found["stay_id"].to_pylist() == [stay for stay in range(40) if stay not in unknown]
    wanted = champion({}).predict(rows).take(found["stay_id"])
    assert found["prediction"].to_pylist() == wanted["prediction"].to_pylist()
    (record,) = world.platform.ledger.find("scoring", NAME)
    assert (record.body["quarantined"], record.body["reasons"]) == (len(unknown), {WHY: len(unknown)})
    assert f"{len(unknown)} in quarantine ({len(unknown)} because {WHY})" in run_notes.words("score", result.__dict__)
    assert f"{len(unknown)} rows are not predicted: {WHY}" in caplog.messages
    assert world.score(**ALL).reasons == result.reasons


def test_a_scoring_of_such_rows_alone_fails_until_another_champion_knows_them(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stays(40)
    known, unknown = of_agents(rows, "agent-0"), of_agents(rows, "agent-3")
    world.deliver("one", rows.take(unknown))
    for _ in range(2):
        with pytest.raises(PredictionError, match=f"none can be predicted, .* {WHY} in {len(unknown)} rows") as caught:
            world.score(**ALL)
        assert f"train again: `rempart pipeline run {NAME} --follow`" in caught.value.hint
        assert f"validate_model_{NAME} in Airflow with the candidate's version" in caught.value.hint
        assert NEW not in str(caught.value)
    assert quarantined(world) == [{"stay_id": stay, "reason": WHY} for stay in unknown]
    world.deliver("two", rows.take(known))
    assert world.score(**ALL).rows == len(known)
    world.version = "8"
    monkeypatch.setattr(flow, "champion_of", lambda *_: champion({}, world.version))
    assert world.score(**ALL).rows == len(known) + len(unknown)


def older(made: Champion, **inputs: dict[str, Any]) -> Champion:
    """A champion whose inputs have less than the pipeline file."""
    changed = [dataclasses.replace(each, **inputs.get(each.name, {})) for each in made.model.inputs]
    return dataclasses.replace(made, model=dataclasses.replace(made.model, inputs=tuple(changed)))


def test_rows_that_have_another_fault_too_do_not_wait_for_a_training(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = older(champion({}), room={"values": ("attic",)}, nights={"nullable": False})
    monkeypatch.setattr(flow, "champion_of", lambda *_: strict)
    rows = stays(6)
    for name, values in (("nights", pa.nulls(6, pa.int64())), ("room", pa.array(["sea"] * 6))):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    world.deliver("one", rows)
    result = world.score(**ALL)
    assert (result.rows, result.refused) == (0, 6) and "column 'nights' is empty" in str(result.reasons)


def test_a_batch_without_a_row_to_predict_asks_no_server(world: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any) -> StoredView:
        raise DatabaseUnavailable("the online store does not answer", "Wait.")

    gone = dataclasses.replace(older(champion({}), room={"values": ("attic",)}), lookup=lookup)
    monkeypatch.setattr(flow, "champion_of", lambda *_: gone)
    rows = stays(6)
    world.deliver("one", rows.set_column(rows.column_names.index("room"), "room", pa.array(["sea"] * 6)))
    with pytest.raises(PredictionError, match="column 'room' holds a value that the model does not know in 6 rows"):
        world.score(**ALL)
    assert len(quarantined(world)) == 6


def test_a_run_during_which_another_champion_came_does_not_ask_to_train(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = stays(40)
    world.deliver("one", rows.take(of_agents(rows, "agent-3")))
    into = {"connection": "reports", "table": "public.stays"}
    monkeypatch.setattr(flow.places, "decide_connection", lambda *_, **__: None)
    monkeypatch.setattr(type(world.platform), "record", lambda *_: None)
    world.pipeline = type(PIPELINE).model_validate(
        PIPELINE.model_dump(by_alias=True, exclude_none=True) | {"scoring": {"into": into}}
    )
    monkeypatch.setattr(flow, "champion_version", lambda *_: "8")
    assert world.score(**ALL).superseded


def test_a_table_is_refused_with_the_feature_the_rows_and_the_remedy() -> None:
    rows = stays(40)
    unknown = len(of_agents(rows, "agent-3"))
    with pytest.raises(PredictionError, match=f"predict 40 rows: {WHY} in {unknown} rows") as caught:
        champion({"agent-3": NEW}).predict(rows)
    assert "train again" in caught.value.hint and NEW not in str(caught.value)


@pytest.mark.parametrize("at_once", [7, 1 << 16])
def test_rows_of_a_file_are_listed_by_line_and_the_others_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(files, "ROWS", at_once)
    rows = stays(40)
    pyarrow.csv.write_csv(rows, tmp_path / "rows.csv")
    unknown = of_agents(rows, "agent-3")
    with files.scored(champion({"agent-3": NEW}), PIPELINE, tmp_path / "rows.csv") as found:
        predicted = [stay for batch in found.batches for stay in batch["stay_id"].to_pylist()]
    assert predicted == [stay for stay in range(40) if stay not in unknown]
    assert [row.line for row in found.refused] == [stay + 2 for stay in unknown]
    assert list(lines.refused(found.refused))[1].startswith(f"{len(unknown):>9,} x {WHY} (line {unknown[0] + 2}, ")


ROOMS = Feature("stay__room", "category", ("plain", "sea"))
PAST = Feature("past__room", "category", ("sea",))
CELLS = st.sampled_from([None, "plain", "sea", NEW])


@given(rows=st.lists(st.tuples(CELLS, CELLS)), encoded=st.booleans())
def test_exactly_the_rows_with_a_value_outside_a_list_are_told(
    rows: list[tuple[str | None, str | None]], encoded: bool
) -> None:
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(2)]
    table = pa.table([c.dictionary_encode() if encoded else c for c in columns], [ROOMS.name, PAST.name])
    wanted = [
        "; ".join(
            f"feature '{feature.name}' holds a value that the model does not know"
            for feature, cell in zip((ROOMS, PAST), row, strict=True)
            if cell is not None and cell not in feature.values
        )
        for row in rows
    ]
    unknown, reasons = judge_features([ROOMS, PAST], table)
    assert unknown.to_pylist() == [bool(reason) for reason in wanted]
    assert reasons.to_pylist() == [reason for reason in wanted if reason]


def test_the_command_that_shows_a_pipeline_tells_the_reasons_of_its_last_scoring() -> None:
    watched = Watched()
    watched.promotion("1")
    told = {"scoring": "a1", "version": "1", "rows_of": MODEL, "rows": 1200, "quarantined": 3, "reasons": {WHY: 3}}
    watched.record("scoring", MODEL, told | {"into": None, "bucket": "lake"})
    (found,) = [each for each in pipeline_states(watched.facts(), COCKPIT_NOW) if each.name == MODEL]
    lines_of = list(pipelines.state_lines(found, "landing"))
    (at,) = [place for place, line in enumerate(lines_of) if line.startswith("Last scoring: 1,200 rows")]
    assert lines_of[at + 1] == f"        3 x {WHY}"
