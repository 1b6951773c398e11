"""D9: a training set comes from one snapshot, even while another one is loaded. On a PostgreSQL of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from rempart.features import offline, online, repository
from rempart.features.databases import FeatureDatabases
from rempart.features.training_set import point_in_time
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import feature_databases
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from tests.integration.own_servers import own_servers
from tests.unit.features.stays import stays

PIPELINE = stays("copy_in_parallel")
DAY = date(2020, 2, 20)


def rows(count: int, price: float, first_day: int = 0) -> pa.Table:
    """Stays of one house, a booking each day."""
    days = [DAY + timedelta(days=first_day + i) for i in range(count)]
    return pa.table(
        {
            "stay": pa.array(range(count), pa.int64()),
            "price": pa.array([price] * count, pa.float64()),
            "nights": pa.array([2] * count, pa.int64()),
            "lead": pa.array([0] * count, pa.int64()),
            "house": ["blue"] * count,
            "room": ["a"] * count,
            "returning": pa.array([None] * count, pa.bool_()),
            "arrival": pa.array(days, pa.date32()),
        }
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with own_servers(tmp_path_factory.mktemp("reads") / "var") as running:
        yield Platform(
            running.stack.config, running.connections, ledger_=MemoryLedger(), continuity_=MemoryContinuity()
        )


@pytest.mark.parametrize("others", [(9, 0), (30, 0), (30, -40), (30, 300)], ids=["fewer", "more", "older", "newer"])
def test_d9_train_beside_a_load_of_the_next_snapshot_reads_one_snapshot(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, others: tuple[int, int]
) -> None:
    databases = feature_databases(platform)
    at = datetime(2030, 1, 1, tzinfo=UTC)
    offline.load(databases, PIPELINE, rows(20, 100.0).to_reader(), "first", at)
    online.materialize(databases, PIPELINE, at)
    alone, *_ = point_in_time(feature_databases(platform), PIPELINE)
    opened, count = repository.feature_store, 0

    @contextmanager
    def copy_in_parallel(databases: FeatureDatabases, *args: Any) -> Iterator[Any]:
        """The feature store of Feast, into which another run loads the next snapshot just before it is used."""
        nonlocal count
        count += 1
        if count == 1:
            offline.load(databases, PIPELINE, rows(others[0], 55.0, others[1]).to_reader(), "second", datetime.now(UTC))
        with opened(databases, *args) as store:
            yield store

    monkeypatch.setattr(repository, "feature_store", copy_in_parallel)
    table, snapshot, *_ = point_in_time(feature_databases(platform), PIPELINE)
    if snapshot == "first":
        assert table.equals(alone)
    else:  # what Feast limited its query to did not cover the first: it was read anew
        assert snapshot == "second"
        assert table.num_rows == others[0]
        assert set(table["price"].to_pylist()) == {55.0}
        assert set(table["trend__price_mean_10d"].to_pylist()) <= {55.0, None}
    assert count <= 2
