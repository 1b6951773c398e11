"""What explains a model adds up, is the same for the same seed, and tells nothing of a few rows."""

import json
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import IntegrityError, TrainingError
from rempart.models.encoding import Feature, encode, matrix_columns
from rempart.models.explanations import dependence, figures, importance, losses, measure, segments
from rempart.models.explanations.contributions import contributions, references
from rempart.models.explanations.figures import LEAST_GROUP, LEAST_POINT

FEATURES = (
    Feature("lead", "number"),
    Feature("breakfast", "boolean"),
    Feature("room", "category", ("plain", "sea", "suite")),
    Feature("noise", "number"),
)
PRICE, SEASON = Feature("price", "number"), Feature("season", "category", ("cheap", "dear"))


def price(matrix):
    """A model with an interaction, which no linear explanation would get right."""
    lead = np.nan_to_num(matrix[:, 0].astype(np.float64))
    return 50 + 0.5 * lead + 40 * matrix[:, 4] + lead * matrix[:, 1] / 10 + 5 * matrix[:, 3]


def season(matrix):
    dear = 1 / (1 + np.exp((100 - price(matrix)) / 10))
    return np.column_stack([1 - dear, dear])


def rows(count=800, seed=3):
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "lead": pa.array(random.integers(0, 90, count), pa.int64()),
            "breakfast": pa.array(random.random(count) < 0.4),
            "room": pa.array([(*FEATURES[2].values, None)[i] for i in random.integers(0, 4, count)], pa.string()),
            "noise": pa.array(random.normal(0, 1, count)),
        }
    )


