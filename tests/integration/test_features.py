"""The feature store on real databases: no leak from the future, nothing lost, nothing written twice."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from rempart.errors import DatabaseUnavailable, FeatureError
from rempart.features import in_memory, offline, online, repository, training_set
from rempart.features.databases import FeatureDatabases
from rempart.features.offline_load import settling
from rempart.features.plan import view_tables
from rempart.flows.training.materialize import MaterializeResult, materialize_rows
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline, TrailingView
from tests.online_rows import online_rows
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores

Row = dict[str, Any]
NOW = datetime(2030, 1, 1, tzinfo=UTC)
FIRST_DAY = date(2020, 2, 20)  # windows cross 29 February
KINDS = {
    "stay": pa.int64(),
    "price": pa.float64(),
    "nights": pa.int64(),
    "lead": pa.int64(),
    "house": pa.string(),
    "room": pa.string(),
    "returning": pa.bool_(),
    "arrival": pa.date32(),
}
_names = itertools.count()


@pytest.fixture
def pipeline() -> ModelPipeline:
    """A pipeline of its own for each test, since all share the scratch databases."""
    return stays(f"stays{next(_names)}")


@pytest.fixture
def refresh(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> Callable[..., MaterializeResult]:
    """Load rows as a snapshot and materialize; each call is an hour after the one before."""
    times = (NOW + timedelta(hours=number) for number in itertools.count())

    def run(rows: Iterable[Row], snapshot: str = "s1", of: ModelPipeline = pipeline) -> MaterializeResult:
        return materialize_rows(feature_databases, of, arrow(rows).to_reader(), snapshot, next(times))

    return run


def arrow(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=pa.schema(KINDS.items()))


def row(stay: int, booked: int, **values: Any) -> Row:
    """A stay booked `booked` days after FIRST_DAY."""
    lead = values.pop("lead", 7)
    plain = {"price": 100.0, "nights": 2, "house": "blue", "room": "a", "returning": False}
    arrival = FIRST_DAY + timedelta(days=booked + lead)
    return {"stay": stay, "lead": lead, "arrival": arrival} | plain | values


def random_rows(seed: int, count: int) -> list[Row]:
    """Few groups and days, so that windows are full of ties; names that would collide if they were just joined."""
    dice = random.Random(seed)  # noqa: S311 - test data
    return [
        row(
            stay,
            dice.randrange(25),
            lead=dice.randrange(30),
            price=dice.choice([None, round(dice.uniform(1, 300), 2)]),
            nights=dice.choice([None, 1, 2, 7]),
            house=dice.choice([None, "a", "ab", "a|", "a\\|b", ""]),
            room=dice.choice(["b", "bb", "|b", "c"]),
            returning=dice.choice([None, True, False]),
        )
        for stay in range(count)
    ]


def booked(booking: Row) -> date:
    day: date = booking["arrival"] - timedelta(days=booking["lead"])
    return day


def expected(pipeline: ModelPipeline, name: str, rows: list[Row], entity: Row, at: date) -> Row | None:
    """Brute force: the view's features of an entity on day `at`, None if the group is unknown or too old by then."""
    view = pipeline.features[name]
    assert isinstance(view, TrailingView)
    if any(entity[column] is None for column in view.by):
        return None
    group = [r for r in rows if all(r[c] == entity[c] for c in view.by) and booked(r) < at]
    last = max(map(booked, group), default=None)
    if last is None or last + timedelta(days=1) < at - timedelta(days=max(view.days or ()) + 1):
        return None
    result: Row = {}
    for days in view.days or ():
        window = [r for r in group if last - timedelta(days=days) < booked(r) <= last]
        for column in view.mean:
            values = [r[column] for r in window if r[column] is not None]
            result[f"{column}_mean_{days}d"] = sum(values) / len(values) if values else None
        result[f"rows_{days}d"] = len(window)
    return result


