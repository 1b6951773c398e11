"""The updates of a training: every row once an epoch, whoever computes it, and the same after an interruption."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.training.trainers.network.batches import ON_CPU, is_resident, steps, steps_of
from rempart.training.trainers.network.conversion import scaling

SIZES = {"rows": st.integers(1, 60), "size": st.integers(1, 20), "epochs": st.integers(1, 3)}


@given(**SIZES, of=st.integers(1, 4), seed=st.integers(-5, 5))
def test_an_epoch_has_every_row_once_however_many_processes_share_it(
    rows: int, size: int, epochs: int, of: int, seed: int
) -> None:
    shared = [list(steps(rows, size, epochs, seed, 0, rank, of)) for rank in range(of)]
    assert {len(made) for made in shared} == {steps_of(rows, size, epochs)}
    joined = [np.concatenate([step.share for step in each]) for each in zip(*shared, strict=True)]
    assert [len(batch) for batch in joined] == [step.rows for step in shared[0]]
    per_epoch = len(joined) // epochs
    for epoch in range(epochs):
        of_epoch = np.concatenate(joined[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(of_epoch.tolist()) == list(range(rows))


@given(**SIZES, seed=st.integers(0, 5), data=st.data())
def test_a_training_that_goes_on_makes_the_updates_that_were_left(
    rows: int, size: int, epochs: int, seed: int, data: st.DataObject
) -> None:
    whole = list(steps(rows, size, epochs, seed))
    after = data.draw(st.integers(0, len(whole)))
    rest = list(steps(rows, size, epochs, seed, after))
    assert [(step.number, step.share.tolist()) for step in rest] == [
        (step.number, step.share.tolist()) for step in whole[after:]
    ]


@pytest.mark.parametrize(
    ("matrix", "free", "resident"), [(ON_CPU, None, True), (ON_CPU + 1, None, False), (60, 120, True), (61, 120, False)]
)
def test_a_matrix_is_put_on_a_device_as_a_whole_only_if_it_leaves_room(
    matrix: int, free: int | None, resident: bool
) -> None:
    assert is_resident(matrix, free) is resident


def test_statistics_of_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    inputs = random.normal(1000, 3, (500, 4)).astype(np.float32)
    inputs[random.random(500) < 0.3, 1] = np.nan
    inputs[:, 2], inputs[:, 3] = 7, np.nan
    monkeypatch.setattr("rempart.training.trainers.network.conversion._PIECE", 33)
    found = scaling(inputs, inputs[:, 0], "regression")
    np.testing.assert_allclose(found.mean[:3], np.nanmean(inputs[:, :3].astype(float), axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.scale[:2], np.nanstd(inputs[:, :2].astype(float), axis=0), rtol=1e-5)
    assert found.scale[2:].tolist() == [1, 1] and found.mean[3] == 0 and found.with_nulls.tolist() == [1, 3]
