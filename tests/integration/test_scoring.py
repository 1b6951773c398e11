"""Predictions in a table of the user's, on a real PostgreSQL: merged once, replaced by newer ones, and erased."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from rempart.errors import PlacementDenied, PredictionError
from rempart.features.databases import FeatureDatabases
from rempart.flows.erasure import erase as erase_flow
from rempart.flows.erasure import erase_report
from rempart.flows.prediction import score as flow
from rempart.flows.prediction import user_table
from rempart.ingestion.snapshots import SnapshotColumn
from rempart.models.predictions import ENDS
from rempart.settings.champions.scoring import Into, Scoring
from rempart.settings.config import Connection
from rempart.settings.sections import DeclaredConnection
from tests.erasable import secrets_in_memory
from tests.unit.flows.erasure.booked import without_features
from tests.unit.flows.prediction.scored_stays import NAME, Scored, champion, made, stays

pytestmark = pytest.mark.stores
INTO = Into(connection="sales_db", table="public.stay_prices")
ALL: dict[str, Any] = {"since": "2026-01-01", "until": "2027-01-01"}


@pytest.fixture
def world(feature_databases: FeatureDatabases, monkeypatch: pytest.MonkeyPatch) -> Scored:
    """The user's database is one of the scratch databases; the policy knows where it is."""
    without_features(monkeypatch)
    found = made(monkeypatch)
    place = DeclaredConnection(operator="this-machine", service="machine", region="local")
    config = found.platform.config.model_copy(update={"connections": {INTO.connection: place}})

    def connections(name: str) -> Connection:
        return feature_databases.offline if name == INTO.connection else secrets_in_memory(name)

    found.platform = replace(found.platform, config=config, connections=connections)
    found.pipeline = found.pipeline.model_copy(update={"scoring": Scoring(into=INTO)})
    with user(feature_databases) as session:
        session.execute("DROP TABLE IF EXISTS stay_prices")
    return found


def user(databases: FeatureDatabases) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(databases.offline.postgresql_url(), options="-c timezone=UTC")


def table(databases: FeatureDatabases) -> list[tuple[Any, ...]]:
    with user(databases) as session:
        return session.execute("SELECT stay_id, version, prediction FROM stay_prices ORDER BY 1").fetchall()


