"""The contributors' table names existing files, and at most two of the library for each thing."""

from __future__ import annotations

import re

from rempart.settings.config import project_root


def rows() -> dict[str, list[str]]:
    """Return the paths in the second column by the first, and those in the third below `tests ...`."""
    text = (project_root() / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("## I want to change")[2].partition("\n## ")[0].splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith(("| a", "| w"))
    ]
    return {name: re.findall(r"`((?:include|tests)/[^`]+)`", f"{files} {tests}") for name, files, tests in cells}


def test_each_thing_is_at_most_two_files_away_and_they_exist() -> None:
    found = rows()
    assert len(found) == 9
    for thing, paths in found.items():
        opened = [path for path in paths if path.startswith("include/")]
        assert 1 <= len(opened) <= 2, thing
        for path in paths:
            assert (project_root() / path.replace("OPERATOR", "scaleway")).exists(), f"{thing}: {path}"
