"""Lakes with which tests of erasures begin. They are made once and never changed: each test copies its own."""

from __future__ import annotations

import pytest

from tests.derived_project import World
from tests.erasable import Lake
from tests.unit.flows.erasure.booked import new_lake, without_features
from tests.unit.flows.erasure.derived_trips import new_world


@pytest.fixture(scope="session")
def first() -> Lake:
    with pytest.MonkeyPatch.context() as patched:
        without_features(patched)
        return new_lake()


@pytest.fixture(scope="session")
def derived(tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patched:
        return new_world(tmp_path_factory.mktemp("project"), patched)
