"""The page of faults: each fault of the catalogue, the tests that inject it, and whether `make test` runs them.

The tests are read, not imported: a test carries its faults in its name (`test_i7_...`) or in a marker (`fault`).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rempart.errors import ConfigError
from rempart.settings import plain_yaml

CATALOGUE = Path("tests", "faults", "catalogue.yaml")
HEADING = {"make test": "Faults of `make test`", "make test-full": "Faults of `make test-full` alone"}
COLUMNS = "| fault | injected fault, and the property that must hold | tests | further tests |\n|---|---|---|---|\n"
INTRODUCTION = """# Faults

**For** reviewers who ask what was tried. **Answers** which faults the tests inject, and which command repeats them.

Each fault below is injected by tests, against real servers where possible. It is listed under the shorter of the two
commands that prove it: `make test`, or `make test-full`, which runs every test. Further tests of a fault of `make test`
(other variants, other moments of a kill) run in `make test-full` alone; the last column lists them.
"""


@dataclass(frozen=True)
class FaultTest:
    """A test function, the faults that it injects, and whether `make test-full` alone runs it."""

    name: str
    faults: tuple[str, ...]
    full: bool


def _markers(decorators: list[ast.expr]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and string arguments of each `pytest.mark`."""
    for decorator in decorators:
        call = decorator if isinstance(decorator, ast.Call) else None
        path = ast.unparse(call.func if call else decorator)
        if path.startswith("pytest.mark."):
            arguments = call.args if call else []
            yield (
                path.removeprefix("pytest.mark."),
                tuple(str(a.value) for a in arguments if isinstance(a, ast.Constant)),
            )


def _of_module(tree: ast.Module) -> list[ast.expr]:
    """Return the marks that a module gives to all its tests."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            return list(node.value.elts) if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
    return []


def _in_name(name: str) -> tuple[str, ...]:
    """Return the faults with which a test's name begins: I5 and I6 of `test_i5_i6_each_lie_is_found`."""
    matched = re.match(r"test_((?:[a-z]\d{1,2}_)+)", name)
    return tuple(matched.group(1).upper().rstrip("_").split("_")) if matched else ()


def fault_tests(folder: Path) -> list[FaultTest]:
    """Return every test below a folder that injects a fault, by path and name."""
    found = []
    for file in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        shared = list(_markers(_of_module(tree)))
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            marks = [*shared, *_markers(node.decorator_list)]
            marked = [fault for name, arguments in marks if name == "fault" for fault in arguments]
            if faults := (*_in_name(node.name), *marked):
                full = any(name == "full" for name, _ in marks)
                found.append(FaultTest(f"{file.relative_to(folder)}::{node.name}", faults, full))
    return found


def faults_page(root: Path) -> str:
    """Return the page. Raises ConfigError if a fault has no test, or a test names a fault that the catalogue lacks."""
    catalogue: Mapping[str, str] = plain_yaml.load((root / CATALOGUE).read_text(encoding="utf-8"))
    by_fault: dict[str, list[FaultTest]] = defaultdict(list)
    for test in fault_tests(root / "tests"):
        for fault in dict.fromkeys(test.faults):
            by_fault[fault].append(test)
    if unknown := sorted(by_fault.keys() - catalogue.keys()):
        tests = ", ".join(by_fault[fault][0].name for fault in unknown)
        raise ConfigError(
            f"{CATALOGUE} lacks {', '.join(unknown)}, named by {tests}", "Add the fault, or rename the test."
        )
    if untested := [fault for fault in catalogue if fault not in by_fault]:
        raise ConfigError(
            f"No test injects {', '.join(untested)} of {CATALOGUE}",
            'Name a test after the fault (test_i7_...), or mark one: @pytest.mark.fault("I7").',
        )
    parts = [INTRODUCTION]
    for tier, heading in HEADING.items():
        parts.append(f"\n## {heading}\n\n{COLUMNS}")
        for fault, text in catalogue.items():
            short = [test.name for test in by_fault[fault] if not test.full]
            further = [test.name for test in by_fault[fault] if test.full]
            if (tier == "make test") == bool(short):
                parts.append(f"| {fault} | {text} | {_cell(short or further)} | {_cell(further if short else [])} |\n")
    return "".join(parts)


def _cell(names: list[str]) -> str:
    return "<br>".join(f"`{name}`" for name in names)
