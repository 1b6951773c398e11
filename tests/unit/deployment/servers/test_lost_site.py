"""`rempart up` with an external site that does not answer: an error, unless the platform moved away from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.deployment.embedded import lifecycle
from rempart.deployment.servers import external
from rempart.deployment.setup import paths
from rempart.errors import ConnectionMissing, RempartError, SiteError, SiteUnavailable
from rempart.settings.config import Connection
from rempart.settings.sections import External, StackService
from tests import switchovers


@pytest.mark.parametrize("fault", [SiteUnavailable, SiteError, ConnectionMissing])
def test_a_lost_site_stops_nobody_once_another_one_is_active(
    fault: type[RempartError], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = switchovers.in_memory().config
    outside = StackService(external=External(url="https://s3.example", connection="s3_primary"))
    services = {**config.services, "primary": outside, "haven": outside}
    stack = paths.Stack(Path("/nowhere"), Path("/nowhere/var"), config.model_copy(update={"services": services}))

    def gone(*message: object) -> str:
        raise fault("site 'primary': no answer", "Wait.")

    def resolve(name: str) -> Connection:
        raise AssertionError(f"{name} is not asked for")

    monkeypatch.setattr(external, "check", gone)
    told = lifecycle._external_site(stack, "primary", resolve, "haven")
    assert told == "NO ANSWER: site 'primary': no answer; the platform works at 'haven'"
    for name, active in (("primary", "primary"), ("haven", "primary"), ("haven", "haven")):
        with pytest.raises(fault):
            lifecycle._external_site(stack, name, resolve, active)
