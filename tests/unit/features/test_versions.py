"""A training set of rows with versions shows what was valid at each moment, and nothing of a later version."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rempart.features.in_memory import training_set
from tests.integration.test_features import FIRST_DAY, row
from tests.unit.features.versioned import arrow, instant, random_versions, rounded, versioned, wanted


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_leak_brute_force(seed: int) -> None:
    pipeline, rows = versioned(), random_versions(seed, 120)
    made = training_set(pipeline, arrow(rows)).to_pylist()
    assert len(made) < len(rows)
    inputs = ["stay", "event_timestamp", "price", "arrival", "room", *pipeline.model_inputs()]
    assert list(made[0]) == inputs
    brute = [{name: given[name] for name in inputs} for given in wanted(pipeline, rows)]
    assert rounded(made) == rounded(brute)


def version(stay: int, hours: int, **values: Any) -> dict[str, Any]:
    """A stay booked on the third day, valid from so many hours after the booking."""
    return row(stay, 2, **values) | {"seen": instant(FIRST_DAY) + timedelta(days=2, hours=hours)}


def test_a_later_version_changes_the_target_and_no_feature() -> None:
    pipeline = versioned()
    first = [version(stay, -1, nights=2, price=100.0) for stay in (1, 2)]
    before = training_set(pipeline, arrow(first)).to_pylist()
    later = version(1, 1, nights=99, price=200.0, room="z", house="red")
    after = training_set(pipeline, arrow([*first, later])).to_pylist()
    assert [given["price"] for given in after] == [200.0, 100.0]
    assert [given | {"price": 0} for given in after] == [given | {"price": 0} for given in before]
    assert after[0]["stay__nights"] == 2


def test_of_a_row_that_was_recorded_after_its_moment_nothing_was_known() -> None:
    (made,) = training_set(versioned(), arrow([version(1, 1)])).to_pylist()
    assert made["price"] == 100.0
    assert {made[name] for name in versioned().model_inputs()} == {None}
