"""Rows are read piece by piece: the matrix is that of the whole table, and only columns that split rows are kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rempart.errors import TrainingError
from rempart.models import metrics
from rempart.models.encoding import Feature, encode, features_of
from rempart.training import datasets
from rempart.training.job import Origins, Split
from rempart.training.protocol import reading
from tests.unit.training import stage

PIPELINE, TABLE = stage.pipeline(), stage.table()
FEATURES = features_of(PIPELINE)
PRICE = Feature("price", "number")


@pytest.mark.parametrize("chunk", [7, 599, 600, 1 << 16])
def test_pieces_give_the_matrix_of_the_whole(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(reading, "CHUNK", chunk)
    found = reading.read(datasets.encoded(TABLE), FEATURES, PRICE, ("arrival",))
    np.testing.assert_array_equal(found.inputs, encode(FEATURES, TABLE))
    np.testing.assert_array_equal(found.target, metrics.target_values(PRICE, TABLE))
    assert found.table.column_names == ["arrival"] and found.table["arrival"].equals(TABLE["arrival"])


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.int64()])
def test_a_category_is_the_same_however_it_is_stored(kind: pa.DataType) -> None:
    stored = pa.array(["7", None, "9", "7"]).cast(kind) if kind != pa.int64() else pa.array([7, None, 9, 7])
    body = datasets.encoded(pa.table({"room": stored, "price": [1.0, 2.0, 3.0, 4.0]}))
    found = reading.read(body, [Feature("room", "category", ("9", "7"))], PRICE, ("room",))
    assert found.inputs.tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]
    assert found.table["room"].type == kind
    with pytest.raises(TrainingError, match="feature 'room': a value in 1 row is not declared"):
        reading.read(body, [Feature("room", "category", ("7",))], PRICE, ())


def test_without_a_split_no_column_is_kept() -> None:
    found = reading.read(datasets.encoded(TABLE), FEATURES, PRICE, reading.needed(None, None))
    assert found.table.num_columns == 0 and len(found.inputs) == TABLE.num_rows


def test_the_columns_of_a_split_are_those_that_its_order_names() -> None:
    held = Split(share=0.2, by=("agent", "room"), stratify="season", known_at="_known_at")
    assert reading.needed(held, None) == ("agent", "room", "season", "_known_at")
    origins = Origins(column="arrival", origins=2, every=60, known_at="_known_at")
    assert reading.needed(Split(column="arrival", share=0.2), origins) == ("arrival", "_known_at")


def test_a_column_that_is_not_there_is_named() -> None:
    lacking = TABLE.drop_columns([FEATURES[0].name])
    with pytest.raises(TrainingError, match=f"lacks column '{FEATURES[0].name}'"):
        reading.read(datasets.encoded(lacking), FEATURES, PRICE, ())