def query(databases: FeatureDatabases, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(databases.offline.postgresql_url()) as opened:
        return opened.execute(text).fetchall()


def watermarks(databases: FeatureDatabases, pipeline: ModelPipeline) -> list[Any]:
    return [w for (w,) in query(databases, f"SELECT watermark FROM feature_views WHERE pipeline = '{pipeline.name}'")]


@pytest.mark.parametrize("seed", [1, 2])
def test_no_leak_brute_force(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult], seed: int
) -> None:
    rows = random_rows(seed, 250)
    refresh(rows)
    table = training_set.point_in_time(feature_databases, pipeline)[0]
    assert table.column_names == ["stay", "event_timestamp", "price", "arrival", "room", *pipeline.model_inputs()]
    assert table["stay"].to_pylist() == [r["stay"] for r in rows]  # rows out = rows in, sorted by key
    for made, tried in zip(table.to_pylist(), in_memory.training_set(pipeline, arrow(rows)).to_pylist(), strict=True):
        floats = {name for name, value in made.items() if isinstance(value, float)}
        assert made.keys() == tried.keys()
        assert {n: tried[n] for n in made.keys() - floats} == {n: made[n] for n in made.keys() - floats}
        assert [tried[n] for n in floats] == pytest.approx([made[n] for n in floats], rel=1e-9), "as the feature store"
    for made, given in zip(table.to_pylist(), rows, strict=True):
        assert made["event_timestamp"] == datetime.combine(booked(given), datetime.min.time(), UTC)
        assert made["arrival"] == given["arrival"]
        assert made["price"] == given["price"]
        assert made["stay__nights"] == given["nights"]
        assert made["stay__returning"] == given["returning"]
        assert made["stay__arrival_month"] == given["arrival"].month
        assert made["stay__arrival_day_of_week"] == given["arrival"].isoweekday()
        for view in ("trend", "rooms"):
            wanted = expected(pipeline, view, rows, given, booked(given)) or {}
            for feature in pipeline.features[view].features():
                value, found = wanted.get(feature), made[f"{view}__{feature}"]
                assert found == (value if value is None else pytest.approx(value, rel=1e-12)), (feature, given["stay"])


