"""A version whose record lacks what a prediction needs is refused with a remedy, before anything is fetched."""

from __future__ import annotations

from typing import Any

import pytest

from rempart.errors import ModelRefused
from rempart.models import loading
from rempart.settings.config import Connection

RECORD: dict[str, Any] = {
    "name": "stays",
    "version": "3",
    "inputs": [],
    "features": [{"name": "stay__nights", "type": "number", "definition": "ab"}],
}
NOWHERE = Connection("nowhere", "http", "localhost", 1)


@pytest.mark.parametrize(
    ("record", "lacks"),
    [
        ({key: value for key, value in RECORD.items() if key != "inputs"}, "`inputs`"),
        (RECORD | {"features": [{"name": "stay__nights", "type": "number"}]}, "`definition` of a feature"),
    ],
)
def test_a_record_of_an_earlier_release_is_refused_with_a_remedy(record: dict[str, Any], lacks: str) -> None:
    with pytest.raises(ModelRefused, match=f"Model stays version 3: its evidence has no {lacks}") as refused:
        loading.load(NOWHERE, record)
    assert refused.value.hint == "Train it again: run train_stays, then validate the new version."
    assert loading.lacks(RECORD) == ""
