"""The watch of the demo's champion: green on its summer, red when prices or bookings move; its record and its page."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv

from rempart.counts import counted
from rempart.errors import IntegrityError, ModelRefused, TrainingError
from rempart.features import in_memory
from rempart.flows.monitoring import champion_drift
from rempart.flows.monitoring.answered import Answered, Unseen, losses
from rempart.flows.monitoring.challenger import Challenger
from rempart.flows.monitoring.champion_drift import Reference
from rempart.flows.training.labelled import split
from rempart.ingestion.parsing.schema import arrow_schema, snapshot_columns
from rempart.ledger.memory import MemoryLedger
from rempart.models import metrics
from rempart.models.encoding import encode, features_of
from rempart.models.intervals.conformal import Width
from rempart.models.intervals.graph import with_bounds
from rempart.models.isolated_model import IsolatedModel
from rempart.models.loading import LoadedModel
from rempart.models.predictions import figures
from rempart.monitoring import verdict
from rempart.monitoring.freshness import NewestTimes
from rempart.monitoring.performance import Figure, Performance
from rempart.monitoring.sources import ObservedRows
from rempart.monitoring.verdict import ChampionVerdict, Window
from rempart.orchestration import run_notes
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import named, with_model
from rempart.training import datasets
from rempart.training.trainers import trainers
from tests.cockpit import NOW
from tests.memory_site import MemorySite
from tests.unit.training import stage

SHIPPED = with_model(named("hotel_bookings"))
PIPELINE = SHIPPED.model_copy(update={"monitoring": SHIPPED.monitoring.model_copy(update={"domain_classifier": "off"})})
PRICE, DAY = PIPELINE.prediction.target, PIPELINE.holdout.column
ROOM = "booking__reserved_room_type"
JULY = datetime.date(2017, 7, 1)
TRAINED = datetime.datetime(2017, 9, 2, tzinfo=datetime.UTC)
TODAY = TRAINED + datetime.timedelta(hours=20)
NEWEST = NewestTimes(TRAINED, TRAINED, TRAINED)


@pytest.fixture(scope="module")
def bookings() -> pa.Table:
    """The training set of the demo's bookings."""
    schema = arrow_schema(snapshot_columns(PIPELINE))
    rows = csv.read_csv(
        project_root() / "data/hotel_bookings.csv.gz",
        convert_options=csv.ConvertOptions(
            column_types=schema, include_columns=schema.names, null_values=[""], strings_can_be_null=True
        ),
    )
    priced = rows.filter(pc.and_(pc.greater_equal(rows[PRICE], 1), pc.greater_equal(rows["adults"], 1)))
    return in_memory.training_set(PIPELINE, priced)


@pytest.fixture(scope="module")
def reference(bookings: pa.Table, model: LoadedModel) -> Reference:
    rows = split(PIPELINE, bookings)
    train, holdout = rows.learn, rows.held_out
    truth = holdout[PRICE].to_numpy()
    recorded = metrics.score("regression", truth, figures(model.predict(holdout)))["mae"]
    assert recorded < PIPELINE.gate.limit
    return Reference(train, holdout, recorded, TRAINED)


SEEN, PARAMS = trainers.left_out(
    features_of(PIPELINE),
    {"max_iter": 150, "learning_rate": 0.15, "max_leaf_nodes": 15, "leave_out": "*_trend__*_mean_*"},
)


@pytest.fixture(scope="module")
def body(bookings: pa.Table) -> bytes:
    """A smaller champion than the demo's, trained on the same rows with the same features."""
    start = pa.scalar(PIPELINE.holdout.start)
    train = bookings.filter(pc.less(bookings[DAY], start))
    matrix, truth = encode(SEEN, train), train[PRICE].to_numpy()
    return trainers.train("gradient_boosting", matrix, truth, PARAMS, 7, "regression", matrix[:50], 0).body


@pytest.fixture(scope="module")
def model(body: bytes) -> LoadedModel:
    return LoadedModel(PIPELINE.name, "3", "regression", None, tuple(SEEN), (), "ab" * 32, IsolatedModel(body))


@pytest.fixture(scope="module")
def judged(bookings: pa.Table, reference: Reference, model: LoadedModel) -> Callable[..., ChampionVerdict]:
    def judge(rows: pa.Table = bookings) -> ChampionVerdict:
        return champion_drift.judge(PIPELINE, model, reference, ObservedRows(rows, "s1", NEWEST), "snapshot", TODAY)

    return judge


