"""Old words do not come back as names: docs/glossary.md has the terms that replaced them.

A local name says what it holds: `delivery`, not `one`. Each source is parsed once for all of this.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from typer.main import get_command

from rempart.cli import app

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "include" / "rempart"
WORDS = frozenset(
    [
        "abreast",
        "pursuit",
        "journey",
        "journeys",
        "beside",
        "suspicion",
        "clearing",
        "i_know",
        "way_out",
        "own_turns",
        "own_turn",
        "said",
        "door",
        "doors",
        "lies",
        "liar",
        "stray",
        "strays",
        "sweep",
        "silence",
        "stamped",
        "wrapping",
        "turn",
        "turns",
        "restoring",
        "mirror",
        "mirrored",
        "guard",
    ]
)
"""Parts of any name: module, class, function, parameter, variable, attribute, option, key of a configuration file."""
ALLOWED = {
    "stray_quote": "what CSV parsers call a stray quotation mark",
    "mirror_of": "a registry's mirror, which is what registries call it",
    "_mirror": "writes the address of an image's mirror",
    "mirrored": "an image that is pulled from a mirror",
    "_MIRROR": "advice to mirror a database of advisories",
    "EgressGuard": "stops a connection: no process that restarts another",
    "PageGuard": "stops a listing whose pages do not end",
    "guard": "such a guard",
    "_guard": "such a guard",
    "guard_of": "what guards an open port",
    "turns": "how often a pipeline came next in a fair queue: no lease",
    "constant_liar": "Optuna's argument: trials that run keep the next ones away",
}
"""Names that have an old word in its ordinary sense, and that sense."""
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
    ]
)
CLASSES = frozenset(
    ("Finding", "Verdict", "Facts", "Check", "StampedLedger", "Pursuit", "Journey", "JourneyResult", "Beside")
)
BARE = frozenset(
    (
        "Asked",
        "Begun",
        "Brought",
        "Carried",
        "Cleared",
        "Ended",
        "Extended",
        "Found",
        "Gone",
        "Heard",
        "Held",
        "Judged",
        "Kept",
        "Known",
        "Left",
        "Listed",
        "Looked",
        "Mapped",
        "Measured",
        "Opened",
        "Said",
        "Shown",
        "Standing",
        "Stored",
        "Taken",
        "Told",
    )
)
"""Classes that several modules gave to different things: a class names the thing, as `StoredLink` does."""
VAGUE = frozenset(["one"])
"""Names of bindings that tell nothing."""


def sources(*more: str) -> list[Path]:
    folders = (PACKAGE, *(ROOT / name for name in ("dags", "plugins", *more)))
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


class Words(NamedTuple):
    """The names in a module, the names of its classes, of those at its top, and the names that it binds to a value."""

    names: frozenset[str]
    classes: frozenset[str]
    own_classes: frozenset[str]
    bound: frozenset[str]


@cache
def words(file: Path) -> Words:
    source = file.read_text(encoding="utf-8")
    try:
        module = ast.parse(source)
    except SystemError:  # Python 3.11 may miscount its depth where the collector runs in between (gh-106905)
        module = ast.parse(source)
    nodes = list(ast.walk(module))
    classes, own = (frozenset(n.name for n in some if isinstance(n, ast.ClassDef)) for some in (nodes, module.body))
    return Words(frozenset(_names(nodes)), classes, own, frozenset(_bound(nodes)))


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name


@cache
def old_parts(name: str) -> frozenset[str]:
    if name in ALLOWED:
        return frozenset()
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return frozenset(word for word in WORDS if f"_{word}_" in f"_{plain}_")


def properties(schema: object) -> Iterator[str]:
    """The names of the properties of a JSON schema, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for inner in schema.values():
            yield from properties(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from properties(inner)


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner)


@pytest.mark.parametrize(
    "name", ["Journey", "tell_journey", "i_know", "JOURNEY", "refuse_beside", "door-attacks", "Said", "ProcessGuard"]
)
def test_an_old_word_is_found_in_any_form_of_a_name(name: str) -> None:
    assert old_parts(name)


