"""What PostgreSQL's statistics of the feature tables tell after an erasure."""

from __future__ import annotations

import pytest

from rempart.features import removal
from rempart.features.databases import FeatureDatabases, session
from rempart.settings.config import Connection
from tests.integration.test_features import row
from tests.integration.test_online_store import refresh
from tests.unit.features.stays import stays

pytestmark = pytest.mark.stores


@pytest.mark.fault("K5")
def test_an_erased_value_is_in_no_statistics(feature_databases: FeatureDatabases) -> None:
    pipeline = stays("erased_statistics")

    def told(table: str, connection: Connection) -> list[str]:
        with session(connection, "read statistics", autocommit=True) as opened:
            found = opened.execute(
                "SELECT concat(most_common_vals, histogram_bounds) FROM pg_stats WHERE tablename = %s", (table,)
            )
            return [str(values) for (values,) in found if "villa" in values]

    rows = [row(number, number, house="villa" if number == 1 else f"h{number}") for number in range(1, 9)]
    refresh(feature_databases, pipeline, rows)
    offline, online_names = removal.tables_of(feature_databases, pipeline.name)
    tables = [(table, feature_databases.offline) for table in offline]
    tables += [(table, feature_databases.online) for table in online_names]
    removal.forget_deleted(feature_databases, pipeline.name)
    assert any(told(*table) for table in tables), "PostgreSQL has statistics of the row"
    refresh(feature_databases, pipeline, rows[1:], keep_former=False)
    removal.forget_deleted(feature_databases, pipeline.name)
    assert not [table for table in tables if told(*table)]
