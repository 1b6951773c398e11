"""Names that live longer than the code: in a ledger, a database, a bucket or a rempart.yaml of yesterday.

`python -m tests.persisted_names` reads them from the sources and writes tests/persisted_names.txt. A unit test
compares, so a move or a rename that changes one of them shows as a change of that file. The keys of rempart.yaml and of
pipeline files are in docs/reference/*.schema.json, and DAGs with their parameters in docs/reference/dags.md: `make
lint` compares those.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "include" / "rempart"
KEPT = ROOT / "tests" / "persisted_names.txt"

OBJECT = re.compile(r"(?:[a-z0-9_.{}-]+/)+(?:[a-z0-9_.{}-]+)?")
OWN = re.compile(r"rempart[-._/:][\w./{}:-]+")
DOTTED = re.compile(r"rempart(?:\.[A-Za-z_]\w*)+")
VARIABLE = re.compile(r"REMPART_[A-Z0-9_{}]+")
MEDIA_TYPE = re.compile(r"(application|text)/.*")
DEFINED = re.compile(
    r"\bCREATE (?:OR REPLACE )?(TABLE|INDEX|VIEW|FUNCTION|SCHEMA|SEQUENCE) (?:IF NOT EXISTS )?([\w.{}]+)"
)
LOCK = re.compile(r"'([^']+)', 0\)\)")
NOT_STORED = ("web", "sites/probes")
"""Folders whose paths are addresses of pages, and samples that a probe deletes."""
LEASES = ("active-site", "replicate {} -> {}", "restore points at {}")
"""What a lease in table `lease` is called: a process of another version must find the same one."""
TEXTS = (
    "Makefile", "Dockerfile", "docker-compose.yml", "pyproject.toml", ".ci/run", "README.md", "SECURITY.md",
    "CONTRIBUTING.md", "requirements*.in", "requirements-torch.txt", "deploy/**/*", "docs/**/*.md", "plugins/*.py",
    "dags/*.py",
)  # fmt: skip


@cache
def sources() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}


def strings(tree: ast.AST) -> Iterator[str]:
    """The strings of a module but its docstrings; what an f-string puts in is `{}`."""
    nodes = list(ast.walk(tree))
    skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


@cache
def strings_by_file() -> dict[Path, tuple[str, ...]]:
    return {file: tuple(strings(tree)) for file, tree in sources().items()}


@cache
def every_string() -> frozenset[str]:
    return frozenset(text for found in strings_by_file().values() for text in found)


def resolves(dotted: str) -> bool:
    """Whether a dotted path names a module of the library, or something that one defines or imports."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        where = PACKAGE.parent.joinpath(*parts[:size])
        file = where / "__init__.py" if where.is_dir() else where.with_suffix(".py")
        if file in sources():
            rest = parts[size:]
            return not rest or (len(rest) <= 2 and rest[0] in defined(sources()[file]))
    return False


def defined(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {name.asname or name.name for name in node.names}
    return found


def dotted_strings() -> set[str]:
    """Strings of the library that name its code: commands, hooks of Airflow and Feast, loggers."""
    return {text for text in every_string() if DOTTED.fullmatch(text) and resolves(text)}


def texts() -> Iterator[tuple[str, str]]:
    """Every text file that names code: its path, and its text."""
    for pattern in TEXTS:
        for file in sorted(ROOT.glob(pattern)):
            if file.is_file():
                yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8", errors="replace")


@cache
def paths_in_texts() -> frozenset[tuple[str, str]]:
    """(who names it, path): code that documents, builds and the library name, and documents that the library names.

    `NAME` in a path stands for any name: such a path counts up to the folder before it.
    """
    code, document = r"include/rempart(?:/[\w.]+)*", r"docs/[\w./-]+\.md"
    found = {(name, path) for name, text in texts() for path in re.findall(code, text)}
    for file, strings in strings_by_file().items():
        found |= {(file.stem, path) for text in strings for path in re.findall(f"{code}|{document}", text)}
    return frozenset((name, path.partition("/NAME")[0].rstrip(".")) for name, path in found)


@cache
def dotted_in_texts() -> frozenset[str]:
    return frozenset(found for _, text in texts() for found in re.findall(rf"(?<![\w./-]){DOTTED.pattern}", text))


def kinds() -> set[str]:
    """The kinds of evidence: the strings of `Kind = Literal[...]` in the ledger's room."""
    found = set()
    for file, tree in sources().items():
        for node in tree.body if file.is_relative_to(PACKAGE / "ledger") else ():
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "Kind":
                found |= set(strings(node.value))
    return found


def buckets() -> set[str]:
    """The buckets and their default names: fields of class `Buckets`."""
    found = set()
    for tree in sources().values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == "Buckets":
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value:
                        found.add(f"{field.target.id} = {next(strings(field.value))}")
    return found


def relations() -> set[str]:
    files = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "include/sql/platform").glob("*.sql"))]
    found = {" ".join(found) for text in [*files, *every_string()] for found in DEFINED.findall(text)}
    return {relation for relation in found if "{" not in relation}


def objects() -> set[str]:
    found = {
        text
        for file, texts in strings_by_file().items()
        for text in texts
        if OBJECT.fullmatch(text) and not str(file.relative_to(PACKAGE)).startswith(NOT_STORED)
    }
    return {
        text
        for text in found
        if not MEDIA_TYPE.fullmatch(text) and not OWN.fullmatch(text) and not text.endswith(".py")
        and not text.startswith(("docs/", "./", "include/", "{}/")) and re.search("[a-z]", text)
    }  # fmt: skip


def own_names() -> set[str]:
    found = {text for text in every_string() if OWN.fullmatch(text)}
    return found - dotted_strings()


def entry_points() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    return {f"{group}: {name}" for group, points in groups.items() for name in points}


@cache
def sections() -> dict[str, set[str]]:
    return {
        "kinds of evidence": kinds(),
        "buckets": buckets(),
        "tables, views and indexes": relations(),
        "advisory locks": {found for text in every_string() for found in LOCK.findall(text)},
        "leases": set(LEASES) & set(every_string()),
        "object names, labels of Kubernetes and ids of findings": objects(),
        "names with our prefix: metrics, labels, tags, files, loggers, programs": own_names(),
        "environment variables": {text for text in every_string() if VARIABLE.fullmatch(text)},
        "dotted names in documents that are no code": {name for name in dotted_in_texts() if not resolves(name)},
        "DAG files": {file.stem for file in (ROOT / "dags").glob("*.py")},
        "entry points": entry_points(),
    }


def written() -> str:
    """The inventory as its file holds it."""
    return "\n".join(
        f"[{title}]\n" + "".join(f"{name}\n" for name in sorted(names)) for title, names in sections().items()
    )


if __name__ == "__main__":
    KEPT.write_text(written(), encoding="utf-8")
