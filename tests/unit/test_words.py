"""Old words do not come back as names: docs/glossary.md has the terms that took their place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "include" / "rempart"
WORDS = frozenset(
    ["abreast", "pursuit", "journey", "journeys", "beside", "suspicion", "clearing", "i_know", "way_out", "own_turns"]
)
"""Parts of any name: module, class, function, parameter, variable, attribute."""
MODULES = frozenset(
    [
        "abreast",
        "stamped",
        "kept",
        "pursuit",
        "journey_steps",
        "follow",
        "clear",
        "clearing",
        "silence",
        "suspicion",
        "way_out",
        "front",
        "guard",
        "healthy",
        "layout",
        "said",
        "mirror",
        "standby",
        "pairs",
        "wrapping",
        "copies",
        "restoring",
        "strays",
        "domains",
        "doors",
        "restore_point",
        "show_quarantine",
        "sweep_pods",
    ]
)
CLASSES = frozenset(
    ("Finding", "Verdict", "Facts", "Check", "StampedLedger", "Pursuit", "Journey", "JourneyResult", "Beside")
)


def sources() -> list[Path]:
    return [file for folder in (PACKAGE, ROOT / "dags", ROOT / "plugins") for file in sorted(folder.rglob("*.py"))]


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def old_parts(name: str) -> set[str]:
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return {word for word in WORDS if re.search(rf"(?:^|_){word}(?:_|$)", plain)}


@pytest.mark.parametrize("name", ["Journey", "tell_journey", "i_know", "JOURNEY", "refuse_beside"])
def test_an_old_word_is_found_in_any_form_of_a_name(name: str) -> None:
    assert old_parts(name)


def test_no_name_is_an_old_word() -> None:
    files = sources()
    assert len(files) > 300
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in names(ast.parse(file.read_text(encoding="utf-8")))
        if old_parts(name)
    }
    assert found == set()


def test_no_module_and_no_folder_is_an_old_word() -> None:
    found = {str(file.relative_to(ROOT)) for file in sources() if {file.stem, file.parent.name} & MODULES}
    assert found == set()


def test_no_class_is_an_old_word() -> None:
    defined = {
        node.name
        for file in sources()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert defined & CLASSES == set()