def test_the_future_does_not_change_the_past(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    rows = random_rows(3, 200)
    refresh(rows)
    before = training_set.point_in_time(feature_databases, pipeline)[0].to_pylist()
    day = FIRST_DAY + timedelta(days=12)
    changed = [r if booked(r) < day else r | {"price": 1_000_000.0, "nights": 99} for r in rows]
    refresh([*changed, *(row(900 + i, 12 + i, house="a", room="b") for i in range(5))], "s2")
    after = {r["stay"]: r for r in training_set.point_in_time(feature_databases, pipeline)[0].to_pylist()}
    past = [r for r in before if r["event_timestamp"].date() <= day]
    assert len(past) > 50
    for old in past:
        new = after[old["stay"]]
        trailing = [name for name in old if name.startswith(("trend__", "rooms__"))]
        assert [old[name] for name in trailing] == [new[name] for name in trailing]
    assert any(after[r["stay"]] != r for r in before)  # the change did arrive, later on


def test_late_delivery_updates_the_right_rows(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    rows = [row(1, 0, price=100.0), row(2, 20, price=50.0), row(3, 21, price=10.0, house="red")]
    first = refresh(rows)
    assert (first.from_time, first.rows_online, first.changed) == ("2020-02-20T00:00:00+00:00", 3 + 2 + 2, True)
    keys = [{"house": "blue"}, {"house": "red"}, {"house": "nowhere"}]
    blue, red, unknown = online_rows(feature_databases, pipeline, "trend", keys)
    assert (blue["price_mean_10d"], red["price_mean_10d"], unknown["price_mean_10d"]) == (50.0, 10.0, None)

    late = refresh([*rows, row(4, 15, price=70.0)], "s2")  # older than what is online, within blue's window
    assert (late.rows_online, late.from_time, late.to_time) == (
        8,
        "2020-03-06T00:00:00+00:00",
        "2020-03-12T00:00:00+00:00",
    )
    blue, red, _ = online_rows(feature_databases, pipeline, "trend", keys)
    assert (blue["price_mean_10d"], blue["rows_10d"], blue["price_mean_3d"]) == (60.0, 2, 50.0)
    assert red["price_mean_10d"] == 10.0
    touched = query(feature_databases, f"SELECT count(*) FROM \"{pipeline.name}__trend\" WHERE loaded_at > '{NOW}'")
    assert touched == [(2,)]  # the new day and the one after it in the window; red and the first day are left alone

    very_late = refresh([*rows, row(4, 15, price=70.0), row(5, -300, price=1.0, house="red")], "s3")
    assert very_late.changed
    _, red, _ = online_rows(feature_databases, pipeline, "trend", keys)
    assert red["price_mean_10d"] == 10.0  # an old row never sets the online store back


def test_same_snapshot_twice_changes_nothing(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    rows = random_rows(4, 100)
    refresh(rows)
    stamps = f'SELECT stay, loaded_at FROM "{pipeline.name}__stay" ORDER BY 1'
    before = query(feature_databases, stamps)
    again = refresh(reversed(rows))
    assert (again.changed, again.from_time, again.to_time) == (False, None, None)
    assert query(feature_databases, stamps) == before
    assert [offline.find_snapshot(feature_databases, name) for name in (pipeline.name, "none")] == ["s1", None]


def test_a_load_whose_tables_cannot_be_settled_is_complete_and_its_note_warns(
    refresh: Callable[..., MaterializeResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def session(connection: Connection, doing: str, **options: bool) -> Any:
        raise DatabaseUnavailable(f"{doing}: no answer", "Start it.")

    with monkeypatch.context() as patch:
        patch.setattr(settling, "session", session)
        first = refresh([row(1, 0)])
    assert (
        first.changed and first.rows_offline and "The load is complete, but VACUUM of its tables failed" in first.note
    )
    again = refresh([row(1, 0)])
    assert not again.changed and "VACUUM" not in again.note


def test_apply_leaves_the_watermark_alone(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    refresh([row(1, 0)])
    before = watermarks(feature_databases, pipeline)
    assert before.count(NOW) == 3
    for _ in range(2):
        with repository.feature_store(feature_databases, pipeline) as store:
            repository.apply(store, pipeline)
    assert watermarks(feature_databases, pipeline) == before
    assert online.materialize(feature_databases, pipeline, NOW).written == 0


def test_a_clock_set_back_hides_nothing(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    materialize_rows(feature_databases, pipeline, arrow([row(1, 0)]).to_reader(), "s1", NOW)
    earlier = NOW - timedelta(days=1)
    result = materialize_rows(feature_databases, pipeline, arrow([row(1, 0), row(2, 1)]).to_reader(), "s2", earlier)
    assert result.rows_online == 2 + 1 + 1


def test_nothing_written_is_an_error_and_moves_no_watermark(
    feature_databases: FeatureDatabases,
    pipeline: ModelPipeline,
    refresh: Callable[..., MaterializeResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("rempart.features.online_store.writing.pipe", lambda *_, **options: 0)
        with pytest.raises(FeatureError, match="the online store has 0 entities, the offline store 2"):
            refresh([row(1, 0), row(2, 1)])
        assert not any(watermarks(feature_databases, pipeline))
    assert refresh([row(1, 0), row(2, 1)]).rows_online == 2 + 1 + 1


def test_lost_online_entities_come_back(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    rows = random_rows(5, 50)
    online_before = refresh(rows).rows_online
    with psycopg.connect(feature_databases.online.postgresql_url()) as opened:
        opened.execute(f'DELETE FROM "{view_tables(pipeline)[0].online.name}" WHERE stay % 2 = 0')
    again = refresh(rows)
    assert (again.rows_online, again.changed) == (online_before, True)


def test_vanished_rows_leave_both_stores(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    refresh([row(1, 0, price=100.0), row(2, 5, price=50.0), row(3, 6, house="red")])
    result = refresh([row(1, 0, price=100.0)], "s2")
    assert (result.rows_online, result.rows_offline) == (3, 3)
    blue, red = online_rows(feature_databases, pipeline, "trend", [{"house": "blue"}, {"house": "red"}])
    assert (blue["price_mean_10d"], red["price_mean_10d"]) == (100.0, None)
    assert online_rows(feature_databases, pipeline, "stay", [{"stay": 2}])[0]["room"] is None


def test_without_any_row_both_stores_are_empty_and_fill_again(refresh: Callable[..., MaterializeResult]) -> None:
    full, empty = refresh(random_rows(3, 30)), refresh([], "withdrawn")
    assert full.rows_online and (empty.rows_offline, empty.rows_online) == (0, 0)
    assert refresh(random_rows(3, 30), "s2").rows_online == full.rows_online


def test_a_changed_pipeline_rebuilds_its_views(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    rows = random_rows(6, 60)
    refresh(rows)
    features = pipeline.model_dump()["features"]
    features["trend"]["days"] = [4]
    del features["rooms"]
    changed = stays(pipeline.name, features=features)
    assert refresh(rows, of=changed).views == 2
    (house,) = online_rows(feature_databases, changed, "trend", [{"house": "ab"}])
    latest = max(map(booked, rows)) + timedelta(days=1)
    assert house["rows_4d"] == (expected(changed, "trend", rows, {"house": "ab"}, latest) or {})["rows_4d"]
    tables = query(feature_databases, "SELECT tablename FROM pg_tables WHERE tablename LIKE '%\\_\\_rooms'")
    assert (f"{pipeline.name}__rooms",) not in tables
    assert training_set.point_in_time(feature_databases, changed)[0].num_rows == 60


def test_another_pipelines_tables_are_out_of_reach(feature_databases: FeatureDatabases) -> None:
    row_view = {"kind": "row", "at": "booking", "columns": ["room"]}
    hotel, other = stays("inn", features={"room__price": row_view}), stays("inn__room", features={"price": row_view})
    materialize_rows(feature_databases, hotel, arrow([row(1, 0)]).to_reader(), "s1", NOW)
    with pytest.raises(FeatureError, match="another pipeline's tables have these names"):
        materialize_rows(feature_databases, other, arrow([row(2, 0)]).to_reader(), "s1", NOW)


def test_odd_values_survive(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    odd = ["", "NaN", "null", '"', "a,b", "line\nbreak", "\\.", "\\N", "é\u0301🏨", "'; DROP TABLE x; --"]
    rows = [row(i, i, room=text, house=text, price=0.1 + 0.2 * i) for i, text in enumerate(odd)]
    refresh(rows)
    table = training_set.point_in_time(feature_databases, pipeline)[0]
    assert table["room"].to_pylist() == odd
    assert table["price"].to_pylist() == [r["price"] for r in rows]
    found = online_rows(feature_databases, pipeline, "rooms", [{"house": text, "room": text} for text in odd])
    assert [stored["rows_5d"] for stored in found] == [1] * len(odd)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(1, 0, room="canary"), row(1, 1, room="canary")], "1 row with a repeated key"),
        ([row(1, 0, room="canary") | {"lead": None}], "1 row without a moment"),
        ([row(1, 0, room="canary") | {"stay": None}], "1 row without a key"),
        ([row(1, 0, room="canary\0")], "PostgreSQL answered"),
        ([row(1, 0, room="canary") | {"lead": 10**18}], "PostgreSQL answered"),
    ],
)
def test_bad_rows_are_refused_without_quoting_them(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, rows: list[Row], says: str
) -> None:
    with pytest.raises(FeatureError, match=says) as caught:
        materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), "s1", NOW)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "canary" not in str(caught.value)
    assert str(10**18) not in str(caught.value)
    assert offline.find_snapshot(feature_databases, pipeline.name) is None, "the transaction left nothing behind"


def test_multiplied_rows_are_refused(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, refresh: Callable[..., MaterializeResult]
) -> None:
    refresh([row(1, 0), row(2, 5)])
    table = f'"{pipeline.name}__trend"'
    with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
        opened.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{pipeline.name}__trend_pkey"')
        opened.execute(f"INSERT INTO {table} SELECT * FROM {table}")
    with pytest.raises(FeatureError, match="returned 3 rows"):
        training_set.point_in_time(feature_databases, pipeline)[0]


def test_no_snapshot_no_features(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    with pytest.raises(FeatureError, match="contains no snapshot"):
        training_set.point_in_time(feature_databases, pipeline)
    with pytest.raises(FeatureError, match="has no view 'x'"):
        online_rows(feature_databases, pipeline, "x", [{"stay": 1}])


def test_no_database_is_transient_and_keeps_the_password(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    nowhere = Connection("pg_x", "postgres", "127.0.0.1", 1, "someone", "hunter2-secret", "nothing")
    broken = FeatureDatabases(nowhere, feature_databases.offline, feature_databases.online)
    offline.load(feature_databases, pipeline, arrow([row(1, 0)]).to_reader(), "s1", NOW)
    with pytest.raises(DatabaseUnavailable) as caught:
        online.materialize(broken, pipeline, NOW)
    assert "hunter2-secret" not in str(caught.value) + repr(broken)
    with pytest.raises(DatabaseUnavailable):
        offline.find_snapshot(FeatureDatabases(nowhere, nowhere, nowhere), pipeline.name)
