"""From the columns of the source to named predictions, on a trained model; and the rows of files in each format."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from rempart.cli.predictions import lines
from rempart.errors import PredictionError
from rempart.features.prediction.plan import inputs_of, plan
from rempart.flows.prediction import champion as champions
from rempart.flows.prediction import files
from rempart.flows.prediction.champion import Champion
from rempart.models import predictions
from rempart.models.encoding import encode, features_of
from rempart.models.isolated_model import IsolatedModel
from rempart.models.loading import LoadedModel
from rempart.models.metrics import target_values
from rempart.settings.pipeline import ModelPipeline
from rempart.training.trainers import trainers
from tests.integration.test_features import NOW
from tests.unit.training import stage

PIPELINE, TABLE = stage.pipeline(), stage.table(60)
HASH = "ab" * 32


def raw(table: pa.Table) -> pa.Table:
    """The rows of a training set as the source gives them, without those that are known later."""
    columns = {"lead": "stay__lead", "nights": "stay__nights", "breakfast": "stay__breakfast", "room": "stay__room"}
    return pa.table({name: table[column] for name, column in columns.items()} | {"arrival": table["arrival"]})


@pytest.fixture(scope="module")
def champion() -> Champion:
    features = features_of(PIPELINE)
    names = [feature.name for feature in features]
    matrix, season = encode(features, TABLE), trained_target()
    truth = target_values(season, TABLE)
    body = trainers.train("gradient_boosting", matrix, truth, {"max_iter": 3}, 1, "classification", matrix, 3).body
    model = LoadedModel(
        "stays_test",
        "7",
        "classification",
        season,
        features,
        inputs_of(PIPELINE, names),
        HASH,
        IsolatedModel(body),
    )
    return Champion(model, plan(PIPELINE, names), no_lookup, lambda: NOW)


def trained_target() -> Any:
    from rempart.flows.training.train import target_feature

    return target_feature(stage.pipeline(task="classification"))


def no_lookup(*_: Any) -> pa.Table:
    raise AssertionError("no view is trailing")


def test_raw_rows_give_what_the_frozen_training_set_gives(champion: Champion, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = champion.model.predict(TABLE)
    assert champion.predict(raw(TABLE)).equals(wanted)
    shuffled = raw(TABLE).select(["room", "arrival", "nights", "lead", "breakfast"]).append_column("x", TABLE["agent"])
    monkeypatch.setattr(champions, "ROWS", 17)
    found = champion.predict(shuffled)
    assert found["prediction"].to_pylist() == wanted["prediction"].to_pylist()
    np.testing.assert_allclose(predictions.figures(found), predictions.figures(wanted), rtol=1e-6)
    assert champion.predict(raw(TABLE).slice(0, 0)).num_rows == 0


def test_nothing_is_predicted_if_one_row_is_at_fault(champion: Champion) -> None:
    rooms = pa.array([stage.CANARY, *TABLE["stay__room"].to_pylist()[1:]])
    rows = raw(TABLE)
    with pytest.raises(PredictionError, match="predict 60 rows: column 'room' holds a value in 1 row") as caught:
        champion.predict(rows.set_column(rows.column_names.index("room"), "room", rooms))
    assert stage.CANARY not in str(caught.value)


def other(**stay: Any) -> ModelPipeline:
    view = {"kind": "row", "at": "booking", "columns": ["lead", "nights", "breakfast", "room"], **stay}
    return stage.pipeline(features={"stay": {"calendar": {"arrival": ["month"]}} | view})


def test_a_pipeline_file_that_no_longer_gives_a_feature_predicts_nothing(champion: Champion) -> None:
    champions.check_definitions(other(), champion.model)
    with pytest.raises(PredictionError, match="feature 'stay__nights' is defined in another way in"):
        champions.check_definitions(other(columns=["lead", "breakfast", "room"]), champion.model)
    schema = PIPELINE.model_dump(by_alias=True)["schema"]
    schema |= {"room": {"type": "category", "known": "booking", "values": ["plain", "sea", "suite", "cellar"]}}
    champions.check_definitions(stage.pipeline(schema=schema), champion.model)
    fewer = dataclasses.replace(champion.model, inputs=champion.model.inputs[1:])
    with pytest.raises(PredictionError, match=f"column '{champion.model.inputs[0].name}' of its features"):
        champions.check_definitions(PIPELINE, fewer)


def written(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    file = folder / f"rows{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ending == ".jsonl":
        file.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.write_text(text.getvalue())
    return file


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Rows with a key, and with the price, which no model reads and which is no number here."""
    return [
        {"stay_id": 100 + i, "price": stage.CANARY, **row} for i, row in enumerate(raw(TABLE.slice(0, 4)).to_pylist())
    ]


