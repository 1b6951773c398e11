"""The imports of the library: no file imports itself through others, and no room (package) does."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import rempart
from rempart.flows.distributed import job
from rempart.spark import order

PACKAGE = Path(rempart.__file__).parent
ROOT = PACKAGE.parents[1]
MOST_MODULES, MOST_LINES = 15, 400


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    names = {
        file: ".".join((package.name, *file.relative_to(package).with_suffix("").parts)) for file in files(package)
    }
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def files(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


class Imports(NamedTuple):
    """The imports of a module, those in functions and for type checks included, and the names in `__all__`."""

    statements: tuple[ast.Import | ast.ImportFrom, ...]
    offered: frozenset[str]


def imports(file: Path) -> Imports:
    return _imports(file.read_text(encoding="utf-8"))


@cache
def _imports(source: str) -> Imports:
    tree = ast.parse(source)
    statements = tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    offered = {
        text.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(at, ast.Name) and at.id == "__all__" for at in node.targets)
        for text in ast.walk(node.value)
        if isinstance(text, ast.Constant)
    }
    return Imports(statements, frozenset(offered))


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The known modules that a file imports."""
    for node in imports(file).statements:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        else:
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            for name in node.names:
                found = f"{node.module}.{name.name}"
                if found in known or node.module in known:
                    yield found if found in known else str(node.module)


def graph(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    return {name: set(imported(file, known)) - {name} for name, file in known.items()}


def rooms(found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph between the packages and modules right below `rempart`."""
    merged: dict[str, set[str]] = {}
    for name, others in found.items():
        room = ".".join(name.split(".")[:2])
        merged.setdefault(room, set()).update(".".join(other.split(".")[:2]) for other in others)
    return {room: others - {room} for room, others in merged.items()}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as found:
        return list(found.args[1])
    return []


def borrowed(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The names that a file takes from a known module which has only imported them, and does not offer them on."""
    for node in imports(file).statements:
        if isinstance(node, ast.ImportFrom) and node.module in known:
            for name in node.names:
                if f"{node.module}.{name.name}" not in known and name.name in only_imported(known[str(node.module)]):
                    yield f"{file.name}:{node.lineno}: {node.module}.{name.name}"


def only_imported(file: Path) -> frozenset[str]:
    """The names that a module imports and does not offer: neither in `__all__` nor as `import x as x`."""
    names = {
        alias.asname or alias.name.partition(".")[0]
        for node in imports(file).statements
        for alias in node.names
        if alias.asname != alias.name
    }
    return frozenset(names) - imports(file).offered


@pytest.fixture(scope="module")
def library() -> dict[str, set[str]]:
    return graph(PACKAGE)


def test_no_file_imports_itself_by_way_of_others(library: dict[str, set[str]]) -> None:
    assert len(library) > 400
    assert cycle(library) == []


def test_a_name_is_imported_from_the_module_that_defines_it() -> None:
    known = modules(PACKAGE)
    ours = [*known.values(), *files(ROOT / "dags"), *files(ROOT / "plugins")]
    assert len(ours) > 400 and [name for file in ours for name in borrowed(file, known)] == []


def test_a_borrowed_name_is_found(tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(
        "import os\nfrom json import dumps, loads, load as load\n__all__ = ['loads']\nX = 1\n"
    )
    (package / "b.py").write_text("from made import a\nfrom made.a import X, dumps, load, loads, os\n")
    known = modules(package)
    assert list(borrowed(package / "b.py", known)) == ["b.py:2: made.a.dumps", "b.py:2: made.a.os"]


def test_no_room_imports_itself_by_way_of_others(library: dict[str, set[str]]) -> None:
    assert cycle(rooms(library)) == []


def reached(found: dict[str, set[str]], starts: set[str]) -> set[str]:
    """The modules that these import, and what those import."""
    seen, waiting = set[str](), set(starts)
    while waiting:
        seen |= waiting
        waiting = set[str]().union(*(found[name] for name in waiting)) - seen
    return seen


def test_the_version_of_a_spark_job_s_code_covers_every_module_that_it_imports(library: dict[str, set[str]]) -> None:
    known = modules(PACKAGE)
    covered = [PACKAGE / name for name in order.CODE]
    assert [place.name for place in covered if not place.exists()] == []
    used = reached(library, {job.__name__, *job.WORK.values()})
    files = {known[name] for name in used if known[name].stem != "__init__"}
    assert len(files) > 150
    assert {file for file in files if not {file, *file.parents} & set(covered)} == set()


def test_a_room_holds_at_most_fifteen_modules() -> None:
    held = Counter(file.parent.relative_to(PACKAGE).as_posix() for file in files(PACKAGE) if file.stem != "__init__")
    assert {room: modules for room, modules in held.items() if modules > MOST_MODULES} == {}


def test_a_module_has_at_most_four_hundred_lines() -> None:
    modules = [file for folder in ("include", "dags", "plugins", "tests", "bench") for file in files(ROOT / folder)]
    lines = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in modules}
    assert {file: count for file, count in lines.items() if count > MOST_LINES} == {}


def test_a_cycle_is_found_also_where_an_import_is_inside_a_function_or_for_types_only(tmp_path: Path) -> None:
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "room/__init__.py").touch()
    (package / "room/a.py").write_text("def f():\n    from house.room import b\n")
    (package / "room/b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.c import X\n"
    )
    (package / "c.py").write_text("X = 1\n")
    assert cycle(graph(package)) == []
    (package / "c.py").write_text("import house.room.a\nX = 1\n")
    assert set(cycle(graph(package))) == {"house.room.a", "house.room.b", "house.c"}
