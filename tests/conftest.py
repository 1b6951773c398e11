"""The servers of the tests marked `stores`, `tracking` or `stack`, as far as they need them (tests/levels.py).

They have their own state (var/test) and their own ports, so a running demo is never touched. `make test` runs three
processes of tests side by side, each with servers of its own; all tests of Airflow are in one of them.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import re
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of the code. The examples are the same in each run, so that a
# change fails by what it changed; who asks for a number of them looks for rare cases, and gets others each time.
EXAMPLES = os.environ.get("REMPART_TEST_EXAMPLES")
settings.register_profile(
    "untimed",
    deadline=None,
    max_examples=int(EXAMPLES or 15),
    derandomize=not EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]
WORKER = int((os.environ.get("PYTEST_XDIST_WORKER") or "gw0").removeprefix("gw"))
_VAR = Path(os.environ.get("REMPART_TEST_VAR") or ROOT / "var" / "test")
VAR = _VAR.with_name(f"{_VAR.name}-beside-{WORKER}") if WORKER else _VAR
collect_ignore = ["spark"]
"""Tests that run in the environment of Spark: `make test-spark`."""
OFFSET = str(int(os.environ.get("REMPART_TEST_PORT_OFFSET") or 2000) + 500 * WORKER)

# Before any test imports what reads them. A connection of the caller's shell would lead tests to a real platform.
for variable in [name for name in os.environ if name.startswith(("AIRFLOW_", "MLFLOW_", "FEAST_"))]:
    del os.environ[variable]
os.environ |= {"REMPART_HOME": str(ROOT), "REMPART_VAR": str(VAR), "REMPART_PORT_OFFSET": OFFSET}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes of tests share the cores: threads that spin would take them

from rempart.coordination.active import ActiveSites, MemoryActiveSites  # noqa: E402
from rempart.coordination.lease import Lease  # noqa: E402
from rempart.deployment.embedded import lifecycle  # noqa: E402
from rempart.deployment.setup import paths  # noqa: E402
from rempart.flows.shared.leases import points_lease, wait_for  # noqa: E402
from rempart.flows.shared.platform import Platform, open_platform  # noqa: E402
from rempart.ledger.memory import MemoryLedger  # noqa: E402
from rempart.replication.continuity import PostgresqlContinuity  # noqa: E402
from rempart.settings import telemetry  # noqa: E402
from rempart.settings.config import Connection  # noqa: E402
from rempart.sites.port import Site  # noqa: E402
from tests.levels import LEVELS, Levels  # noqa: E402
from tests.quick_repositories import quick_repositories  # noqa: E402

telemetry.adopt_environment()

SERVERS = pytest.StashKey[Levels]()
pytest_plugins = ["tests.repositories", "tests.processor_time"]


@functools.cache
def uses(path: str, marker: str) -> bool:
    """Whether a module of tests has this marker, at one of its tests at least."""
    return bool(re.search(rf"\bmark\.{marker}\b", (ROOT / path).read_text(encoding="utf-8")))


def group(nodeid: str) -> str:
    """The tests that run in one process, one after the other: all of Airflow's, a room of unit tests, else a module.

    The processes take the groups as `in_order` has them: those of Airflow come first, since they take longest, and no
    other process starts Airflow. Short groups at the end even out what came before.
    """
    path = nodeid.partition("::")[0]
    if path.startswith("tests/unit/"):
        room = re.match(r"tests/unit/\w+/", path)
        return IMPORTED if uses(path, "airflow") else room.group() if room else path
    if uses(path, "stack"):
        return "airflow"
    return PROJECT if path.startswith("tests/e2e/") else path


IMPORTED = "airflow imported"
"""Unit tests that import Airflow in their own process."""
PROJECT = "a project of their own"
"""Tests whose stack belongs to a copy of the project, which they share: those of the tutorial come first."""
CHAIN = "chain"
"""The fixture whose tests come first: it begins on a platform that no other test has given anything."""
READER = "tests/e2e/test_tutorial.py"
"""Its reader's platform is new."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out whole groups, in the order in which they are collected.

    A process gets its next group when one test of the last is left: with more left, it might hold the run's last groups
    while others have nothing to do. With none left, it would wait to know what follows its last test.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc] # comes untyped
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

        def _reschedule(self, node: Any) -> None:
            if not self.workqueue or self._pending_of(self.assigned_work[node]) <= 1:
                super()._reschedule(node)

    config.option.loadscopereorder = False
    return Groups(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests that are left to run."""
    if "airflow" in sys.modules:
        raise pytest.UsageError("A module of tests imports Airflow when it is collected: import it in the test.")
    items[:] = in_order(items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """While tests are imported, Python does not search for what may go: all of it stays."""
    if not session.config.getoption("numprocesses", None):  # else only the others import them
        gc.disable()


def pytest_collection_finish() -> None:
    """From here on, the search is for what tests make, and passes over what was imported for them."""
    gc.freeze()
    gc.enable()


LONG = 8
"""A test that is marked `full` takes as long as this many others."""


def in_order(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Tests of Airflow come first, then those of a project's copy, which take minutes, too, then those that need no
    server. Of Airflow's, those of the chain are the first, and those that kill processes the last. Of a kind, long
    groups come first, so that no process has one left when the others are done.

    Who imports Airflow here installs its egress guard for all that follows, so such tests come after those without, and
    no module imports it at its top.
    """

    def rank(item: pytest.Item) -> int:
        level = _level(item)
        if group(item.nodeid) == PROJECT:
            return 3 if item.nodeid.startswith(READER) else 4
        if level == "stack" and "kills_processes" in item.keywords:
            return 2
        if level == "stack":
            first = CHAIN in getattr(item, "fixturenames", ())
            return -1 if first else int("switches_site" in item.keywords)
        if item.nodeid.startswith(("tests/unit/", "tests/dags/", "tests/plugins/")):
            return 6 if group(item.nodeid) == IMPORTED else 5
        return 8 if level == "stores" else 7

    tests = [(item, group(item.nodeid)) for item in items]
    weights = Counter[str]()
    for item, name in tests:
        weights[name] += LONG if "full" in item.keywords else 1
    tests.sort(key=lambda test: (rank(test[0]), -weights[test[1]], test[1]))
    return [item for item, _ in tests]


def _level(item: pytest.Item) -> str:
    """The most that a test is marked to need, or nothing."""
    return next((level for level in reversed(LEVELS) if item.get_closest_marker(level)), "")


def pytest_sessionstart(session: pytest.Session) -> None:
    session.stash[SERVERS] = Levels(paths.current(), _VAR.with_name(f"{_VAR.name}-shared"))


@contextmanager
def _shown(session: pytest.Session) -> Iterator[None]:
    """Show the output of starting and stopping servers beside the tests."""
    capture = session.config.pluginmanager.getplugin("capturemanager")

    class TerminalHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with capture.global_and_fixture_disabled():
                sys.stderr.write(f"\n{record.getMessage()}")

    handler, life = TerminalHandler(), logging.getLogger(lifecycle.__name__.rpartition(".")[0])
    life.addHandler(handler)
    try:
        yield
    finally:
        life.removeHandler(handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if level := _level(item):
        with _shown(item.session):
            item.session.stash[SERVERS].reach(level)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Everything is stopped; its state stays for a look when the tests are over."""
    with _shown(session):
        session.stash[SERVERS].end()


@pytest.fixture(scope="session", autouse=True)
def _repositories_open_at_once() -> Iterator[None]:
    with quick_repositories():
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Build the command line once for all tests of a process; Typer builds it for each call (0.06 s)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def stack() -> paths.Stack:
    """The paths of the test stack, of which so much runs as a test's marker says."""
    return paths.current()


@pytest.fixture(scope="session")
def platform() -> Platform:
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


class OwnContinuity(PostgresqlContinuity):
    """Leases and generations of a test's own: another test may hold the pair's lease, or have moved the platform."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._mark = secrets.token_hex(4)
        self._active: ActiveSites | None = None

    def active_sites(self, first: str) -> ActiveSites:
        self._active = self._active or MemoryActiveSites(first)
        return self._active

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
def own_continuity(platform: Platform) -> OwnContinuity:
    return OwnContinuity(platform.database("continuity"))


@pytest.fixture
def proven_ledger(capability_records: list[dict[str, Any]]) -> MemoryLedger:
    """A ledger in memory which knows what the stack's sites can do."""
    ledger = MemoryLedger()
    for record in capability_records:
        ledger.append("capabilities", record["site"], record)
    return ledger