def test_each_row_has_its_newest_prediction_after_kills_repeats_and_an_erasure(
    world: Scored, feature_databases: FeatureDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.deliver("one", rows := stays(60))
    with monkeypatch.context() as patch:

        def killed(*given: Any) -> int:
            merge(*given)
            raise KeyboardInterrupt

        merge = user_table._fit
        patch.setattr(user_table, "_fit", killed)
        with pytest.raises(KeyboardInterrupt):
            world.score(**ALL)
    with user(feature_databases) as session:
        assert session.execute("SELECT to_regclass('stay_prices')").fetchone() == (None,)
    done = world.score(**ALL)
    assert not done.new and done.changed_rows == 60  # the lake had them; the table gets them now
    predicted = champion().predict(rows)["prediction"].to_pylist()
    assert table(feature_databases) == [(i, "7", pytest.approx(predicted[i])) for i in range(60)]
    assert world.score(**ALL).changed_rows == 0

    world.version = "8"
    early = sum(day.isoformat() < "2026-04-01" for day in rows["arrival"].to_pylist())
    assert world.score(since="2026-01-01", until="2026-04-01").changed_rows == early > 0
    world.version = "7"  # rolled back
    back = world.score(**ALL)
    assert (back.new, back.changed_rows, back.former_rows) == (False, early, 0)
    assert {row[1] for row in table(feature_databases)} == {"7"}
    assert world.score(**ALL).changed_rows == 0

    given: dict[str, Any] = {"by": "data-protection-officer", "reason": "objection"}
    planned = erase_flow.erase(world.platform, world.pipeline, [(7,)], **given)
    named = next(place for place in planned.found if "stay_prices" in place)
    assert "connection 'sales_db'" in named and planned.found[named] == 1
    finished = erase_flow.erase(world.platform, world.pipeline, [(7,)], **given, dry_run=False)
    assert not finished.pending, list(erase_report.lines(finished))
    assert 7 not in {row[0] for row in table(feature_databases)} and len(table(feature_databases)) == 59


def test_a_table_that_does_not_fit_is_refused_and_nothing_in_it_changes(
    world: Scored, feature_databases: FeatureDatabases
) -> None:
    world.deliver("one", stays(10))
    with user(feature_databases) as session:
        session.execute("CREATE TABLE stay_prices (stay_id text, model text, note text, PRIMARY KEY (stay_id, model))")
        session.execute("INSERT INTO stay_prices VALUES ('mine', 'mine', 'stays')")
    with pytest.raises(PredictionError, match="its column 'stay_id' is text, and bigint is needed"):
        world.score(**ALL)
    with user(feature_databases) as session:
        assert session.execute("SELECT * FROM stay_prices").fetchall() == [("mine", "mine", "stays")]
        session.execute("DROP TABLE stay_prices")
        session.execute("CREATE TABLE stay_prices (stay_id bigint, model text)")
    with pytest.raises(PredictionError, match="PostgreSQL answered InvalidColumnReference") as refused:
        world.score(**ALL)
    assert "its primary key is the key of the rows and `model`" in refused.value.hint
    elsewhere = world.platform.config.model_copy(update={"connections": {}})
    with pytest.raises(PlacementDenied):
        flow.score(replace(world.platform, config=elsewhere), world.pipeline, **ALL)


def test_a_table_of_the_users_that_has_no_prediction_yet_fails_no_run_without_rows(
    world: Scored, feature_databases: FeatureDatabases
) -> None:
    world.deliver("one", stays(10))
    with user(feature_databases) as session:
        session.execute("CREATE TABLE stay_prices (stay_id bigint, model text, PRIMARY KEY (stay_id, model))")
    none = world.score(since="2025-01-01", until="2025-02-01")
    assert (none.scoring, none.changed_rows, none.former_rows) == (None, 0, 0)
    assert world.score(**ALL).changed_rows == 10


def test_odd_values_arrive_as_they_are(feature_databases: FeatureDatabases, tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    texts = ['say "so", twice', "", "line\nbreak", "\\N", " blank "]
    rows = pa.table(
        {
            "name": texts,
            "prediction": pa.array([None, 1.5, 1e-300, -0.0, 2.0]),
            "sha256": ["a"] * 5,
            "scored_at": pa.array([0] * 5, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(rows, file := tmp_path / "part.parquet")
    columns = {
        "name": SnapshotColumn("string", False),
        "prediction": SnapshotColumn("number", True),
        "sha256": SnapshotColumn("string", False),
        "scored_at": SnapshotColumn("timestamp", False),
    }
    into = Into(connection="sales_db", table="public.odd_names")
    assert user_table.upsert(feature_databases.offline, into, NAME, columns, ["name"], [file]) == 5
    with user(feature_databases) as session:
        found = dict(session.execute("SELECT name, prediction FROM odd_names").fetchall())
    assert found == dict(zip(texts, rows["prediction"].to_pylist(), strict=True))
    assert [user_table.count_of_others(feature_databases.offline, into, NAME, sha256) for sha256 in "ab"] == [0, 5]
    assert user_table.strike_others(feature_databases.offline, replace_table(into), NAME, ["any"]) == 0
    ends = {name: SnapshotColumn("number", True) for name in ENDS}
    for sha256, more_columns, wanted in (("b", ends, (1.0, 2.0)), ("c", {}, (None, None))):
        bounds = {name: pa.array([float(number + 1)] * 5) for number, name in enumerate(more_columns)}
        more = pa.table({**{name: rows[name] for name in rows.column_names}, "sha256": [sha256] * 5, **bounds})
        pq.write_table(more, file)
        given = {**columns, **more_columns}
        assert user_table.upsert(feature_databases.offline, into, NAME, given, ["name"], [file]) == 5
        with user(feature_databases) as session:  # no end of an interval of the former champion beside its successor's
            found = session.execute("SELECT DISTINCT prediction_lower, prediction_upper FROM odd_names").fetchall()
        assert found == [wanted]


def replace_table(into: Into) -> Into:
    return into.model_copy(update={"table": "public.nowhere"})
