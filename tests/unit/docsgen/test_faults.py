"""The page of faults: each fault appears once, under the shortest command that proves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart.docsgen.faults import CATALOGUE, FaultTest, fault_tests, faults_page
from rempart.errors import ConfigError
from rempart.settings.config import project_root

TESTS = """
import pytest

pytestmark = pytest.mark.fault("S4")

def test_i7_k1_a_manifest(): ...

@pytest.mark.full
@pytest.mark.parametrize("moment", [1, 2])
def test_x1_killed(moment): ...

@pytest.mark.fault("X1")
async def test_killed_once(): ...
"""


def project(folder: Path, catalogue: str, tests: str) -> Path:
    (folder / CATALOGUE).parent.mkdir(parents=True)
    (folder / CATALOGUE).write_text(catalogue, encoding="utf-8")
    (folder / "tests" / "faults" / "test_some.py").write_text(tests, encoding="utf-8")
    return folder


def test_a_tests_faults_are_read_from_its_name_and_its_markers(tmp_path: Path) -> None:
    root = project(tmp_path, "", TESTS)
    assert fault_tests(root / "tests") == [
        FaultTest("faults/test_some.py::test_i7_k1_a_manifest", ("I7", "K1", "S4"), full=False),
        FaultTest("faults/test_some.py::test_x1_killed", ("X1", "S4"), full=True),
        FaultTest("faults/test_some.py::test_killed_once", ("S4", "X1"), full=False),
    ]


def test_a_whole_module_is_of_the_long_tier_when_it_is_marked_so(tmp_path: Path) -> None:
    root = project(tmp_path, "", "pytestmark = [pytest.mark.stack, pytest.mark.full]\ndef test_t2_evicted(): ...")
    assert [test.full for test in fault_tests(root / "tests")] == [True]


def test_a_fault_is_of_make_test_if_one_of_its_tests_is(tmp_path: Path) -> None:
    catalogue = "I7: altered\nK1: a wrong key\nS4: hostile\nX1: killed\nT2: evicted\n"
    tests = TESTS + "\n@pytest.mark.full\ndef test_t2_evicted(): ...\n"
    short, full = faults_page(project(tmp_path, catalogue, tests)).split("alone\n\n")
    assert [fault for fault in ("I7", "K1", "S4", "X1") if f"\n| {fault} |" in short] == ["I7", "K1", "S4", "X1"]
    assert "| X1 | killed | `faults/test_some.py::test_killed_once` | `faults/test_some.py::test_x1_killed` |" in short
    assert "| T2 | evicted | `faults/test_some.py::test_t2_evicted` |" in full and "| T2 |" not in short


@pytest.mark.parametrize(
    ("catalogue", "message"),
    [
        ("S4: hostile\nX1: killed\nI7: altered\n", "lacks K1, named by .*test_i7_k1_a_manifest"),
        ("S4: hostile\nX1: killed\nI7: altered\nK1: a key\nT9: a quota\n", "No test injects T9"),
    ],
)
def test_a_fault_without_a_test_and_a_test_of_an_unknown_fault_are_told(
    tmp_path: Path, catalogue: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        faults_page(project(tmp_path, catalogue, TESTS))


def test_every_fault_stands_once_on_the_page_of_this_project() -> None:
    rows = [line.split(" | ")[0] for line in faults_page(project_root()).splitlines() if line.startswith("| ")]
    faults = [row for row in rows if row != "| fault"]
    assert len(faults) == len(set(faults)) >= 88
