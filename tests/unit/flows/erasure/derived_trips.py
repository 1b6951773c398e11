"""Pipelines that are derived from trips, one of which is erased in the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.flows.erasure import erase_derived
from tests.derived_project import DAILY, DAILY_SQL, TRIPS, WEATHER, WET, World, trip, weather, write_project
from tests.erasable import in_two_memories
from tests.unit.flows.erasure.booked import without_features

KM = 777.0
"""Kilometres of the erased trip; each sum that holds it is above 700, and one goes to quarantine."""
PIPELINES = ("trips", "wet_trips", "daily")


def own_project(folder: Path, patched: pytest.MonkeyPatch) -> None:
    """Write the pipelines' files, whose feature stores are servers that are not here."""
    without_features(patched)
    patched.setattr(erase_derived.offline, "find_snapshot", lambda *given: None)
    write_project(folder, TRIPS, WEATHER, WET, DAILY, sql={"daily": DAILY_SQL})
    write_project(folder, TRIPS)
    patched.setenv("REMPART_HOME", str(folder))


def new_world(folder: Path, patched: pytest.MonkeyPatch) -> World:
    """Two deliveries of trips at two sites in memory, and what was derived after each."""
    found = World(in_two_memories().platform)  # of the shipped project
    own_project(folder, patched)
    found.deliver("weather", "one", weather(0.5, 0))
    found.deliver("trips", "one", [trip(1, 0, KM, "Erika"), trip(2, 1, 3)])
    for name in PIPELINES[1:]:
        found.derive(name)
    found.deliver("trips", "two", [trip(3, 0, 305)])
    for name in PIPELINES[1:]:
        found.derive(name)
    return found
