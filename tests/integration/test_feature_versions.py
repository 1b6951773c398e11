"""Rows with versions on real databases: Feast's join shows what was valid, and the online store the newest version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rempart.features import in_memory, offline, training_set
from rempart.features.databases import FeatureDatabases
from rempart.flows.training.materialize import materialize_rows
from tests.integration.test_features import NOW
from tests.online_rows import online_rows
from tests.unit.features.test_late_targets import claim, claims, table
from tests.unit.features.versioned import arrow, random_versions, rounded, versioned, wanted

pytestmark = pytest.mark.stores


def test_rows_with_versions_show_what_was_valid_at_each_moment(feature_databases: FeatureDatabases) -> None:
    pipeline, rows = versioned("versions"), random_versions(4, 120)
    materialize_rows(feature_databases, pipeline, arrow(rows[: len(rows) // 2]).to_reader(), "v1", NOW)
    result = materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), "v2", NOW + timedelta(hours=1))
    made = training_set.point_in_time(feature_databases, pipeline).table.drop_columns(["_known_at"]).to_pylist()
    assert rounded(made) == rounded([{name: given[name] for name in made[0]} for given in wanted(pipeline, rows)])
    newest = {given["stay"]: given for given in sorted(rows, key=lambda given: given["seen"])}
    served = online_rows(feature_databases, pipeline, "stay", [{"stay": stay} for stay in newest])
    assert result.changed
    assert [given["nights"] for given in served] == [given["nights"] for given in newest.values()]
    assert sorted(offline.keys(feature_databases, pipeline)) == [(stay,) for stay in range(120)]


def test_a_pipeline_that_keeps_versions_from_now_on_is_loaded_again(feature_databases: FeatureDatabases) -> None:
    rows = random_versions(6, 30)
    newest = {given["stay"]: given for given in sorted(rows, key=lambda given: given["seen"])}
    before = versioned("kept", "newest")
    materialize_rows(feature_databases, before, arrow(list(newest.values())).to_reader(), "v1", NOW)
    pipeline, at = versioned("kept"), NOW + timedelta(hours=1)
    materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), "v2", at)
    made = training_set.point_in_time(feature_databases, pipeline).table.drop_columns(["_known_at"]).to_pylist()
    assert rounded(made) == rounded([{name: given[name] for name in made[0]} for given in wanted(pipeline, rows)])


@pytest.mark.parametrize(
    ("name", "closed", "keys"),
    [
        ("claims_by_day", "date", {}),
        ("claims_by_instant", "timestamp", {}),
        ("claims_with_versions", "date", {"on_conflict": "history", "version_by": "seen"}),
    ],
)
def test_a_training_set_tells_when_the_target_of_a_row_became_known(
    feature_databases: FeatureDatabases, name: str, closed: str, keys: dict[str, Any]
) -> None:
    pipeline = claims(closed, name=name, **keys)
    given = range(60) if keys else range(0, 60, 2)  # two versions of each claim, or one
    rows = table([claim(n // 2, n // 2, None if n % 7 == 0 else n / 2 + 3.25, seen=n) for n in given], closed)
    materialize_rows(feature_databases, pipeline, rows.to_reader(), "v1", NOW)
    made = training_set.point_in_time(feature_databases, pipeline).table
    assert made["_known_at"].null_count and made.equals(in_memory.training_set(pipeline, rows))
