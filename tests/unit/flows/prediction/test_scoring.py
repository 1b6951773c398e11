"""Batch scoring on a lake in memory: streamed, once, whole after a kill, and followed by an erasure."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart import canonical_json
from rempart.errors import InputMissing, PredictionError
from rempart.flows.erasure import erase as erase_flow
from rempart.flows.erasure import expire_predictions
from rempart.flows.prediction import chosen_rows, made_scoring, scorings, written_parts
from rempart.flows.prediction import score as flow
from rempart.flows.prediction.judged_rows import judge
from rempart.flows.training import labelled
from rempart.models.inputs import Input
from rempart.orchestration import run_notes
from rempart.settings.champions.scoring import Scoring
from rempart.settings.pipeline import Pipeline
from tests.erasable import NOW
from tests.unit.flows.erasure.booked import without_features
from tests.unit.flows.prediction.scored_stays import NAME, Scored, champion, made, stays

ALL: dict[str, Any] = {"since": "2026-01-01", "until": "2027-01-01"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Scored:
    without_features(monkeypatch)
    return made(monkeypatch)


def test_streamed_parts_have_what_one_call_predicts_and_the_same_is_not_written_twice(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = world.deliver("one", rows := stays(120))
    monkeypatch.setattr(made_scoring, "ROWS", 17)
    monkeypatch.setattr(written_parts, "ROWS", 50)
    result = world.score(**ALL)
    assert (result.rows, result.refused, result.new, result.snapshot) == (120, 0, True, snapshot)
    (scoring,) = world.all()
    assert scoring.id == result.scoring and len(scoring.parts) > 1 and scoring.rows == 120
    found = world.rows()
    assert found.column_names == [
        "stay_id", "prediction", "moment", "version", "sha256", "snapshot", "scored_at",
    ]  # fmt: skip
    assert found["stay_id"].to_pylist() == rows["stay_id"].to_pylist()
    wanted = champion().predict(rows)
    np.testing.assert_allclose(found["prediction"].to_numpy(), wanted["prediction"].to_numpy(), rtol=1e-6)
    days = pc.subtract(rows["arrival"].cast(pa.int32()), rows["lead"].cast(pa.int32())).to_pylist()
    assert [int(moment.timestamp()) for moment in found["moment"].to_pylist()] == [day * 86_400 for day in days]

    before = {info.key for info in world.home.list("lake", "predictions/")}
    again = world.score(**ALL)
    assert not again.new and again.scoring == result.scoring
    assert {info.key for info in world.home.list("lake", "predictions/")} == before
    (evidence,) = world.platform.ledger.find("scoring", NAME)
    assert evidence.body["rows"] == 120 and evidence.body["digest"] == scoring.digest
    assert "120 rows of snapshot" in run_notes.words("score", result.__dict__)


def test_another_champion_stands_beside_the_former_and_a_window_is_its_own_scoring(world: Scored) -> None:
    world.deliver("one", rows := stays(60))
    world.score(**ALL)
    world.version = "8"
    assert world.score(**ALL).new
    assert world.rows()["version"].to_pylist() == ["7"] * 60 + ["8"] * 60
    early = world.score(since="2026-01-01", until="2026-03-05")
    wanted = [day.isoformat() < "2026-03-05" for day in rows["arrival"].to_pylist()]
    assert early.new and early.rows == sum(wanted) > 0
    with pytest.raises(PredictionError, match="the window is empty"):
        world.score(since="2026-03-05", until="2026-03-05")
    with pytest.raises(PredictionError, match="each of its rows has its target, 'price'"):
        world.score()
    with pytest.raises(PredictionError, match="does not have it"):
        world.score(snapshot="0" * 32, **ALL)


@pytest.mark.parametrize("step", ["keep", "store", "_record", "publish"])
def test_a_run_that_is_killed_leaves_the_former_table_and_the_next_one_is_whole(
    world: Scored, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    world.deliver("one", stays(40))
    world.score(**ALL)
    former = world.rows()
    world.version = "8"
    with monkeypatch.context() as patch:

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(scorings if step == "store" else flow, step, killed)
        with pytest.raises(KeyboardInterrupt):
            world.score(**ALL)
    assert world.rows().equals(former)
    world.score(**ALL)
    found = world.rows()
    assert found["version"].to_pylist() == ["7"] * 40 + ["8"] * 40
    assert len(world.platform.ledger.find("scoring", NAME)) == 2


def without_values(rows: pa.Table, **columns: set[int]) -> pa.Table:
    for name, places in columns.items():
        cells = [None if i in places else cell for i, cell in enumerate(rows[name].to_pylist())]
        kind = rows.schema.field(name).type
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(cells, kind))
    return rows


def test_rows_that_the_model_cannot_predict_are_in_quarantine_with_their_reason(world: Scored) -> None:
    nullable = {name: column.model_dump(by_alias=True) for name, column in world.pipeline.columns.items()}
    nullable["lead"]["nullable"] = nullable["room"]["nullable"] = True
    nullable["room"]["values"] = [*nullable["room"]["values"], "cellar"]
    rows = without_values(stays(50), lead={3, 4})
    rooms = ["cellar" if i in (4, 9) else room for i, room in enumerate(rows["room"].to_pylist())]
    rows = rows.set_column(rows.column_names.index("room"), "room", pa.array(rooms))
    source = {**world.pipeline.model_dump(by_alias=True, exclude_none=True), "schema": nullable}
    world.pipeline = world.pipeline.model_copy(
        update={"schema_": type(world.pipeline).model_validate(source | MOVED).schema_}
    )
    world.deliver("one", rows)
    result = world.score(**ALL)
    assert (result.rows, result.refused) == (47, 3)
    (part,) = world.all()[0].quarantine
    refused = pq.read_table(io.BytesIO(world.home.read("lake", part.key)))
    unknown = "column 'room' holds a value that the model does not know"
    assert refused.to_pylist() == [
        {"stay_id": 3, "reason": "column 'lead' is empty"},
        {"stay_id": 4, "reason": f"column 'lead' is empty; {unknown}"},
        {"stay_id": 9, "reason": unknown},
    ]
    assert result.reasons == {entry["reason"]: 1 for entry in refused.to_pylist()}


MOVED: dict[str, Any] = {"moments": {"booking": {"column": "arrival"}, "arrival": {"column": "arrival"}}}
"""A moment that needs no column that may be empty here."""


def test_a_row_whose_moment_is_outside_the_calendar_is_refused_alone(world: Scored) -> None:
    """The pipeline that delivered it does not make this moment of it."""
    own, changes = world.pipeline, world.pipeline.model_dump(by_alias=True, exclude_none=True) | MOVED
    world.pipeline = own.model_copy(update={"moments": type(own).model_validate(changes).moments})
    rows = stays(5)
    lead = pa.array([1, 2, -9_000_000, 4, 5], pa.int64())
    world.deliver("one", rows.set_column(rows.column_names.index("lead"), "lead", lead))
    world.pipeline = own
    result = world.score(**ALL)
    assert (result.rows, result.refused) == (4, 1)
    assert result.reasons == {"moment 'booking': it lies before the year 1 or after the year 9999": 1}


def test_an_erasure_reaches_predictions_and_quarantine_at_every_site(world: Scored) -> None:
    world.deliver("one", stays(40))
    world.score(**ALL)
    haven = world.platform.sites["haven"]
    for info in list(world.home.list("lake")):
        haven.write("lake", info.key, world.home.read("lake", info.key))
    given = {"by": "data-protection-officer", "reason": "objection"}
    planned = erase_flow.erase(world.platform, world.pipeline, [(7,)], **given)
    assert any(place.startswith("predictions at site 'primary'") for place in planned.found)
    done = erase_flow.erase(world.platform, world.pipeline, [(7,)], **given, dry_run=False)
    assert not done.pending and done.left == 0
    assert world.rows()["stay_id"].to_pylist() == [i for i in range(40) if i != 7]
    for site in (world.home, haven):
        for info in site.versions("lake", "predictions/"):
            body = b"" if info.marker else site.read("lake", info.key, version_id=info.version_id)
            if "/parts/" in info.key and body:
                assert 7 not in pq.read_table(io.BytesIO(body))["stay_id"].to_pylist()
    assert not list(haven.list("lake", f"{world.root}_delta_log/"))
    assert not world.score(**ALL | {"snapshot": None}).refused
    assert 7 not in world.rows()["stay_id"].to_pylist()


def test_a_row_whose_erasure_is_registered_and_not_complete_is_not_predicted(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.deliver("one", stays(20))
    given = {"by": "data-protection-officer", "reason": "objection"}
    with monkeypatch.context() as patch:

        def killed(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(erase_flow, "apply", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_flow.erase(world.platform, world.pipeline, [(7,)], **given, dry_run=False)
    assert world.score(**ALL).rows == 19
    assert 7 not in world.rows()["stay_id"].to_pylist()


def test_of_a_later_snapshot_the_partitions_that_changed_are_predicted(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are those of another pipeline, whose schema has no target."""
    schema = {name: spec for name, spec in world.pipeline.schema_.items() if name not in ("price", "season")}
    fresh = Pipeline.model_validate(
        {
            **{name: world.pipeline.model_dump(by_alias=True)[name] for name in ("classification", "key", "moments")},
            "name": "fresh_stays",
            "partition_by": "arrival",
            "source": {"prefix": "fresh_stays/"},
            "schema": {name: spec.model_dump(by_alias=True) for name, spec in schema.items()},
        }
    )
    monkeypatch.setattr(flow, "named", lambda name: {fresh.name: fresh}[name])
    model = world.pipeline.model_copy(update={"scoring": Scoring.model_validate({"from": fresh.name})})
    with pytest.raises(InputMissing, match="score rows of 'fresh_stays': it has no snapshot yet"):
        flow.score(world.platform, model)

    def deliver(name: str, rows: pa.Table) -> None:
        world.pipeline = fresh
        world.deliver(name, rows.select(list(schema)))
        world.pipeline = model

    rows = stays(90)
    months = pc.month(rows["arrival"]).to_pylist()
    first = [month < 6 for month in months]
    deliver("one", rows.filter(pa.array(first)))
    assert world.score().rows == sum(first)
    deliver("two", rows.filter(pa.array([not is_first for is_first in first])))
    assert world.score().rows == len(first) - sum(first)
    assert not world.score().new
    assert sorted(world.rows(fresh.name)["stay_id"].to_pylist()) == rows["stay_id"].to_pylist()
    world.version = "8"
    assert world.score().rows == 90