def days(count=800):
    return pa.chunked_array([[date(2026, 1, 1) + timedelta(days=i * 120 // count) for i in range(count)]])


def explained(table=None, predict=price, target=PRICE, times=None, truth=None):
    matrix = encode(FEATURES, table if table is not None else rows())
    predicted = predict(matrix)
    if truth is None:
        truth = predicted + 1 if predict is price else predicted.argmax(axis=1).astype(float)
    return measure.explain(predict, FEATURES, target, matrix, truth, predicted, times, 7)


def test_importance_finds_what_the_model_reads_and_says_how_sure_it_is():
    found = {each.feature: each for each in explained().importance}
    assert next(iter(found)) == "lead" and found["noise"].rise == found["noise"].spread == 0
    assert found["room"].rise > 5 * found["room"].spread > 0


def test_the_columns_of_a_category_are_shuffled_together():
    matrix, seen = encode(FEATURES, rows(300)), []
    importance.shuffled_losses(
        lambda given: seen.append(given) or price(given), FEATURES, matrix, price(matrix), "regression", 1
    )
    assert len(seen) > 1 and all(set(each[:, 2:5].sum(axis=1)) <= {0.0, 1.0} for each in seen)


def test_the_same_seed_gives_the_same_bytes_and_they_are_read_again():
    body = explained(times=days()).to_json()
    assert explained(times=days()).to_json() == body
    again = figures.read(body, "a file")
    assert again.to_json() == body and again.over_time.by == "month"
    assert [group.label for group in again.over_time.groups] == ["2026-01", "2026-02", "2026-03", "2026-04"]
    with pytest.raises(IntegrityError, match="a file is no explanation"):
        figures.read(b'{"metric": 3}', "a file")


def test_many_features_are_predicted_in_bounded_rows():
    many = tuple(Feature(f"f{i}", "number") for i in range(400))
    matrix, predicted = np.random.default_rng(1).random((2000, 400)).astype(np.float32), []

    def predict(given_):
        predicted.append(given_.nbytes)
        return given_[:, 0].astype(float)

    measure.explain(predict, many, PRICE, matrix, matrix[:, 0], matrix[:, 0], None, 1)
    assert max(predicted) <= losses.BATCH
    fewest = 400 * importance.THRICE * importance.FEWEST
    assert sum(predicted) / (4 * 400) < max(importance.BUDGET, fewest) + 25_000


def test_errors_by_group_are_those_of_its_rows():
    table = rows()
    matrix = encode(FEATURES, table)
    off = np.where(matrix[:, 4] == 1, 9.0, 2.0)
    found = explained(table, truth=price(matrix) - off)
    (room,) = [segment for segment in found.segments if segment.by == "room"]
    told = {group.label: group for group in room.groups}
    assert set(told) == {"plain", "sea", "suite", "no value"} and room.merged == 0
    assert (told["suite"].error, told["plain"].error) == (pytest.approx(9), pytest.approx(2))
    assert told["suite"].bias == pytest.approx(9) and told["suite"].accuracy is None
    assert sum(group.rows for group in room.groups) == table.num_rows
    assert told["suite"].rises["lead"] != told["plain"].rises["lead"]


def test_a_classification_is_explained_by_probabilities():
    found = explained(predict=season, target=SEASON)
    assert found.metric == "log_loss" and found.classes == ("cheap", "dear")
    (lead,) = [each for each in found.dependence if each.feature == "lead"]
    for point in lead.points:
        assert sum(point.means) == pytest.approx(1)
    assert lead.points[0].means[1] < lead.points[-1].means[1]
    assert all(group.accuracy == 1 and group.bias is None for segment in found.segments for group in segment.groups)


def test_partial_dependence_is_the_mean_prediction_with_one_value_in_every_row():
    table = rows(LEAST_GROUP * 4)
    matrix = encode(FEATURES, table)
    (found,) = dependence.dependence(price, FEATURES, ["room"], matrix, 1)
    for point in found.points:
        other = table.set_column(2, "room", pa.array([point.at] * table.num_rows, pa.string()))
        assert point.means[0] == pytest.approx(price(encode(FEATURES, other)).mean())
    assert {point.at for point in found.points} == {"plain", "sea", "suite", None}


@given(st.lists(st.integers(0, 9), max_size=400), st.integers(1, 12))
@settings(deadline=None)
def test_every_group_that_is_told_is_large_and_every_row_is_in_one(codes, most):
    found, rest = segments.merged(np.array(codes, int), [f"v{i}" for i in range(10)], most)
    counts = [int(mask.sum()) for _, mask in found]
    assert all(count >= LEAST_GROUP for count in counts)
    assert not found or sum(counts) == len(codes)
    assert bool(found) == (len(codes) >= LEAST_GROUP)
    assert len(found) <= most + 1 and (rest > 0) == (len(codes) > 0 and (not found or found[-1][0] is None))


@given(st.integers(0, 2**32 - 1), st.floats(1e3, 1e9))
@settings(deadline=None, max_examples=30)
def test_the_largest_values_move_no_point_of_a_scale(seed, factor):
    values = np.random.default_rng(seed).gamma(2, 100, 300).astype(np.float32)
    before, _ = dependence.scale(FEATURES[0], values[:, None])
    higher = values.copy()
    higher[np.argsort(values)[-LEAST_POINT:]] *= np.float32(factor)
    after, _ = dependence.scale(FEATURES[0], higher[:, None])
    assert [at for at, _ in before] == [at for at, _ in after]
    assert not {float(value) for value in values} & {at for at, _ in before}


def test_a_value_of_few_rows_is_nowhere():
    rare = Feature("room", "category", ("plain", "sea", "Erika Mustermann"))
    table = rows().set_column(
        2, "room", pa.array(["Erika Mustermann"] * (LEAST_POINT - 1) + ["plain", "sea"] * 395 + ["plain"], pa.string())
    )
    features = (*FEATURES[:2], rare, FEATURES[3])
    matrix = encode(features, table)
    found = measure.explain(price, features, PRICE, matrix, price(matrix) + 1, price(matrix), None, 7)
    body = found.to_json().decode()
    assert "Erika" not in body and '"sea"' in body
    (room,) = [each for each in found.dependence if each.feature == "room"]
    assert room.few == 1
    (by_room,) = [segment for segment in found.segments if segment.by == "room"]
    assert by_room.merged == 2 and [group.label for group in by_room.groups] == ["plain", None]
    lead = json.loads(body)["dependence"][0]
    assert lead["feature"] == "lead" and min(point["at"] for point in lead["points"]) > 0


def test_few_held_out_rows_have_no_groups():
    found = explained(rows(LEAST_GROUP - 1), times=days(LEAST_GROUP - 1))
    assert found.over_time.groups == () and all(segment.groups == () for segment in found.segments)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_contributions_and_the_reference_add_up_to_the_prediction(seed, count):
    matrix = encode(FEATURES, rows(count + 1, seed))
    for predict, output in ((price, None), (season, 1)):
        found = contributions(predict, FEATURES, matrix[0], matrix[1:], seed, output)
        wanted = predict(matrix[:1])[0] if output is None else predict(matrix[:1])[0, output]
        assert found.adds_up and found.prediction == pytest.approx(wanted)
        assert found.reference + sum(each.part for each in found.contributions) == pytest.approx(wanted)
        assert found == contributions(predict, FEATURES, matrix[0], matrix[1:], seed, output)
        assert {each.feature for each in found.contributions} == {feature.name for feature in FEATURES}


def test_contributions_are_shapley_values():
    """Of one training row and two features that act together, each gets half of what they do together."""
    features = (FEATURES[0], FEATURES[1])

    def both(matrix):
        return 10 + 3 * matrix[:, 0] + 8 * matrix[:, 0] * matrix[:, 1]

    found = contributions(both, features, np.float32([1, 1]), np.float32([[0, 0]]), 5)
    assert (found.prediction, found.reference) == (21, 10)
    assert {each.feature: each.part for each in found.contributions} == {"lead": 7, "breakfast": 4}


def test_a_feature_that_the_model_does_not_read_contributes_nothing():
    matrix = encode(FEATURES, rows(60))
    parts = {each.feature: each for each in contributions(price, FEATURES, matrix[0], matrix[1:], 1).contributions}
    assert parts["noise"].part == parts["noise"].spread == 0


@given(st.integers(1, 5000), st.integers(1, 10**6))
def test_an_explanation_predicts_a_bounded_number_of_rows(features, rows_):
    used = references(features, rows_)
    assert 1 <= used <= rows_
    assert 2 * used * (features + 1) <= 100_000 or used <= 10


def test_matrix_blocks_are_the_features_columns():
    assert [block.stop - block.start for block in losses.blocks(FEATURES)] == [1, 1, 3, 1]
    assert losses.blocks(FEATURES)[-1].stop == len(matrix_columns(FEATURES))


def test_a_model_without_a_finite_answer_is_told():
    def breaks(matrix):
        return np.where(matrix[:, 0] > matrix[:, 5] * 1000, np.nan, 1.0)

    table = rows(100).set_column(3, "noise", pa.array([1.0 if i % 2 else -1.0 for i in range(100)]))
    table = table.set_column(0, "lead", pa.array([5 if i % 2 else -5000 for i in range(100)], pa.int64()))
    matrix = encode(FEATURES, table)
    assert np.isfinite(breaks(matrix)).all()
    with pytest.raises(TrainingError, match="no finite number"):
        measure.explain(breaks, FEATURES, PRICE, matrix, np.ones(100), breaks(matrix), None, 1)
