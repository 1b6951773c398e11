"""The results of the chain, and a project of its own with a running stack for tests that change pipeline files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rempart.flows.shared.platform import Platform
from tests.e2e import chains
from tests.e2e.projects import Project
from tests.integration.own_servers import free_stack


@pytest.fixture(scope="session")
def chain(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> chains.Chain:
    """The chain on the test stack, which runs for the first test that asks for it. Afterwards its DAGs are paused."""
    return chains.run(platform, tmp_path_factory.mktemp("deliveries"))


@pytest.fixture(scope="package")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A copy of the project whose stack runs; everything is stopped at the end."""
    folder = tmp_path_factory.mktemp("project")
    made = Project(folder / "rempart", folder / "var", free_stack(folder / "var").offset)
    made.copy()
    (made.root / "include" / "pipelines" / "bike_rentals.yaml").unlink(missing_ok=True)
    try:
        made.typed("up")
        yield made
    finally:
        made.typed("down")
