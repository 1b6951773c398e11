"""A derived pipeline whose input published while nobody listened: its state says so until it is derived again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rempart.cli.views import pipelines as view
from rempart.flows.shared.platform import Platform
from rempart.web import facts
from rempart.web.read_models.pipeline_states import PipelineState, pipeline_states
from tests.derived_project import NOW, SQL, TRIPS, WEATHER, WET, World, trip, weather, write_project

RUN = "rempart pipeline run wet_trips --follow"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_platform: Callable[[], Platform]) -> World:
    ends = WET[: WET.index("features:")]  # at its snapshot
    write_project(tmp_path, TRIPS, WEATHER, ends, sql={"wet_trips": SQL})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return World(replace(make_platform(), clock=lambda: NOW))


def state(world: World, name: str = "wet_trips") -> PipelineState:
    found = facts.gather(lambda: world.platform, lambda: NOW)
    return next(state for state in pipeline_states(found, NOW) if state.name == name)


def test_inputs_that_published_before_the_pipeline_was_there_are_told_of(world: World) -> None:
    world.deliver("trips", "one", [trip(1, 0, 2)])
    world.deliver("weather", "one", weather(0.5, 0))
    assert state(world).next.command == RUN


def test_a_newer_input_is_told_of_until_the_rows_are_derived_again(world: World) -> None:
    world.deliver("trips", "one", [trip(1, 0, 2)])
    world.deliver("weather", "one", weather(0.5, 0))
    world.derive()
    assert state(world).next.sentence.startswith("Nothing to do")
    world.deliver("trips", "two", [trip(2, 0, 3)])
    assert state(world).next.sentence == "trips has a newer snapshot than its rows were derived from."
    world.deliver("weather", "two", weather(9, day=2))
    step = state(world).next
    assert step.sentence == "trips and weather have newer snapshots than its rows were derived from."
    assert step.command == RUN
    world.derive()
    assert state(world).next.sentence.startswith("Nothing to do")


def test_an_input_that_changes_no_row_is_no_news_once_it_was_looked_at(world: World) -> None:
    world.deliver("trips", "one", [trip(1, 0, 2)])
    world.deliver("weather", "one", weather(0.5, 0))
    world.derive()
    world.deliver("weather", "two", weather(9, day=2))  # an hour without a trip
    assert state(world).next.command == RUN and "weather has" in state(world).next.sentence
    world.derive()
    assert "Nothing to do" in state(world).next.sentence


def test_what_starts_the_ingestion_is_told(world: World) -> None:
    lines = "\n".join(view.state_lines(state(world), "landing"))
    assert "on a new snapshot of trips or weather" in lines and "by hand" not in lines
    assert "by hand" in "\n".join(view.state_lines(state(world, "trips"), "landing"))
