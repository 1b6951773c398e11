"""Rows with versions on real databases: Feast's join shows what was valid, and the online store the newest version."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rempart.features import offline, training_set
from rempart.features.databases import FeatureDatabases
from rempart.features.online import online_rows
from rempart.flows.training.materialize import materialize_rows
from tests.integration.test_features import NOW
from tests.unit.features.versioned import arrow, random_versions, rounded, versioned, wanted

pytestmark = pytest.mark.stores


def test_rows_with_versions_show_what_was_valid_at_each_moment(feature_databases: FeatureDatabases) -> None:
    pipeline, rows = versioned("versions"), random_versions(4, 120)
    materialize_rows(feature_databases, pipeline, arrow(rows[: len(rows) // 2]).to_reader(), "v1", NOW)
    result = materialize_rows(feature_databases, pipeline, arrow(rows).to_reader(), "v2", NOW + timedelta(hours=1))
    made = training_set.point_in_time(feature_databases, pipeline)[0].to_pylist()
    assert rounded(made) == rounded([{name: given[name] for name in made[0]} for given in wanted(pipeline, rows)])
    newest = {given["stay"]: given for given in sorted(rows, key=lambda given: given["seen"])}
    served = online_rows(feature_databases, pipeline, "stay", [{"stay": stay} for stay in newest])
    assert result.changed
    assert [given["nights"] for given in served] == [given["nights"] for given in newest.values()]
    assert sorted(offline.keys(feature_databases, pipeline)) == [(stay,) for stay in range(120)]
