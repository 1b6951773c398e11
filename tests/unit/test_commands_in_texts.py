"""The commands that texts name exist: documentation, messages, deployment files, benches and tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rempart.cli import app

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("include", "dags", "plugins", "deploy", "bench", "tests", "docs", ".ci")
WRONG = ROOT / "docs/reference/wrong-inputs.md"
"""The page of wrong inputs, old commands among them."""
OLD = (
    "init",
    "logs",
    "preflight",
    "password",
    "prepare",
    "upgrade",
    "new",
    "erase",
    "doctor",
    "active",
    "replicate",
    "verify-replica",
    "failover",
    "failback",
    "points",
    "drill",
    "sbom",
    "classification",
)
"""What stood at the top until commands got groups."""
BETWEEN = r"(?:\s+(?:#\s+|//\s+)?|\s*[\"'],?\s+f?[\"']|\s*,\s*)"
"""Between two words: blanks, a line break in a comment, the quotation marks of a list or of a text in two lines."""
MENTION = re.compile(rf"(?<![\w.-])rempart(?:\.cli)?{BETWEEN}(?P<first>[a-z][a-z-]+)(?![\w.-]*[\w])")
COMMAND = re.compile(r"(?:`|\$ |bin/|run --rm cli )rempart[ ](?P<words>[a-z][a-z-]*(?: [a-z][a-z-]*)?)(?![\w.-]*[\w(])")


def texts() -> Iterator[tuple[str, str]]:
    files = [
        file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*")) if "__pycache__" not in file.parts
    ]
    for file in [*files, *(file for file in sorted(ROOT.iterdir()) if not file.name.startswith("."))]:
        if file.is_file() and file not in (Path(__file__), WRONG):
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a picture
                continue
            yield file.relative_to(ROOT).as_posix(), text


def old(text: str) -> list[str]:
    found = [match for match in MENTION.finditer(text) if match["first"] in OLD]
    return [match["first"] for match in found if not text[: match.start()].endswith('tags=["')]  # a DAG's tags


@cache
def commands() -> dict[str, Any]:
    return dict(vars(get_command(app))["commands"])


def unknown(text: str) -> set[str]:
    """The commands in a text that do not exist."""
    top = commands()
    found = set()
    for match in COMMAND.finditer(text.replace("rempart egress refused", "")):  # what a log says
        first, _, second = match["words"].partition(" ")
        inner = vars(top[first]).get("commands") if first in top else {}
        if first not in top or (inner and second and second not in inner):
            found.add(match["words"])
    return found


@pytest.mark.parametrize(
    "text",
    [
        "`rempart init`",
        "then rempart\n    # points repair",
        '[python, "-m", "rempart.cli", "erase", name]',
        "command: [rempart, prepare]",
        'f"{found}: run `rempart "\n    "doctor site`"',
        "rempart doctor\n",
    ],
)
def test_an_old_command_is_found_in_each_form(text: str) -> None:
    assert old(text)


def test_no_text_names_an_old_command() -> None:
    read = list(texts())
    assert len(read) > 1000
    assert {name: found for name, text in read if (found := old(text))} == {}


def test_a_command_that_does_not_exist_is_found() -> None:
    text = (
        "Run `rempart ledger shew`, `.venv/bin/rempart pipline check N`, `rempart watch --once` or `rempart audit run`."
    )
    assert unknown(text) == {"ledger shew", "pipline check"}


def test_every_command_in_a_text_exists() -> None:
    assert {name: found for name, text in texts() if (found := unknown(text))} == {}
