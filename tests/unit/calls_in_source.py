"""Calls of `rempart` in Python sources: the lists of words that a process is started with.

Three forms are found: a list or a call whose words follow `rempart`, `rempart.cli` or a path that ends in `/rempart`;
a call of a function that passes its last arguments on to such a list; and a list that spreads a variable with known
words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "..."
"""A word that only the running program knows."""
PROGRAM = re.compile(r"(?:.*/)?rempart(?:\.cli)?")


@dataclass(frozen=True)
class Call:
    """The words of a call, as far as the source tells them, and the line."""

    line: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Passing:
    """A function that runs `rempart` with the words that it is given after its first `before` arguments."""

    before: int
    first: tuple[str, ...]


def calls(file: Path) -> Iterator[Call]:
    """Yield each call of `rempart` in a source."""
    tree = parsed(file)
    functions = {**_imported(tree), **passing(tree)}
    for scope, node in _scoped(tree):
        for words in _starts(node):
            if found := tuple(_words(words, scope)):
                yield Call(node.lineno, found)
        function = functions.get(_name(node.func)) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Call) and function and not _spreads(node.args[: function.before]):
            yield Call(node.lineno, (*function.first, *_words(node.args[function.before :], scope)))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@cache
def passing(tree: ast.Module) -> dict[str, Passing]:
    """The functions of a source that run `rempart` with their last arguments, also through each other."""
    found: dict[str, Passing] = {}
    defined = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.args.vararg]
    for _ in range(2):
        for function in defined:
            given = function.args.vararg.arg if function.args.vararg else ""
            before = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
            for node in ast.walk(function):
                lists = [(list(words), ()) for words in _starts(node)]
                if isinstance(node, ast.Call) and (inner := found.get(_name(node.func))) and function.name not in found:
                    lists.append((node.args[inner.before :], inner.first))
                for words, first in lists:
                    if words and isinstance(words[-1], ast.Starred) and _name(words[-1].value) == given:
                        found.setdefault(
                            function.name, Passing(len(before), (*first, *(_word(word) for word in words[:-1])))
                        )
    return found


def _imported(tree: ast.Module) -> dict[str, Passing]:
    """The same functions of the benches and tests that a source imports them from."""
    found = {}
    for node in ast.walk(tree):
        file = ROOT / f"{(node.module or '').replace('.', '/')}.py" if isinstance(node, ast.ImportFrom) else None
        if file and isinstance(node, ast.ImportFrom) and file.is_file():
            theirs = passing(parsed(file))
            found.update({name.asname or name.name: theirs[name.name] for name in node.names if name.name in theirs})
    return found


def _scoped(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.expr]]:
    """Yield each expression with the function around it. Tags of DAGs are no commands."""
    waiting: list[tuple[ast.AST, ast.AST]] = [(tree, tree)]
    while waiting:
        scope, node = waiting.pop()
        if isinstance(node, ast.keyword) and node.arg == "tags":
            continue
        if isinstance(node, ast.expr):
            yield scope, node
        inner = node if isinstance(node, ast.FunctionDef) else scope
        waiting += [(inner, child) for child in ast.iter_child_nodes(node)]


@cache
def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """The lists that a function gives a name to, once."""
    found: dict[str, list[list[ast.expr]]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, (ast.List, ast.Tuple)):
            found.setdefault(_name(node.targets[0]), []).append(node.value.elts)
    return {name: lists[0] for name, lists in found.items() if name and len(lists) == 1}


def _starts(node: ast.AST) -> Iterator[Sequence[ast.expr]]:
    """Yield what follows the program's name in a list or in a call's arguments."""
    if isinstance(node, (ast.List, ast.Tuple)):
        words = node.elts
    elif isinstance(node, ast.Call):
        words = node.args
    else:
        return
    for at, word in enumerate(words):
        text = _word(word)
        if PROGRAM.fullmatch(text) or _name(word) == "REMPART":
            yield words[at + 1 :]
            return


def _words(words: Sequence[ast.expr], scope: ast.AST) -> Iterator[str]:
    for word in words:
        if not isinstance(word, ast.Starred):
            yield _word(word)
        elif (inner := _assigned(scope).get(_name(word.value))) and not _spreads(inner):
            yield from map(_word, inner)
        else:
            yield UNKNOWN
            return


def _spreads(words: Sequence[ast.expr]) -> bool:
    return any(isinstance(word, ast.Starred) for word in words)


def _word(node: ast.expr) -> str:
    """The text of a word; of a text with values in it, `...` and its end."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[-1], ast.Constant):
        return UNKNOWN + str(node.values[-1].value)
    return UNKNOWN


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