@pytest.mark.parametrize(("share", "outcome"), [(0.9, "green"), (0.6, "red")])
def test_intervals_that_cover_far_fewer_values_than_promised_are_red(
    bookings: pa.Table, reference: Reference, model: LoadedModel, body: bytes, share: float, outcome: str
) -> None:
    """`share`: of the hold-out that intervals cover which promise 90 %."""
    truth, seen = reference.holdout[PRICE].to_numpy(), encode(list(model.features), reference.holdout.slice(0, 20))
    errors = abs(truth - figures(model.predict(reference.holdout)))
    width = Width(coverage=0.9, rows=500, factor=float(np.quantile(errors, share)))
    wider = with_bounds(body, width, seen)
    promising = replace(model, _model=IsolatedModel(wider), coverage=0.9)
    found = champion_drift.judge(PIPELINE, promising, reference, ObservedRows(bookings, "s1", NEWEST), "s", TODAY)
    assert found.outcome == outcome and found.intervals is not None
    assert found.intervals.covered == pytest.approx(share, abs=0.03)
    told = f"intervals cover {found.intervals.covered:.1%} of"
    assert [reason.startswith(told) for reason in found.reasons] == [True] * (outcome == "red")
    assert found.body()["intervals"]["short"] == (outcome == "red")
    promising.close()


def changed(rows: pa.Table, column: str, change: Callable[[Any], Any], since: datetime.date = JULY) -> pa.Table:
    later = pc.greater_equal(rows[DAY], pa.scalar(since))
    values = pc.if_else(later, change(rows[column]), rows[column])
    return rows.set_column(rows.column_names.index(column), column, values)


def test_the_demos_summer_is_green_without_a_change(judged: Callable[..., ChampionVerdict]) -> None:
    found = judged()
    assert (found.outcome, found.reasons) == ("green", ())
    assert (found.window.last, found.window.rows > 3_000) == (datetime.date(2017, 8, 31), True)
    names = [column.column for column in found.columns]
    assert "prediction" in names and not [name for name in names if "_mean_" in name]  # the champion does not read them
    assert found.performance is not None and {f.segment[:20] for f in found.performance.segments} >= {
        "reserved_room_type=a",
        "arrival_date.month=7",
    }
    room = next(figure for figure in found.performance.segments if figure.segment == "reserved_room_type=a")
    assert room.value == pytest.approx(room.recorded, rel=0.1)


def test_prices_that_rise_by_a_third_are_red(judged: Callable[..., ChampionVerdict], bookings: pa.Table) -> None:
    found = judged(changed(bookings, PRICE, lambda price: pc.multiply(price, 1.3)))
    assert found.outcome == "red" and found.reasons[0].startswith("mae is ")
    assert found.performance is not None and found.performance.overall.worse
    note = run_notes.note({"watch": found.body()}, {})
    assert note and note.startswith("Rempart: Version 3 on 3,") and ": red: mae is" in note


def test_what_stands_beside_the_verdict(bookings: pa.Table, reference: Reference, model: LoadedModel) -> None:
    def judge(pipeline: ModelPipeline, days: int, other: Challenger | None) -> ChampionVerdict:
        now, rows = TODAY + datetime.timedelta(days=days), ObservedRows(bookings, "s1", NEWEST)
        return champion_drift.judge(pipeline, model, reference, rows, "snapshot", now, other)

    found = judge(
        SHIPPED, 0, Challenger("4", "refused", model, Unseen(reference.holdout[DAY][0].as_py(), learned=False))
    )
    assert [age.state for age in found.ages] == ["fresh"] * 3
    assert found.challenger is not None and found.challenger.better == "neither" and found.challenger.rows > 3_000
    assert found.domain is not None and 0.9 < found.domain.area <= (found.domain.allowed or 0) < 1
    assert not [column for column in found.domain.columns if "arrival_date" in column.column]  # the calendar
    late = judge(PIPELINE, 9, None)
    assert (late.outcome, late.domain, late.challenger) == ("unknown", None, None)
    assert late.reasons[0].startswith("late: the newest row is 9.8 days old, ") and len(late.reasons) == 3


