"""Only the entry of a flow takes the platform: it opens what is needed once, and its steps take that."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "include/rempart"
MOST = {"flows/drill": 14, "flows/restore": 26}
"""Rooms where steps take the platform, too."""
MOST_ELSEWHERE = 85


def _is_platform(annotation: ast.expr | None) -> bool:
    return annotation is not None and "Platform" in ast.unparse(annotation)


def _with_platform(tree: ast.Module) -> Iterator[ast.AST]:
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


def counted() -> Counter[str]:
    """Return the number of such functions and classes by room."""
    found: Counter[str] = Counter()
    for file in PACKAGE.rglob("*.py"):
        found[file.parent.relative_to(PACKAGE).as_posix()] += len(list(_with_platform(ast.parse(file.read_text()))))
    return found


def test_only_the_entries_of_flows_take_the_platform() -> None:
    found = counted()
    assert {room: found[room] for room in MOST if found[room] > MOST[room]} == {}
    elsewhere = {room: number for room, number in found.items() if number and room not in MOST}
    assert sum(elsewhere.values()) <= MOST_ELSEWHERE, elsewhere