@pytest.fixture(params=[".csv", ".jsonl", ".parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path, rows: list[dict[str, Any]]) -> Iterator[Path]:
    rows[2]["room"] = stage.CANARY
    return written(tmp_path, request.param, rows)


def test_rows_of_a_file_are_predicted_but_those_at_fault(champion: Champion, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.parquet"
    with files.scored(champion, PIPELINE, file) as found:
        assert files.write(found.batches, output) == 3
    made, first = pq.read_table(output), 2 if file.suffix == ".csv" else 1
    assert made["line"].to_pylist() == [first, first + 1, first + 3]
    assert made["stay_id"].to_pylist() == [100, 101, 103]
    kept = champion.model.predict(TABLE.slice(0, 4)).take([0, 1, 3])
    assert made.select(kept.column_names).to_pylist() == kept.to_pylist()
    told = list(lines.refused(found.refused))
    assert told == [
        "1 row cannot be predicted:",
        f"        1 x room: not among the declared values (line {first + 2})",
    ]
    assert not list(tmp_path.glob(".*"))


def test_a_row_whose_moment_is_no_day_of_the_calendar_is_refused_alone(
    champion: Champion, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    rows[1]["lead"] = -9_000_000
    with files.scored(champion, PIPELINE, written(tmp_path, ".csv", rows)) as found:
        assert sum(batch.num_rows for batch in found.batches) == 3
    (row,) = found.refused
    assert row.reasons == ("moment 'booking': it lies before the year 1 or after the year 9999",)
    given = raw(TABLE).slice(0, 2).set_column(0, "lead", pa.array([1, -9_000_000]))
    with pytest.raises(PredictionError, match=r"predict 2 rows: moment 'booking': it lies .* in 1 row"):
        champion.predict(given)


def test_a_column_that_may_be_empty_may_be_left_out_of_a_file_and_is_told(
    champion: Champion, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows:
        row["nights"] = None
    with files.scored(champion, PIPELINE, written(tmp_path, ".csv", rows)) as found:
        wanted = [batch.to_pylist() for batch in found.batches]
    for row in rows:
        del row["nights"]
    with files.scored(champion, PIPELINE, written(tmp_path, ".csv", rows)) as found:
        assert [batch.to_pylist() for batch in found.batches] == wanted and wanted[0]
        told = "The file lacks columns that the model reads, which are taken as empty: nights."
        assert list(lines.absent(found.absent)) == [told]
    for row in rows:
        del row["lead"]
    with (
        pytest.raises(PredictionError, match="missing columns: lead"),
        files.scored(champion, PIPELINE, written(tmp_path, ".csv", rows)),
    ):
        pass


def test_predictions_are_shown_without_hidden_columns_and_written_as_csv(
    champion: Champion, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows:
        del row["price"]
    file, output = written(tmp_path, ".csv", rows), tmp_path / "out.csv"
    with files.scored(champion, PIPELINE, file) as found:
        (batch,) = found.batches
        assert files.write([batch], output) == 4
    assert pyarrow.csv.read_csv(output).num_rows == 4
    told = "\n".join(lines.shown(batch, 25, ["stay_id"]))
    assert "LINE  PREDICTION  PROBABILITY_CHEAP" in told and "STAY_ID" not in told
    assert "25 rows are predicted. 21 are not shown" in told
    assert list(lines.answered_by(champion.model)) == [
        f"stays_test: version 7, champion; model.onnx has SHA-256 {HASH}"
    ]
    assert files.ending_fault(output) is None and files.ending_fault(tmp_path / "a.xlsx")
    with pytest.raises(PredictionError, match="write predictions to"):
        files.write([batch], tmp_path / "nowhere" / "out.csv")


def test_a_file_that_cannot_be_read_is_told_with_the_columns_that_the_model_needs(
    champion: Champion, tmp_path: Path
) -> None:
    (short := tmp_path / "short.csv").write_text("stay_id,lead\n1,2\n")
    named = "stay_id,lead,nights,breakfast,room,arrival"
    (more := tmp_path / "more.csv").write_text(f"{named},Score (alt)\n1,2,3,true,a,2026-01-01,4\n")
    (rows := tmp_path / "rows.csv").write_text("7,2,3,Ms Doe\n8,2,4,Mr Doe\n")
    times = pa.array([0], pa.int64()).cast(pa.timestamp("us", "Mars/X"))
    given = raw(TABLE.slice(0, 1)).append_column("price", times)
    pq.write_table(given, odd := tmp_path / "odd.parquet")
    for file, fault in (
        (short, "missing columns: breakfast"),
        (more, r"column 'Score \(alt\)' is not in the pipeline file"),
        (rows, r"rows.csv: (?!.*Doe)"),
        (tmp_path / "gone.csv", "it cannot be read"),
        (odd, r"it cannot be read \(ArrowInvalid\)"),
    ):
        with pytest.raises(PredictionError, match=fault) as caught, files.scored(champion, PIPELINE, file):
            pass
        assert "lead, nights, breakfast, room, arrival" in caught.value.hint


def test_a_key_keeps_its_values_beside_columns_of_a_prediction() -> None:
    names = ("stay_id", "line", "prediction", "probability_high")
    assert [files.key_column(name) for name in names] == [
        "stay_id",
        "key_line",
        "key_prediction",
        "key_probability_high",
    ]


def test_the_figures_of_a_classification_are_the_probabilities(champion: Champion) -> None:
    found = champion.predict(raw(TABLE))
    np.testing.assert_allclose(predictions.figures(found).sum(axis=1), 1, rtol=1e-5)
    assert set(found["prediction"].to_pylist()) <= {"cheap", "fair", "dear"}