def test_bookings_that_are_made_much_later_are_red(judged: Callable[..., ChampionVerdict], bookings: pa.Table) -> None:
    name = "booking__lead_time"
    found = judged(changed(bookings, name, lambda days: pc.divide(days, 20)))
    assert found.outcome == "red" and found.columns[0].column == name
    assert any(reason.startswith(f"{name}: ") for reason in found.reasons)


def test_few_rows_since_the_training_are_unknown(judged: Callable[..., ChampionVerdict], bookings: pa.Table) -> None:
    few = bookings.filter(pc.less(bookings[DAY], pa.scalar(datetime.date(2017, 6, 3))))
    found = judged(few)
    assert found.outcome == "unknown" and found.reasons[0].startswith("too few rows: ")
    assert judged(bookings.filter(pc.less(bookings[DAY], pa.scalar(PIPELINE.holdout.start)))).window.rows == 0


@pytest.mark.parametrize(
    ("rows", "outcome", "first"),
    [
        (5, "green", "5 rows of "),
        (400, "red", f"{ROOM}: 1"),
        (100_000, "red", f"{ROOM}: 100"),
    ],
)
def test_rows_with_a_category_that_the_champion_never_saw_are_watched_counted_and_not_predicted(
    judged: Callable[..., ChampionVerdict], bookings: pa.Table, rows: int, outcome: str, first: str
) -> None:
    """`rows`: the newest ones that have it."""
    watched = judged().window.rows
    rows = min(rows, watched)
    newest = pc.rank(bookings[DAY], "descending", tiebreaker="first")
    new = pc.if_else(pc.less_equal(newest, rows), "z", bookings[ROOM].cast(pa.string()))
    found = judged(bookings.set_column(bookings.column_names.index(ROOM), ROOM, new))
    assert (found.outcome, found.window.rows) == (outcome, watched)
    assert found.reasons[0].startswith(first)
    assert found.reasons[-1] == (
        f"{counted(rows, 'row')} of {watched:,} cannot be predicted: the champion does not know a value of "
        f"'{ROOM}' ({rows:,}); train again"
    )
    assert (found.body()["window"]["unpredicted"], found.body()["window"]["unknown"]) == (rows, {ROOM: rows})
    assert found.performance is not None and found.performance.overall.rows == watched - rows
    told = {column.column: column for column in found.columns}
    assert told[ROOM].rows == watched and told["prediction"].rows == watched - rows


def test_a_class_that_the_champion_never_saw_counts_as_one_that_it_held_for_impossible() -> None:
    pipeline = stage.pipeline(task="classification")
    rows = pa.table({"season": ["cheap", "dear"], "agent": ["a", "a"]})
    told = {"prediction": ["cheap", "fair"], "probability_fair": [0.1, 0.6], "probability_cheap": [0.9, 0.4]}
    found = losses(pipeline, Answered(rows, pa.table(told)))
    np.testing.assert_allclose(found.losses, [-np.log(0.9), -np.log(1e-15)])


def test_more_rows_without_a_prediction_than_the_file_tolerates_are_unknown_and_not_green() -> None:
    window = Window("snapshot", "s1", JULY, JULY, 400, 5, {"own__kind": 3, "own__room": 2})
    enough = Performance("mae", Figure("", 395, 1.0, 1.0, 1.0, worse=False))
    told = "5 rows of 400 cannot be predicted: the champion does not know a value of 'own__kind' (3), 'own__room' (2)"
    for tolerated, outcome in ((0.02, "green"), (0.01, "unknown")):
        found = verdict.conclude("3", window, (), enough, 200, tolerated=tolerated)
        assert (found.outcome, found.reasons) == (outcome, (f"{told}; train again",))


def test_a_hold_out_whose_rows_were_all_erased_is_told() -> None:
    rows = pa.table({DAY: [JULY]})
    with pytest.raises(TrainingError, match="its hold-out has no row"):
        champion_drift.since_training(PIPELINE, rows.slice(1), rows, rows)


def test_only_known_targets_are_measured(judged: Callable[..., ChampionVerdict], bookings: pa.Table) -> None:
    late = pc.if_else(pc.less(bookings[DAY], pa.scalar(JULY)), pa.scalar(TODAY), pa.scalar(TODAY.replace(year=2030)))
    found = judged(bookings.append_column("_known_at", late))
    assert found.performance is not None and 0 < found.performance.overall.rows < found.window.rows / 2
    unlabelled = changed(bookings, PRICE, lambda price: pa.nulls(len(price), price.type), PIPELINE.holdout.start)
    assert judged(unlabelled).outcome == "unknown"


