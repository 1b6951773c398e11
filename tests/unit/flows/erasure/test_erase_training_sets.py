"""A training set of a derived pipeline counts only while no row of an input was erased since its rows were derived."""

from __future__ import annotations

from functools import partial

import pytest

from rempart.errors import ErasedMeanwhile
from rempart.flows.ingestion import derived_run
from rempart.flows.shared import erasures
from tests.derived_project import World
from tests.unit.flows.erasure.test_erase_derived import erase, world  # noqa: F401 - a fixture


def freeze(world: World, snapshot: str, pipeline: str = "wet_trips", meanwhile: bool = False) -> None:  # noqa: F811
    """Store a training set of a snapshot; `meanwhile`: a row of an input is erased before it is stored."""
    ledger = world.platform.ledger
    clean = partial(derived_run.stands, ledger, world.home, "lake")
    with erasures.standing_rows(ledger, "lake", [(pipeline, snapshot)], clean):
        if meanwhile:
            erase(world)
        world.home.write("lake", f"training/{pipeline}/a.parquet", b"x", metadata={"snapshot": snapshot})


def test_an_input_that_is_erased_while_a_training_set_is_stored_fails_the_training(world: World) -> None:  # noqa: F811
    before = world.snapshot()
    assert before
    with pytest.raises(ErasedMeanwhile, match="or of an input of it, were erased while a training set was made"):
        freeze(world, before.id, meanwhile=True)


def test_rows_that_were_derived_before_an_erasure_make_no_training_set(world: World) -> None:  # noqa: F811
    before = world.snapshot()
    assert before
    freeze(world, before.id)  # nobody was erased
    erase(world)
    with pytest.raises(ErasedMeanwhile):
        freeze(world, before.id)
    now = world.snapshot()
    assert now and now.id != before.id
    freeze(world, now.id)  # derived again, without the erased row
    freeze(world, "of the test", pipeline="weather")  # not derived: its own objects are looked up, not its inputs'
