"""One embedded stack for all tests marked `stack`: started when the first of them runs, always stopped.

It has its own state (var/test) and its own ports, so a running demo is never touched. `make test` runs two processes of
tests side by side, each with a stack of its own.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of the code.
settings.register_profile(
    "untimed",
    deadline=None,
    max_examples=int(os.environ.get("REMPART_TEST_EXAMPLES") or 25),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]
WORKER = int((os.environ.get("PYTEST_XDIST_WORKER") or "gw0").removeprefix("gw"))
_VAR = Path(os.environ.get("REMPART_TEST_VAR") or ROOT / "var" / "test")
VAR = _VAR.with_name(f"{_VAR.name}-beside-{WORKER}") if WORKER else _VAR
OFFSET = str(int(os.environ.get("REMPART_TEST_PORT_OFFSET") or 2000) + 500 * WORKER)

# Before any test imports what reads them. A connection of the caller's shell would lead tests to a real platform.
for variable in [name for name in os.environ if name.startswith(("AIRFLOW_", "MLFLOW_", "FEAST_"))]:
    del os.environ[variable]
os.environ |= {"REMPART_HOME": str(ROOT), "REMPART_VAR": str(VAR), "REMPART_PORT_OFFSET": OFFSET}

from rempart.coordination.lease import Lease  # noqa: E402
from rempart.deployment.embedded import lifecycle  # noqa: E402
from rempart.deployment.setup import paths  # noqa: E402
from rempart.flows.shared.leases import points_lease, wait_for  # noqa: E402
from rempart.flows.shared.platform import Platform, open_platform  # noqa: E402
from rempart.ledger.memory import MemoryLedger  # noqa: E402
from rempart.replication.continuity import PostgresqlContinuity  # noqa: E402
from rempart.settings.config import Connection  # noqa: E402
from rempart.sites.port import Site  # noqa: E402

lifecycle.adopt_environment()

pytest_plugins = ["tests.repositories"]

GROUPS = {
    "no server": r"/(unit|dags|plugins)/",
    "kills": r"/integration/test_(stack|failover)\.py",
    "jobs": "job_credentials|real_cluster|tracking_users|training_nodes|interrupted",
    "pods": "training",
    "sites": "replica|failover|site",
    "records": "ledger|features|models|champion|deliveries|doctor_pool",
    "backups": "backup|bundle|drill|erasure|keys|point|prune|restic|restor|retention|stored_dumps|watch",
}
"""What runs side by side: the tests of a group share a process and its stack. By the path of their module, first match;
`chain` where there is none. Whoever is done takes the next group in the order of collection: several groups of some
minutes at the end even out what came before."""


def group(nodeid: str) -> str:
    """Which tests one has to run with: what it leaves behind is met by its own group alone."""
    path = f"/{nodeid.partition('::')[0]}"
    return next((name for name, words in GROUPS.items() if re.search(words, path)), "chain")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out whole groups, in the order in which they are collected."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc] # comes untyped
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need no server come first; those that kill the stack's processes come last.

    Who imports Airflow here installs its egress guard for all that follows, so such tests come after those without, and
    no module imports it at its top.
    """
    if "airflow" in sys.modules:
        raise pytest.UsageError("A module of tests imports Airflow when it is collected: import it in the test.")

    def rank(item: pytest.Item) -> int:
        if "kills_processes" in item.keywords:
            return 2
        return int(item.get_closest_marker("stack") is not None or item.get_closest_marker("airflow") is not None)

    for item in items:
        if item.get_closest_marker("stack") and "stack" not in item.fixturenames:  # type: ignore[attr-defined]
            # a new list: a test's parameters share one, and not all of them are marked
            item.fixturenames = ["stack", *item.fixturenames]  # type: ignore[attr-defined] # no other way to add one
    items.sort(key=rank)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[paths.Stack]:
    """The running test stack, fresh from nothing. Its state stays for a look when the tests are over."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    class TerminalHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with capture.global_and_fixture_disabled():
                sys.stderr.write(f"\n{record.getMessage()}")

    handler, life = TerminalHandler(), logging.getLogger(lifecycle.__name__)
    made = paths.current()
    if made.state.is_dir():
        lifecycle.down(made)
    shutil.rmtree(VAR, ignore_errors=True)
    life.addHandler(handler)
    try:
        lifecycle.up(made)
        life.removeHandler(handler)
        yield made
    finally:
        life.addHandler(handler)
        lifecycle.down(made)
        life.removeHandler(handler)


@pytest.fixture(scope="session")
def platform(stack: paths.Stack) -> Platform:
    """The platform on the test stack."""
    return open_platform()


@pytest.fixture(scope="session")
def s3_site(platform: Platform) -> Site:
    """The primary site, a real S3 server."""
    return platform.site("primary", "public")


@pytest.fixture(scope="session")
def capability_records(platform: Platform) -> list[dict[str, Any]]:
    """What the stack's sites were proven able to do: probed once for all tests."""
    sites = [platform.site(name, "public") for name in platform.config.sites]
    return [site.probe(platform.config.buckets.doctor, platform.clock()).as_json() for site in sites]


class OwnLeases(PostgresqlContinuity):
    """Leases of a test's own, for the stack's DAGs replicate the same pair now and then."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._mark = secrets.token_hex(4)

    def hold_lease(self, name: str, holder: str) -> AbstractContextManager[Lease]:
        return super().hold_lease(f"{self._mark} {name}", holder)

    def take(self, name: str, holder: str, seconds: float, *, again: bool = False) -> Lease:
        return super().take(f"{self._mark} {name}", holder, seconds, again=again)


@pytest.fixture
def no_backups(platform: Platform) -> Iterator[None]:
    """None of the stack's own backups is under way while the test runs, and none gets further than its first step."""
    with wait_for(platform.continuity, points_lease("haven"), 600):
        yield


@pytest.fixture
def own_leases(platform: Platform) -> OwnLeases:
    return OwnLeases(platform.database("continuity"))


@pytest.fixture
def proven_ledger(capability_records: list[dict[str, Any]]) -> MemoryLedger:
    """A ledger in memory which knows what the stack's sites can do."""
    ledger = MemoryLedger()
    for record in capability_records:
        ledger.append("capabilities", record["site"], record)
    return ledger