def test_a_part_of_a_snapshot_counts_only_with_the_scorings_that_it_stands_on(
    world: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels leave no row out, so that a run without a window has all rows."""
    none = pa.table({"stay": pa.array([], pa.int64()), "price": pa.array([], pa.float64())})
    labels = lambda *_: SimpleNamespace(feed=SimpleNamespace(key=("stay",)), rows=none.to_reader(), snapshot="l")  # noqa: E731
    monkeypatch.setattr(labelled, "delivered", labels)
    rows = stays(40)
    early = pc.less(pc.month(rows["arrival"]), 6)
    world.deliver("one", rows.filter(early))
    world.score()
    world.deliver("two", rows.filter(pc.invert(early)))
    assert world.score().rows == 40 - (first := pc.sum(early).as_py()) > 0
    whole, part = world.all()
    assert (whole.based_on, part.based_on) == (None, whole.id)
    world.home.delete("lake", scorings.key_of(whole.asked))  # as an erasure in an input does
    world.home.delete("lake", scorings.key_of(part.asked))
    alone = replace(part, asked=replace(part.asked, snapshot=whole.asked.snapshot))
    scorings.store(world.home, "lake", alone)
    assert world.score().rows == 40
    for other in world.all():
        world.home.delete("lake", scorings.key_of(other.asked))
    scorings.store(world.home, "lake", alone)
    world.platform.ledger.append("scoring", NAME, {"expired": [whole.id]})
    assert world.score().rows == 40 - first  # retention deleted the others


def test_own_rows_without_a_label_are_predicted(world: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    world.deliver("one", stays(20))
    names = pa.table({"stay": pa.array([3, 5, 6], pa.int64()), "price": pa.array([1.0, None, 2.0])})

    def delivered(*_: Any) -> Any:
        return SimpleNamespace(feed=SimpleNamespace(key=("stay",)), rows=names.to_reader(), snapshot="labels-1")

    monkeypatch.setattr(labelled, "delivered", delivered)
    monkeypatch.setattr(made_scoring, "ROWS", 7)
    assert world.score().rows == 18
    assert world.rows()["stay_id"].to_pylist() == [i for i in range(20) if i not in (3, 6)]


def test_own_rows_that_wait_for_their_target_are_predicted_until_it_is_delivered(world: Scored) -> None:
    spec = world.pipeline.model_dump(by_alias=True, exclude_none=True)
    spec["moments"]["paid"] = {"column": "arrival", "plus": "3 days"}
    spec["schema"]["price"] |= {"known": "paid", "nullable": True}
    world.pipeline = type(world.pipeline).model_validate(spec | {"on_conflict": "newest"})
    rows = stays(20)
    world.deliver("one", without_values(rows, price={3, 5}))
    assert world.score().rows == 2
    assert world.rows()["stay_id"].to_pylist() == [3, 5]
    world.deliver("two", without_values(rows, price={5}))
    world.version = "8"
    result = world.score()
    assert (result.rows, result.new) == (1, True)
    newest = world.rows().filter(pc.equal(world.rows()["version"], "8"))
    assert newest["stay_id"].to_pylist() == [5]


def test_old_predictions_and_files_of_killed_runs_are_deleted(world: Scored) -> None:
    world.deliver("one", stays(30))
    world.score(**ALL)
    world.version = "8"
    world.minutes = 60 * 24 * 300
    world.score(**ALL)
    late = replace(world.platform, clock=lambda: NOW + timedelta(days=401))
    done = expire_predictions.expire(late, world.pipeline)
    assert done.scorings == 1 and done.versions > 0
    assert world.rows()["version"].to_pylist() == ["8"] * 30
    keys = {info.key for info in world.home.versions("lake", f"{world.root}parts/")}
    assert keys == {part.key for scoring in world.all() for part in scoring.parts}
    assert expire_predictions.expire(late, world.pipeline).versions == 0


def test_predictions_of_rows_that_the_pipeline_no_longer_names_are_deleted_too(world: Scored) -> None:
    world.deliver("one", stays(10))
    world.score(**ALL)
    renamed = world.pipeline.model_copy(update={"scoring": Scoring.model_validate({"from": "elsewhere"})})
    late = replace(world.platform, clock=lambda: NOW + timedelta(days=401))
    assert expire_predictions.expire(late, renamed).scorings == 1
    assert not list(world.home.versions("lake", f"{world.root}parts/"))


@given(
    cells=st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.sampled_from([None, "a", "b", "?"]))),
)
@settings(max_examples=60, deadline=None)
def test_each_row_is_either_predicted_or_refused_with_every_reason(cells: list[tuple[int | None, str | None]]) -> None:
    rows = pa.table(
        {
            "n": pa.array([n for n, _ in cells], pa.int64()),
            "kind": pa.array([kind for _, kind in cells], pa.string()),
            "place": pa.array(range(len(cells)), pa.int64()),
        }
    )
    inputs = [Input("n", "integer"), Input("kind", "category", True, ("a", "b"))]
    good, bad, reasons = judge(inputs, [], rows)
    wrong = {place for place, (n, kind) in enumerate(cells) if n is None or kind == "?"}
    assert bad["place"].to_pylist() == sorted(wrong)
    assert good["place"].to_pylist() == [place for place in range(len(cells)) if place not in wrong]
    told = dict(zip(bad["place"].to_pylist(), reasons.to_pylist(), strict=True))
    for place in wrong:
        n, kind = cells[place]
        assert ("'n' is empty" in told[place]) == (n is None) and ("'kind' holds" in told[place]) == (kind == "?")


@given(
    days=st.lists(st.dates(), min_size=1),
    since=st.one_of(st.none(), st.dates()),
    until=st.one_of(st.none(), st.dates()),
)
@settings(max_examples=60, deadline=None)
def test_the_partitions_of_a_window_have_all_of_its_rows(days: list[Any], since: Any, until: Any) -> None:
    window = chosen_rows.RowPeriod("day", since, until)
    rows = pa.table({"day": pa.array(days, pa.date32())})
    kept = window.of(rows)["day"].to_pylist()
    assert kept == [day for day in days if (since is None or day >= since) and (until is None or day < until)]
    for length in (7, 10):
        names = {day.isoformat()[:length] for day in days}
        assert {day.isoformat()[:length] for day in kept} <= set(window.partitions(names))


def test_the_files_of_a_stream_have_its_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_parts, "ROWS", 10)
    schema = pa.schema([("n", pa.int64())])
    with written_parts.PartWriter(tmp_path, "part", schema) as writer:
        for size in (0, 3, 8, 1, 0, 12):
            writer.write(pa.table({"n": range(writer.rows, writer.rows + size)}, schema))
    assert [part.rows for part in writer.parts] == [11, 13]
    read = [row for part in writer.parts for row in pq.read_table(part.file)["n"].to_pylist()]
    assert read == list(range(24))


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b"[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_none(body: bytes) -> None:
    with pytest.raises(ValueError):
        scorings.parse(body)


@pytest.mark.parametrize("reasons", [None, [1], "x", {"empty": "many"}])
def test_a_manifest_with_reasons_that_are_no_counts_is_none(reasons: Any) -> None:
    asked = scorings.ScoringQuestion("stays", "ab" * 32, "stays", "s1")
    scoring = scorings.Scoring(asked, "7", NOW, "internal", NOW.date(), {}, (), (), None, {"empty": 3})
    body = scorings.manifest(scoring)
    assert scorings.parse(body) == scoring
    with pytest.raises(ValueError):
        scorings.parse(canonical_json.encode({**canonical_json.read(body), "reasons": reasons}))
