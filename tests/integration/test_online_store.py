"""The online store on real databases: equal to the offline store after every accident, and never seen half written."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest

from rempart.errors import FeatureError
from rempart.features import online, removal, repository
from rempart.features.databases import FeatureDatabases
from rempart.features.online import reader
from rempart.features.online_store import comparison, generations, writing
from rempart.features.online_store.comparison import Mark
from rempart.features.plan import entity_key, view_tables
from rempart.features.prediction import lookup
from rempart.features.prediction.plan import plan
from rempart.features.prediction.rows import features
from rempart.flows.serving.stored_features import StoredFeatures
from rempart.flows.training.materialize import MaterializeResult, materialize_rows
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import NOW, Row, arrow, booked, random_rows, row
from tests.online_rows import online_rows
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores

_names, _hours = count(), count()
STAYS = [{"stay": stay} for stay in range(4)]


@pytest.fixture
def pipeline() -> ModelPipeline:
    return stays(f"online{next(_names)}")


def refresh(databases: FeatureDatabases, pipeline: ModelPipeline, rows: list[Row], **options: Any) -> MaterializeResult:
    at = NOW + timedelta(hours=next(_hours))
    return materialize_rows(databases, pipeline, arrow(rows).to_reader(), f"s{at:%d%H}", at, **options)


def with_column(pipeline: ModelPipeline, columns: list[str]) -> ModelPipeline:
    features = pipeline.model_dump()["features"]
    features["stay"]["columns"] = columns
    return stays(pipeline.name, features=features)


def online_tables(databases: FeatureDatabases, pipeline: ModelPipeline) -> set[str]:
    """The pipeline's tables that are there, as PostgreSQL lists them."""
    with psycopg.connect(databases.online.postgresql_url()) as opened:
        found = opened.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE %s", (f"{pipeline.name}\\_%",))
        return {table for (table,) in found}


