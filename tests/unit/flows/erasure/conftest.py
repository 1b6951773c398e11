"""The lake that the tests of erasures begin with."""

from __future__ import annotations

import pytest

from tests.erasable import Lake
from tests.unit.flows.erasure.booked import new_lake, without_features


@pytest.fixture(scope="session")
def first() -> Lake:
    """Made once, and never changed: each test copies it."""
    with pytest.MonkeyPatch.context() as patched:
        without_features(patched)
        return new_lake()
