"""Each protection that the threat model and SECURITY.md claim names an existing test."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/threat-model.md", "SECURITY.md")
_HEADER = re.compile(r"^\| [^|]+ \| shown by \|$")
_PROOF = re.compile(r"`(?P<path>tests/[\w/]+\.py)::(?P<name>\w+)`|`make (?P<target>prove-[\w-]+)`")


def claims(page: str) -> list[tuple[str, str]]:
    """Every row (claim, shown by) of the page's tables of protections."""
    rows: list[tuple[str, str]] = []
    inside = False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if _HEADER.match(line):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            claim, _, proof = line.strip("| ").rpartition(" | ")
            rows.append((claim, proof))
    return rows


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_names_a_test_or_proof_that_exists(page: str) -> None:
    rows = claims(page)
    assert rows, f"{page} has no table with the column 'shown by'"
    for claim, shown in rows:
        proofs = list(_PROOF.finditer(shown))
        assert claim and proofs, f"{page}: no proof beside: {claim or shown}"
        for proof in proofs:
            if target := proof["target"]:
                module = ROOT / "bench" / f"{target.replace('-', '_')}.py"
                assert module.is_file(), f"{page}: `make {target}` has no module {module.name}"
            else:
                assert (ROOT / proof["path"]).is_file(), f"{page}: {proof['path']} does not exist"
                assert proof["name"] in functions(proof["path"]), f"{page}: {proof[0]} does not exist"
