"""Online values beside those that the snapshot gives, on real databases: each difference is found, equal is green."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import psycopg
import pytest

from rempart.errors import FeatureError, LoadedMeanwhile
from rempart.features.databases import FeatureDatabases
from rempart.features.freshness import newest, sampling, skew
from rempart.features.freshness.comparison import ViewSkew
from rempart.features.freshness.content import read_content
from rempart.features.freshness.sampling import EntitySample
from rempart.features.freshness.skew import compare_stores
from rempart.features.labels import KNOWN_AT
from rempart.features.plan import view_tables
from rempart.features.training_set import point_in_time
from rempart.flows.monitoring import feature_skew
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import materialize_rows
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from tests.integration.test_features import NOW, arrow, random_rows, row
from tests.unit.features import aggregated, versioned
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores

_names = count()
ALL = EntitySample(seed=7, size=1000)
ODD = row(77, 3, room="é🏨 ' ; --", house="a|\\b", nights=None, returning=None)


@pytest.fixture
def pipeline(feature_databases: FeatureDatabases) -> ModelPipeline:
    """A pipeline that is loaded and online."""
    made = stays(f"skew{next(_names)}")
    materialize_rows(feature_databases, made, arrow([*random_rows(11, 40), ODD]).to_reader(), "s1", NOW)
    return made


def compared(databases: FeatureDatabases, pipeline: ModelPipeline, sample: EntitySample = ALL) -> dict[str, ViewSkew]:
    found = compare_stores(databases, pipeline, sample, NOW + timedelta(hours=5))
    assert found is not None
    return {view.view: view for view in found.views}


def table_of(pipeline: ModelPipeline, view: str) -> str:
    return next(table.online.name for table in view_tables(pipeline) if table.view == view)


@contextmanager
def restored(databases: FeatureDatabases, pipeline: ModelPipeline, view: str) -> Iterator[None]:
    """Give the online table of a view its rows back at the end."""
    table = table_of(pipeline, view)
    with psycopg.connect(databases.online.postgresql_url(), autocommit=True) as opened:
        opened.execute(f'CREATE TEMP TABLE before AS SELECT * FROM "{table}"'.encode())
        yield
        opened.execute(f'TRUNCATE "{table}"'.encode())
        opened.execute(f'INSERT INTO "{table}" SELECT * FROM before'.encode())


def change(databases: FeatureDatabases, pipeline: ModelPipeline, view: str, statement: str) -> None:
    """Change the online table of a view by SQL, in which {} is the table."""
    table = table_of(pipeline, view)
    with psycopg.connect(databases.online.postgresql_url()) as opened:
        assert opened.execute(statement.replace("{}", f'"{table}"').encode()).rowcount == 1


def test_equal_stores_are_equal_whatever_the_values(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    found = compared(feature_databases, pipeline)
    assert [view.entities for view in found.values()] == [0, 0, 0]
    assert found["stay"].compared == found["stay"].online == found["stay"].offline == 41
    few = compared(feature_databases, pipeline, EntitySample(seed=3, size=5))
    assert [view.entities for view in few.values()] == [0, 0, 0] and few["stay"].compared == 5


def test_versions_and_windows_that_end_as_time_passes_are_computed_alike(feature_databases: FeatureDatabases) -> None:
    history = versioned.versioned(f"skew{next(_names)}")
    rows = versioned.random_versions(4, 60)
    materialize_rows(feature_databases, history, versioned.arrow(rows).to_reader(), "v1", NOW)
    windows = aggregated.orders(f"skew{next(_names)}", windows=["6h", "2d"])
    orders = aggregated.random_orders(random.Random(3), 60, versions=False)  # noqa: S311 - test data
    at = aggregated.START + timedelta(hours=40)
    materialize_rows(feature_databases, windows, aggregated.arrow(orders).to_reader(), "s1", at)
    for made in (history, windows):
        for size in (1000, 3):
            found = compared(feature_databases, made, EntitySample(seed=1, size=size))
            assert {view: result.entities for view, result in found.items()} == dict.fromkeys(made.features, 0)


ALTERED = {
    "another value": ("stay", "UPDATE {} SET nights = 99 WHERE stay = 77", (1, 0, 0)),
    "a value for none": ("stay", 'UPDATE {} SET "returning" = false WHERE stay = 77', (1, 0, 0)),
    "a stale row": ("stay", "UPDATE {} SET event_timestamp = '2020-01-01' WHERE stay = 77", (1, 0, 0)),
    "a missing entity": ("stay", "DELETE FROM {} WHERE stay = 77", (0, 1, 0)),
    "an extra entity": ("stay", "INSERT INTO {} (stay, event_timestamp) VALUES (9000, now())", (0, 0, 1)),
    "NaN for a mean": ("trend", "UPDATE {} SET price_mean_10d = 'NaN' WHERE house = 'a|\\b'", (1, 0, 0)),
}  # fmt: skip


def test_each_difference_is_found(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    for case, (view, statement, counts) in ALTERED.items():
        with restored(feature_databases, pipeline, view):
            change(feature_databases, pipeline, view, statement)
            found = compared(feature_databases, pipeline)
        assert (found[view].differing, found[view].missing, found[view].extra) == counts, case
        assert [result.entities for name, result in found.items() if name != view] == [0, 0], case
    assert {view.entities for view in compared(feature_databases, pipeline).values()} == {0}


def test_a_view_table_that_went_wrong_is_found_though_its_copy_is_exact(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
        opened.execute(f'UPDATE "{pipeline.name}__stay" SET nights = 55 WHERE stay = 77')
    change(feature_databases, pipeline, "stay", "UPDATE {} SET nights = 55 WHERE stay = 77")
    assert compared(feature_databases, pipeline)["stay"].differing == 1


def test_a_load_between_the_two_reads_is_no_alarm(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, loads = sampling.computed, count(1)

    def after_a_load(most: int) -> Any:
        """Return the function that computes the offline side; at most so often, a load then changes every row."""

        def compute(*given: Any) -> Any:
            truth, load = computed(*given), next(loads)
            if load <= most:
                rows = arrow(random_rows(load + 20, 40)).to_reader()
                materialize_rows(feature_databases, pipeline, rows, f"s{load}", NOW + timedelta(hours=load))
            return truth

        return compute

    with monkeypatch.context() as patched:
        patched.setattr(sampling, "computed", after_a_load(1))
        assert {view.entities for view in compared(feature_databases, pipeline).values()} == {0}, "the second attempt"
        patched.setattr(sampling, "computed", after_a_load(99))
        with pytest.raises(LoadedMeanwhile, match="the feature store was loaded meanwhile"):
            compared(feature_databases, pipeline)


def test_a_load_that_is_not_online_yet_is_unknown(feature_databases: FeatureDatabases, pipeline: ModelPipeline) -> None:
    with psycopg.connect(feature_databases.offline.postgresql_url()) as opened:
        opened.execute(
            "UPDATE feature_loads SET loaded_at = loaded_at + interval '1 s' WHERE pipeline = %s", (pipeline.name,)
        )
    with pytest.raises(LoadedMeanwhile, match="the newest load is not online yet in stay, trend, rooms"):
        compared(feature_databases, pipeline)
    features = pipeline.model_dump()["features"]
    features["stay"]["columns"] = ["nights"]
    with pytest.raises(LoadedMeanwhile, match="no table with the present columns of stay"):
        compared(feature_databases, stays(pipeline.name, features=features))
    assert compare_stores(feature_databases, stays("never_loaded"), ALL, NOW) is None
    assert read_content(feature_databases, stays("never_loaded")) == (None, ())


def test_the_newest_row_load_and_target_are_read_as_of_now(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline
) -> None:
    history = versioned.versioned(f"skew{next(_names)}")
    rows = versioned.random_versions(4, 60)
    materialize_rows(feature_databases, history, versioned.arrow(rows).to_reader(), "v1", NOW)
    for made in (pipeline, history):
        table = point_in_time(feature_databases, made).table
        known = KNOWN_AT if KNOWN_AT in table.column_names else "event_timestamp"
        priced = [row[known] for row in table.to_pylist() if row["price"] is not None]
        moments = table["event_timestamp"].to_pylist()
        middle = sorted(moments)[len(moments) // 2]
        for now in (NOW, middle):
            found = newest.read(feature_databases, made, now)
            assert (found.loaded, found.labels) == (NOW, max(at for at in priced if at <= now))
            if made is pipeline:  # of rows with versions, an older version may have a later moment
                assert found.rows == max(at for at in moments if at <= now)
        assert newest.read(feature_databases, made, min(moments) - timedelta(days=999))[::2] == (None, None)
    assert newest.read(feature_databases, stays("never_loaded"), NOW) == (None, None, None)


def test_the_daily_comparison_is_evidence_and_red_without_a_value(
    feature_databases: FeatureDatabases, pipeline: ModelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {f"pg_feast_{part}": getattr(feature_databases, part) for part in ("registry", "offline", "online")}
    ledger = MemoryLedger()
    platform = Platform(config.load(), of.__getitem__, lambda: NOW + timedelta(days=1), {}, ledger, MemoryContinuity())
    never = stays("never_loaded")
    monkeypatch.setattr(feature_skew, "load_all", lambda: {made.name: made for made in (pipeline, never)})
    done = feature_skew.compare_all(platform, seed=5)
    assert (done.pipelines, done.views, done.different) == (1, 3, 0)
    assert not ledger.find("skew", never.name)
    (green,) = ledger.find("skew", pipeline.name)
    assert (green.body["outcome"], green.body["seed"], green.body["snapshot"]) == ("equal", 5, "s1")
    assert green.body["views"]["stay"]["entities"] == 41
    assert green.body["views"]["stay"]["loaded_at"] == NOW.isoformat()

    change(feature_databases, pipeline, "stay", "UPDATE {} SET room = 'marie' WHERE stay = 77")
    with pytest.raises(FeatureError, match="view 'stay' differs for 1 entity ") as red:
        feature_skew.compare_all(platform, seed=6)
    assert not red.value.transient
    told = str(red.value) + str(ledger.find("skew", pipeline.name)[0].body)
    assert "marie" not in told and "77" not in told and "hash" not in told
    record = ledger.find("skew", pipeline.name)[0].body
    assert (record["outcome"], record["compared"]["stay"]["different"]) == ("different", 1)
    rows = arrow([*random_rows(11, 40), ODD]).to_reader()
    assert "a comparison found a difference" in materialize_rows(feature_databases, pipeline, rows, "s1", NOW).note
    assert {view.entities for view in compared(feature_databases, pipeline).values()} == {0}, "all was written again"

    monkeypatch.setattr(skew, "_unsettled", lambda *given: "it is being loaded")
    with pytest.raises(LoadedMeanwhile) as unknown:
        feature_skew.compare_all(platform, seed=6)
    assert unknown.value.transient
    assert ledger.find("skew", pipeline.name)[0].body["outcome"] == "unknown"
