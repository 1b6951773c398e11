"""Fixtures of the tests of deploy/."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.deployment.kubernetes import cluster
from tests.unit.deploy.platform_files import (
    given,
    stack,
)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """What the Secrets are made of, by file."""
    inside = cluster.in_cluster(stack(tmp_path))
    return cluster.files(inside, cluster.plan(inside, {}, given()))