def test_a_segment_of_free_text_has_no_name(bookings: pa.Table, reference: Reference, model: LoadedModel) -> None:
    schema = {name: column.model_copy(update={"values": ["b", "c"]}) for name, column in PIPELINE.columns.items()}
    hiding = PIPELINE.model_copy(update={"schema_": schema})
    found = champion_drift.judge(hiding, model, reference, ObservedRows(bookings, "s1", NEWEST), "snapshot", TODAY)
    assert found.performance is not None
    names = {figure.segment for figure in found.performance.segments}
    assert "reserved_room_type=(not shown)" in names and "reserved_room_type=a" not in names


def test_a_watch_records_its_verdict_and_what_kept_it_from_one(
    judged: Callable[..., ChampionVerdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform: Any = SimpleNamespace(ledger=MemoryLedger(clock=lambda: NOW), clock=lambda: NOW)
    assert champion_drift.watch(platform, PIPELINE) is None
    assert not platform.ledger.find("monitoring")
    platform.ledger.append("promotion", PIPELINE.name, {"version": "3", "previous": None, "reasons": []})
    monkeypatch.setattr(champion_drift, "_judged", lambda *_: judged())
    found = champion_drift.watch(platform, PIPELINE)
    assert found is not None
    (record,) = platform.ledger.find("monitoring", PIPELINE.name)
    assert (record.body["outcome"], record.body["version"], record.body["moved"]) == ("green", "3", 0)
    assert record.body["performance"]["recorded"] < 25 and len(record.body["columns"]) == 10

    def refused(*_: Any) -> ChampionVerdict:
        raise ModelRefused("Model x version 3: a file differs", "Roll back.")

    monkeypatch.setattr(champion_drift, "_judged", refused)
    with pytest.raises(ModelRefused):
        champion_drift.watch(platform, PIPELINE)
    newest = platform.ledger.find("monitoring", PIPELINE.name)[0].body
    assert (newest["outcome"], newest["reasons"]) == ("unknown", ["Model x version 3: a file differs"])


def test_the_reference_is_the_training_set_of_the_evidence(
    bookings: pa.Table, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = split(PIPELINE, bookings)
    site, ledger = MemorySite("primary"), MemoryLedger(clock=lambda: NOW)
    site.ensure_bucket("lake", versioned=True)
    places = []
    for name, table in (("x", rows.learn), ("y", rows.held_out)):
        body = datasets.encoded(table)
        site.write("lake", f"training/{name}.parquet", body)
        sha256 = hashlib.sha256(body).hexdigest()
        places.append({"bucket": "lake", "key": f"training/{name}.parquet", "sha256": sha256})
    dataset = {**places[0], "held_out": places[1]}
    ledger.append("candidate", PIPELINE.name, {"version": "3", "dataset": dataset, "metrics": {"mae": 23.4}})
    ledger.append("promotion", PIPELINE.name, {"version": "3", "previous": None, "reasons": []})
    monkeypatch.setattr(champion_drift, "champion_of", lambda *_: SimpleNamespace(model=model))
    monkeypatch.setattr(champion_drift, "training_set", lambda *_: SimpleNamespace(table=bookings, snapshot="s1"))
    monkeypatch.setattr(champion_drift, "feature_databases", lambda _: None)
    monkeypatch.setattr(champion_drift.newest, "read", lambda *_: (NOW, NOW, NOW))
    platform: Any = SimpleNamespace(ledger=ledger, clock=lambda: NOW, active_site=lambda _: site)
    found = champion_drift.watch(platform, PIPELINE)
    assert found is not None and found.outcome == "green" and found.performance is not None
    assert (found.performance.overall.recorded, found.window.snapshot, found.version) == (23.4, "s1", "3")
    site.write("lake", "training/y.parquet", body[:-1] + b"x")
    with pytest.raises(IntegrityError):
        champion_drift.watch(platform, PIPELINE)
    assert ledger.find("monitoring", PIPELINE.name)[0].body["outcome"] == "unknown"