def assert_equal(databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    """Online equals offline at the time of the last load, and each view's mark tells what is there."""
    with (
        psycopg.connect(databases.offline.postgresql_url()) as offline,
        psycopg.connect(databases.online.postgresql_url()) as opened,
    ):
        loaded = offline.execute("SELECT loaded_at FROM feature_loads WHERE pipeline = %s", (pipeline.name,)).fetchone()
        assert loaded
        for view in view_tables(pipeline):
            wanted, _ = writing.digest(offline, view.online, writing.newest(view, loaded[0]))
            found, _ = writing.digest(opened, view.online, writing.stored(view.online))
            assert found == wanted
            assert generations.entry(opened, view.online).mark == Mark(loaded[0], found)


def online_sql(databases: FeatureDatabases, *statements: str) -> None:
    """Another program writes to the online database."""
    with psycopg.connect(databases.online.postgresql_url()) as opened:
        for statement in statements:
            opened.execute(statement)


def names(pipeline: ModelPipeline) -> dict[str, str]:
    return {table.view: table.online.name for table in view_tables(pipeline)}


def looked_up(
    databases: FeatureDatabases, pipeline: ModelPipeline, view: str, asked: list[Row], at: datetime
) -> list[Row]:
    """What a prediction finds of a view for rows with these keys."""
    wanted = [name for name in pipeline.model_inputs() if name.startswith(f"{view}__")]
    planned = plan(pipeline, wanted)
    table = arrow([row(i, 0) | key for i, key in enumerate(asked)]).select(planned.columns)
    found = features(planned, table, at, lambda stored, keys: lookup.online_rows(databases, pipeline, stored, keys, at))
    single = StoredFeatures(lambda: databases.online, pipeline)
    try:
        for stored in planned.stored:
            entities = [entity_key(stored.table, pipeline, key) for key in asked]
            unknown = dict.fromkeys(wanted)
            told = [unknown if each is None else each for each in single.of(stored, entities, at)]
            assert told == found.select(wanted).to_pylist(), "the scorer reads what a table reads"
    finally:
        single.close()
    made = found.select(wanted).rename_columns([name.partition("__")[2] for name in wanted]).to_pylist()
    return [key | values for key, values in zip(asked, made, strict=True)]


def assert_shown_while_a_training_set_shows_it(
    databases: FeatureDatabases, pipeline: ModelPipeline, rows: list[Row], stored: list[Row]
) -> None:
    """From the day after its newest row on, for the longest window of `days` and a day, by the begin of the day."""
    (days,) = (table.ttl_days for table in view_tables(pipeline) if table.view == "trend")
    assert days
    for wanted in stored:
        newest = max((booked(given) for given in rows if given["house"] == wanted["house"]), default=booked(rows[0]))
        key, noon = {"house": wanted["house"]}, datetime(newest.year, newest.month, newest.day, 12, tzinfo=UTC)
        for after, shown in ((0, False), (1, True), (days + 1, True), (days + 2, False)):
            (found,) = looked_up(databases, pipeline, "trend", [key], noon + timedelta(days=after))
            assert found == (wanted if shown else key | dict.fromkeys(wanted.keys() - key.keys()))


def test_feast_reads_what_the_direct_path_reads(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    rows = [*random_rows(11, 40), row(77, 3, room="é🏨 ' ; --", nights=None, returning=None)]
    refresh(feature_databases, pipeline, rows)
    keys = {
        "stay": [{"stay": given["stay"]} for given in rows] + [{"stay": 10_000}],
        "trend": [{"house": house} for house in ("a", "a|", "a\\|b", "", "nowhere")],
    }
    with repository.feature_store(feature_databases, pipeline) as store:
        for view, asked in keys.items():
            fields = [field.name for table in view_tables(pipeline) if table.view == view for field in table.fields]
            told = store.get_online_features([f"{view}:{field}" for field in fields], asked).to_dict()
            direct = online_rows(feature_databases, pipeline, view, asked)
            if view == "trend":
                assert_shown_while_a_training_set_shows_it(feature_databases, pipeline, rows, direct)
            assert [{name: told[name][i] for name in told} for i in range(len(asked))] == direct
            assert direct[-1] == asked[-1] | dict.fromkeys(fields)
            assert any(None not in answer.values() for answer in direct)


def test_what_feast_writes_is_read_and_the_next_materialization_puts_it_right(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    import pandas as pd

    rows = [row(stay, stay, nights=2) for stay in range(4)]
    refresh(feature_databases, pipeline, rows)
    before = online_rows(feature_databases, pipeline, "stay", STAYS)
    written = {"stay": [1, 900], "nights": [99, 98], "returning": [True, False], "room": ["z", None]}
    frame = pd.DataFrame(
        written | {"arrival_month": [1, 2], "arrival_day_of_week": [3, 4], "event_timestamp": [NOW] * 2}
    )
    with repository.feature_store(feature_databases, pipeline) as store:
        store.write_to_online_store("stay", frame)
    altered, added = online_rows(feature_databases, pipeline, "stay", [{"stay": 1}, {"stay": 900}])
    assert (altered["nights"], altered["room"], added["nights"], added["room"]) == (99, "z", 98, None)
    assert refresh(feature_databases, pipeline, rows).changed, "the content is compared, not only the count"
    assert online_rows(feature_databases, pipeline, "stay", STAYS) == before
    assert online_rows(feature_databases, pipeline, "stay", [{"stay": 900}])[0]["nights"] is None


class Killed(BaseException):
    """The process is gone."""


STEPS = {
    "after the copy": (writing, "merge"),
    "after the merge": (writing, "prune"),
    "before the switch": (generations, "switch"),
    "before a former table goes": (generations, "drop"),
    "before Feast's registry": (repository, "register"),
}


@pytest.mark.parametrize(
    ("step", "left"), [*((step, 3) for step in STEPS), ("after the copy", 4), ("before Feast's registry", 4)]
)
def test_killed_at_any_step_readers_see_one_generation_and_the_next_run_repairs(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, monkeypatch: pytest.MonkeyPatch, step: str, left: int
) -> None:
    refresh(feature_databases, pipeline, [row(stay, stay, nights=1) for stay in range(4)])
    rows = [row(stay, stay, nights=2) for stay in range(left)]
    new = [2, 2, 2, 2 if left == 4 else None]
    monkeypatch.setattr(comparison, "LARGEST_PART", 0)
    if step == "before Feast's registry":
        with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
            opened.execute("UPDATE feature_loads SET registered = NULL WHERE pipeline = %s", (pipeline.name,))

    def dies(*given: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(*STEPS[step], dies)
        with pytest.raises(Killed):
            refresh(feature_databases, pipeline, rows)
    nights = [answer["nights"] for answer in online_rows(feature_databases, pipeline, "stay", STAYS)]
    assert nights == (new if step == "before Feast's registry" else [1, 1, 1, 1])
    assert refresh(feature_databases, pipeline, rows).rows_online == left + 1 + 1
    nights = [answer["nights"] for answer in online_rows(feature_databases, pipeline, "stay", STAYS)]
    assert nights == new
    assert online_tables(feature_databases, pipeline) == set(names(pipeline).values())
    assert_equal(feature_databases, pipeline)


def test_killed_in_the_first_load_nothing_is_left(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(generations, "add_key", dies)
        with pytest.raises(Killed):
            refresh(feature_databases, pipeline, [row(1, 0)])
    assert online_tables(feature_databases, pipeline) == set()
    with pytest.raises(FeatureError, match="the online store has no table with its columns"):
        online_rows(feature_databases, pipeline, "stay", STAYS)


def test_without_a_load_nothing_is_written(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    with pytest.raises(FeatureError, match="contains no snapshot"):
        online.materialize(feature_databases, pipeline, NOW)


def test_a_reader_at_the_same_time_sees_one_generation(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    def rows(nights: int) -> list[Row]:
        return [row(stay, stay % 9, nights=nights) for stay in range(300)]

    refresh(feature_databases, pipeline, rows(0))
    seen: list[set[Any]] = []
    over = threading.Event()

    def read() -> None:
        with reader(feature_databases, pipeline, "stay") as opened:
            while not over.is_set():
                seen.append({answer["nights"] for answer in opened.read([{"stay": n} for n in range(300)])})

    reading = threading.Thread(target=read)
    reading.start()
    try:
        for nights in (1, 2, 3):
            while reading.is_alive() and not (seen and nights - 1 in seen[-1]):
                time.sleep(0.01)
            refresh(feature_databases, pipeline, rows(nights))
            # all is compared and merged
            online_sql(feature_databases, f"DELETE FROM online_tables WHERE name = '{names(pipeline)['stay']}'")
    finally:
        over.set()
        reading.join()
    assert {0, 1, 2} <= {nights for answer in seen for nights in answer} <= {0, 1, 2, 3}
    assert all(len(answer) == 1 for answer in seen), "never a mixture, and never an empty store"


def test_a_view_with_other_columns_has_a_table_of_its_own_beside_the_former(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    old, new = pipeline, with_column(pipeline, ["nights", "house"])
    refresh(feature_databases, old, [row(1, 0, nights=5), row(2, 1)])
    refresh(feature_databases, new, [row(1, 0, nights=6, house="red"), row(2, 1)])
    (former,), (current,) = (online_rows(feature_databases, of, "stay", [{"stay": 1}]) for of in (old, new))
    assert (former["nights"], former["room"]) == (5, "a"), "the model of the former columns reads what it knows"
    assert (current["nights"], current["house"]) == (6, "red")
    assert online_tables(feature_databases, new) == {*names(old).values(), *names(new).values()}
    assert set(removal.tables_of(feature_databases, new.name)[1]) == online_tables(feature_databases, new)

    refresh(feature_databases, old, [row(1, 0, nights=7)])  # and back: the former table is stale
    assert online_rows(feature_databases, old, "stay", [{"stay": 1}, {"stay": 2}])[0]["nights"] == 7
    assert online_rows(feature_databases, old, "stay", [{"stay": 2}])[0]["nights"] is None
    refresh(feature_databases, old, [row(1, 0, nights=7)])
    assert online_tables(feature_databases, new) == set(names(old).values()), "it goes with the next materialization"


@pytest.mark.fault("K5")
def test_an_erasure_leaves_no_former_table(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    refresh(feature_databases, pipeline, [row(1, 0), row(2, 1)])
    other = with_column(pipeline, ["nights"])
    refresh(feature_databases, other, [row(2, 1)], keep_former=False)
    assert online_tables(feature_databases, other) == set(names(other).values())


def test_a_removal_drops_both_generations(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    other = with_column(pipeline, ["nights"])
    for changed in (pipeline, other):
        refresh(feature_databases, changed, [row(1, 0)])
    assert len(online_tables(feature_databases, other)) == 4
    removal.remove(feature_databases, other)
    assert online_tables(feature_databases, other) == set()


def test_a_removed_view_leaves_the_online_store(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    refresh(feature_databases, pipeline, [row(1, 0)])
    features = pipeline.model_dump()["features"]
    del features["rooms"]
    less = stays(pipeline.name, features=features)
    refresh(feature_databases, less, [row(1, 0)])
    assert online_tables(feature_databases, less) == set(names(less).values())
    assert online.materialize(feature_databases, less, NOW).written == 0


def test_a_small_change_is_written_and_compared_alone(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any sequence of loads that take no entity away; windows too, whose values change as time passes."""
    windows = {"kind": "trailing", "at": "booking", "by": ["house"], "windows": ["2d", "20d"], "mean": ["price"]}
    pipeline = stays(pipeline.name, features=pipeline.model_dump()["features"] | {"passing": windows})
    rows, start = random_rows(21, 60), datetime(2020, 3, 10, tzinfo=UTC)
    materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), "s0", start)
    with monkeypatch.context() as patched:
        patched.setattr(comparison, "LARGEST_PART", 0)
        patched.setattr(online, "_compare_all", None)
        for number in range(1, 6):
            for booking in rows[number::17]:
                booking |= {"price": float(number), "nights": number}
            rows += [row(100 + number, 5 * number, house="new")]
            at = start + timedelta(hours=4 * number)
            materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), f"s{number}", at)
            assert_equal(feature_databases, pipeline)


ACCIDENTS = (
    ["UPDATE {table} SET nights = 9 WHERE stay = 2"],
    ["TRUNCATE {table}"],
    ["CREATE TABLE again (LIKE {table} INCLUDING ALL)", "DROP TABLE {table}", "ALTER TABLE again RENAME TO {table}"],
    ["DROP TABLE {table}"],
    ["ALTER TABLE {table} DISABLE TRIGGER ALL", "UPDATE {table} SET nights = 9 WHERE stay = 2"],
    [
        "ALTER TABLE {table} DISABLE TRIGGER ALL",
        "TRUNCATE {table}",
        "ALTER TABLE {table} ENABLE ALWAYS TRIGGER written",
    ],
    [
        "ALTER TABLE {table} DISABLE TRIGGER written",
        "UPDATE {table} SET nights = 9 WHERE stay = 2",
        "ALTER TABLE {table} ENABLE ALWAYS TRIGGER written",
    ],
    ["ALTER TABLE {table} ALTER nights TYPE bigint USING 9"],
    ["ALTER TABLE {table} DROP nights", "ALTER TABLE {table} ADD nights bigint DEFAULT 9"],
    [
        "ALTER TABLE {table} RENAME nights TO kept",
        "ALTER TABLE {table} RENAME arrival_month TO nights",
        "ALTER TABLE {table} RENAME kept TO arrival_month",
    ],
)


def test_a_table_that_is_not_as_it_was_left_is_compared_as_a_whole(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    rows = [row(stay, stay, nights=2) for stay in range(4)]
    refresh(feature_databases, pipeline, rows)
    table = f'"{names(pipeline)["stay"]}"'
    for accident in ACCIDENTS:
        online_sql(feature_databases, *(statement.format(table=table) for statement in accident))
        refresh(feature_databases, pipeline, rows)
        assert_equal(feature_databases, pipeline)


def test_what_changes_no_value_leaves_the_mark(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    refresh(feature_databases, pipeline, [row(stay, stay, nights=2) for stay in range(4)])
    with psycopg.connect(feature_databases.online.postgresql_url(), autocommit=True) as opened:
        opened.execute(f'VACUUM (FREEZE, ANALYZE) "{names(pipeline)["stay"]}"')
    assert_equal(feature_databases, pipeline)


def test_what_changed_without_a_trace_is_found_within_a_day_also_after_a_clock_was_wrong(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(stay, stay, nights=2) for stay in range(4)]

    def run(hours: int) -> list[Any]:
        at = NOW + timedelta(hours=hours)
        materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), f"s{hours}", at)
        return [answer["nights"] for answer in online_rows(feature_databases, pipeline, "stay", STAYS)]

    def change() -> None:
        """The owner of the table changes a row, and puts the mark back."""
        table = names(pipeline)["stay"]
        online_sql(
            feature_databases,
            f"CREATE TEMP TABLE kept AS SELECT written_at FROM online_tables WHERE name = '{table}'",
            f'UPDATE "{table}" SET nights = 9 WHERE stay = 2',
            f"UPDATE online_tables SET written_at = kept.written_at FROM kept WHERE name = '{table}'",
        )

    assert run(0) == [2, 2, 2, 2]
    change()
    assert run(1) == [2, 2, 9, 2]
    assert run(24) == [2, 2, 2, 2]
    assert_equal(feature_databases, pipeline)
    run(10_000)
    change()
    assert "after the present" not in caplog.text
    assert run(25) == [2, 2, 2, 2], "a comparison that is dated in the future counts as never"
    assert "dated 2031" in caplog.text and "after the present" in caplog.text
    change()
    assert run(26) == [2, 2, 9, 2]
    assert run(49) == [2, 2, 2, 2]
    assert_equal(feature_databases, pipeline)
