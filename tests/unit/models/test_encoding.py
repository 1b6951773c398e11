"""Only the declaration decides the matrix that a model reads."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.models.encoding import Feature, encode, features_of, matrix_columns
from rempart.training.job import FeatureSpec
from tests.unit.training import stage

ROOM = Feature("room", "category", ("plain", "sea"))


def test_numbers_booleans_and_categories_stand_side_by_side_and_null_is_nan_or_all_zero():
    features = [Feature("nights", "number"), Feature("breakfast", "boolean"), ROOM]
    table = pa.table({"room": ["sea", None, "plain"], "nights": [1, None, 3], "breakfast": [True, False, None]})
    expected = [[1, 1, 0, 1], [np.nan, 0, 0, 0], [3, np.nan, 1, 0]]
    matrix = encode(features, table)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32))
    assert matrix_columns(features) == ["nights", "breakfast", "room=plain", "room=sea"]


@given(st.lists(st.sampled_from(["plain", "sea", None]), min_size=1), st.data())
def test_a_row_is_encoded_the_same_whatever_rows_stand_beside_it(values, data):
    column = pa.array(values, pa.string())
    whole = encode([ROOM], pa.table({"room": column}))
    i = data.draw(st.integers(0, len(values) - 1))
    np.testing.assert_array_equal(encode([ROOM], pa.table({"room": column[i : i + 1]})), whole[i : i + 1])


def test_a_value_outside_the_closed_list_is_refused_without_being_told():
    with pytest.raises(TrainingError, match="'room': a value in 1 row") as caught:
        encode([ROOM], pa.table({"room": ["sea", stage.CANARY]}))
    assert stage.CANARY not in str(caught.value)


@pytest.mark.parametrize("column", [["a"], [b"a"]])
def test_a_number_that_is_text_is_refused(column):
    with pytest.raises(TrainingError, match="declared as number"):
        encode([Feature("nights", "number")], pa.table({"nights": column}))


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(TrainingError, match="lacks column 'room'"):
        encode([ROOM], pa.table({"nights": [1]}))


def test_a_feature_keeps_its_definition_on_its_way_through_a_job_and_the_evidence():
    features = features_of(stage.pipeline())
    assert len({feature.definition for feature in features} - {""}) == len(features)
    assert all(Feature.from_json(feature.as_json()) == feature for feature in features)
    assert all(FeatureSpec.of(feature).feature() == feature for feature in features)


def test_a_pipelines_text_never_becomes_a_feature():
    names = [feature.name for feature in features_of(stage.pipeline())]
    assert names == ["stay__lead", "stay__nights", "stay__breakfast", "stay__room", "stay__arrival_month"]
