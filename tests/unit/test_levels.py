"""Which servers a test finds, and which process of tests it runs in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.coordination.active import Active
from rempart.errors import StackError
from rempart.settings.config import Connection
from tests import levels
from tests.conftest import LONG, ROOT, OwnContinuity, group, in_order
from tests.levels import LEVELS, Levels


class Recorded(Levels):
    """Levels whose servers are names in a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        stack: Any = SimpleNamespace(var=folder / "var", state=folder / "var" / "state")  # what of it is read here
        super().__init__(stack, folder / "shared")
        self.running: list[str] = []
        monkeypatch.setattr(levels, "lifecycle", self)
        monkeypatch.setattr(levels, "Supervisor", lambda stack: self)

    def start_stores(self, stack: object) -> None:
        self.running = ["stores"]

    def up(self, stack: object) -> None:
        self.running = ["stores", "mlflow", "airflow"]

    def down(self, stack: object) -> None:
        self.running = []

    def stop(self, names: Any) -> None:
        self.running.remove("airflow")

    def _start_mlflow(self) -> None:
        self.running.append("mlflow")

    def _make_schema(self) -> None:
        assert self.running == ["stores"], "no DAG is stored before DAGs are paused"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorded:
    return Recorded(monkeypatch, tmp_path)


EVERYTHING = ["stores", "mlflow", "airflow"]


@pytest.mark.parametrize(("level", "expected"), zip(LEVELS, (EVERYTHING[:1], EVERYTHING[:2], EVERYTHING), strict=True))
def test_a_level_starts_what_it_needs(recorded: Recorded, level: str, expected: list[str]) -> None:
    recorded.reach(level)
    assert recorded.running == expected
    recorded.end()
    assert recorded.running == []


def test_what_runs_already_is_not_started_again_and_airflow_is_stopped(recorded: Recorded) -> None:
    for level, expected in (("stores", 1), ("tracking", 2), ("stores", 2), ("stack", 3), ("stores", 2), ("stack", 3)):
        recorded.reach(level)
        assert recorded.running == EVERYTHING[:expected], level


def test_servers_that_did_not_start_fail_every_test_at_once(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(stack: object) -> None:
        raise StackError("postgresql is not healthy after 60 s", "Read its log.")

    monkeypatch.setattr(recorded, "start_stores", fails)
    for _ in range(2):
        with pytest.raises(StackError, match="not healthy"):
            recorded.reach("stores")


def test_nothing_was_started_so_nothing_is_stopped(recorded: Recorded) -> None:
    recorded.running = ["another run's"]
    recorded.end()
    assert recorded.running == ["another run's"]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("tests/e2e/test_chain.py", "airflow"),
        ("tests/integration/test_stack.py", "airflow"),
        ("tests/integration/test_killed_processes.py", "airflow"),
        ("tests/e2e/test_tutorial.py", "a project of their own"),
        ("tests/e2e/test_people_approve.py", "a project of their own"),
        ("tests/e2e/test_when_files_land.py", "a project of their own"),
        ("tests/faults/test_backup.py", "tests/faults/test_backup.py"),
        ("tests/unit/sites/test_endless_listings.py", "tests/unit/sites/"),
        ("tests/unit/orchestration/training/test_pool_watch.py", "airflow imported"),
        ("tests/unit/test_words.py", "tests/unit/test_words.py"),
    ],
)
def test_one_process_has_all_tests_of_airflow_and_the_kills_come_last(module: str, expected: str) -> None:
    assert (ROOT / module).is_file() and group(f"{module}::test_it[one::two]") == expected


def collected_of(
    module: str, marker: str = "", *, full: bool = False, count: int = 1, fixtures: tuple[str, ...] = ()
) -> list[Any]:
    """So many tests of a module, with a marker of what they need."""
    return [
        SimpleNamespace(
            nodeid=f"{module}::test_{number}",
            keywords={"full"} if full else set(),
            fixturenames=fixtures,
            get_closest_marker=lambda name: name == marker,
        )
        for number in range(count)
    ]


def test_long_groups_come_first_of_their_kind_and_no_group_is_torn() -> None:
    many, long, few, alone = (f"tests/faults/test_{name}.py" for name in ("models", "retention", "watch", "drill"))
    chain = collected_of("tests/e2e/test_command_line.py", "stack", fixtures=("api", "chain"))
    airflow = collected_of("tests/integration/test_stack.py", "stack", count=2)
    unit = collected_of("tests/unit/test_words.py", count=3)
    kinds = [
        chain,
        airflow,
        unit,
        collected_of(many, "tracking", count=LONG - 1),
        collected_of(long, "stores", full=True),
        collected_of(few, "stores", count=2),
        collected_of(alone, "stores"),
    ]
    found = [test for tests in reversed(kinds) for test in tests]
    assert in_order(found) == [test for tests in kinds for test in tests]


def test_a_continuity_of_a_tests_own_was_never_switched_whatever_the_stack_went_through() -> None:
    own = OwnContinuity(Connection("continuity", "postgresql://nobody@127.0.0.1:1/none"))
    sites = own.active_sites("primary")
    assert sites.active() == Active(0, "primary")
    with sites.hold_lease("test") as lease:
        sites.advance(lease, sites.active(), Active(0, "haven"))
    assert own.active_sites("primary").active().site == "haven", "it moves as its own test moves it"