def test_no_name_is_an_old_word() -> None:
    """Names of tests are sentences, and sentences may use these words."""
    files = sources("bench", "tests")
    assert len(files) > 700
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in words(file).names
        if not name.startswith("test_") and old_parts(name)
    }
    assert found == set()


def test_every_allowed_name_is_still_there() -> None:
    there = {name for file in sources("bench", "tests") for name in words(file).names}
    assert set(ALLOWED) - there == set()


def test_no_module_and_no_folder_is_an_old_word() -> None:
    found = {
        str(file.relative_to(ROOT))
        for file in sources("bench", "tests")
        if {file.stem.removeprefix("test_"), file.parent.name} & MODULES or old_parts(file.stem)
    }
    assert found == set()


def test_no_dag_has_an_old_id() -> None:
    """`restore_point` remains the word for a point that a backup writes."""
    stems = {file.stem for file in (ROOT / "dags").glob("*.py")}
    assert len(stems) > 10
    assert stems & {"restore_point", "show_quarantine", "sweep_pods"} == set()


def test_no_key_of_a_configuration_file_is_an_old_word() -> None:
    """An Airflow pool is something else than a pool of GPUs."""
    schemas = [json.loads(file.read_text(encoding="utf-8")) for file in (ROOT / "docs/reference").glob("*.schema.json")]
    keys = {key for schema in schemas for key in properties(schema)}
    assert len(keys) > 100
    assert {key for key in keys if key == "pools" or old_parts(key)} == set()


def test_no_option_of_the_command_is_an_old_word() -> None:
    options = {option for command in commands(get_command(app)) for param in command.params for option in param.opts}
    options |= {str(command.name) for command in commands(get_command(app))}
    assert len(options) > 100
    assert {option for option in options if old_parts(option.strip("-"))} == set()


def test_no_target_of_make_is_an_old_word() -> None:
    targets = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets += [file.stem for file in (ROOT / "bench").glob("prove_*.py")]
    assert len(targets) > 30
    assert {target for target in targets if old_parts(target)} == set()


def test_no_template_loops_over_one() -> None:
    templates = list((PACKAGE / "web" / "templates").glob("*.html"))
    assert len(templates) >= 20
    code = {file.name: re.findall(r"\{[{%].*?[%}]\}", file.read_text(encoding="utf-8")) for file in templates}
    vague = {name for name, parts in code.items() if any(re.search(r"(?<![\w.])one(?!\w)", part) for part in parts)}
    assert vague == set()


def test_no_class_is_an_old_word() -> None:
    defined = {name.lstrip("_") for file in sources("bench", "tests") for name in words(file).classes}
    assert defined & (CLASSES | BARE) == set()


def test_a_class_name_is_not_given_to_three_things() -> None:
    homes: dict[str, set[str]] = {}
    for file in sources():
        for name in words(file).own_classes:
            homes.setdefault(name, set()).add(file.relative_to(ROOT).as_posix())
    assert len(homes) > 500
    assert {name: where for name, where in homes.items() if len(where) > 2} == {}


@pytest.mark.parametrize(
    "source",
    [
        "for one in (): pass",
        "one: int = 1",
        "def f(one): pass",
        "def one(): pass",
        "try: pass\nexcept OSError as one: pass",
        "match 1:\n case one: pass",
    ],
)
def test_a_vague_binding_is_found_in_each_form(source: str) -> None:
    assert set(_bound(ast.walk(ast.parse(source)))) & VAGUE


def test_a_binding_names_what_it_holds() -> None:
    bound = {file: words(file).bound for file in sources("bench", "tests")}
    assert sum(map(len, bound.values())) > 20_000
    left = {str(file.relative_to(ROOT)) for file, names in bound.items() if names & VAGUE}
    assert not left, f"Give {VAGUE} there the name of what it holds: {left}"
