"""Only the entry of a flow takes the platform: it opens the needed parts once and passes them to its steps."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "include/rempart"
MOST = {
    "flows/distributed": 4,
    "flows/drill": 14,
    "flows/monitoring": 13,
    "flows/prediction_log": 14,
    "flows/restore": 20,
    "flows/retirement": 7,
    "flows/search": 13,
    "flows/serving": 5,
}
"""Rooms where steps take the platform, too, and how many do."""
MOST_ELSEWHERE = 124


def _is_platform(annotation: ast.expr | None) -> bool:
    return annotation is not None and "Platform" in ast.unparse(annotation)


def _with_platform(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield the functions with a parameter, and the classes with a field, of the type Platform."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if any(_is_platform(parameter.annotation) for parameter in parameters):
                yield node
        elif isinstance(node, ast.ClassDef) and any(
            isinstance(line, ast.AnnAssign) and _is_platform(line.annotation) for line in node.body
        ):
            yield node


def found_in(package: Path) -> dict[str, list[str]]:
    """Return the names of such functions and classes by room."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted(package.rglob("*.py")):
        room = file.parent.relative_to(package).as_posix()
        if "Platform" in (source := file.read_text(encoding="utf-8")):
            found[room] += (node.name for node in _with_platform(ast.parse(source)))
    return found


def test_only_the_entries_of_flows_take_the_platform() -> None:
    found = found_in(PACKAGE)
    assert {room: len(found[room]) for room in MOST if len(found[room]) > MOST[room]} == {}
    elsewhere = {room: names for room, names in found.items() if names and room not in MOST}
    assert sum(map(len, elsewhere.values())) <= MOST_ELSEWHERE, elsewhere


def test_no_private_function_takes_the_platform() -> None:
    elsewhere = {room: names for room, names in found_in(PACKAGE).items() if room not in MOST}
    assert [name for names in elsewhere.values() for name in names if name.startswith("_")] == []


def test_parameters_and_fields_are_counted(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "a.py").write_text(
        "def entry(platform: Platform): ...\ndef step(site: Site): ...\n"
        "class Run:\n    platform: Platform | None\n    def go(self, *, on: 'Platform'): ...\n"
    )
    assert found_in(tmp_path)["flows"] == ["entry", "Run", "go"]
