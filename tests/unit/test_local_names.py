"""A local name says what it holds: `delivery`, not `one`."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VAGUE = {"one": 0}
"""How many bindings of a name that tells nothing may be left. Lower it; never raise it."""


def _bound(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name


def test_a_binding_names_what_it_holds() -> None:
    counts: Counter[str] = Counter()
    for folder in ("include", "dags", "plugins", "tests", "bench"):
        for file in (ROOT / folder).rglob("*.py"):
            counts.update(_bound(ast.parse(file.read_text(encoding="utf-8"))))
    assert counts.total() > 30_000
    left = {name: counts[name] for name, most in VAGUE.items() if counts[name] > most}
    assert not left, f"Give them the name of what they hold: {left}"
