"""The library logs, the command line prints (docs/adr/0080)."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rempart.cli import rendering
from rempart.settings.config import project_root

ROOT = project_root()
FILES = [
    file
    for folder in ("include", "dags", "plugins")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if (ROOT / "include/rempart/cli") not in file.parents
]
EVENTS = logging.getLogger("rempart.flows.test")


def names(file: Path) -> Iterator[tuple[int, str]]:
    """Names and parameters of a file, with their lines; none of a file without the words."""
    text = file.read_text("utf-8")
    for node in ast.walk(ast.parse(text)) if re.search(r"\b(print|say)\b", text) else ():
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.lineno, str(node.arg)


def test_nothing_but_the_command_line_prints_or_takes_somebody_to_tell() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}" for file in FILES for line, name in names(file) if name in ("print", "say")
    ]
    assert found == []


def test_a_module_has_one_logger_of_its_own_name() -> None:
    calls = {
        " ".join(line.split())
        for file in FILES
        for line in file.read_text("utf-8").splitlines()
        if "logging.getLogger(" in line
    }
    quietened = {  # what they log may hold values, or addresses with their queries
        'logger = logging.getLogger("great_expectations")',
        'logging.getLogger("httpx").setLevel(logging.WARNING) # it logs addresses with their queries',
        'logging.getLogger("sqlglot").setLevel(logging.ERROR)',
    }
    assert calls <= {"logger = logging.getLogger(__name__)", *quietened}, calls


def test_events_are_shown_alone_and_warnings_by_name_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering.on_terminal():
        EVENTS.info("copied %d objects", 3)
        EVENTS.debug("a detail")
        EVENTS.warning("the replica is damaged")
        logging.getLogger("rempart.deployment.embedded.lifecycle").info("mlflow: stopped")
        logging.getLogger("a.library").info("chatter")
    told = capsys.readouterr()
    assert told.out == "copied 3 objects\n[   0.0 s] mlflow: stopped\n"
    assert told.err == "warning: the replica is damaged\n"


def test_with_json_events_stay_away_and_the_next_command_shows_them_again(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering.on_terminal():
        rendering.warnings_only()
        EVENTS.info("copied")
        EVENTS.warning("a site does not answer")
    with rendering.on_terminal():
        EVENTS.info("again")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("again\n", "warning: a site does not answer\n")
    assert not [handler for handler in rendering.ROOT.handlers if isinstance(handler, rendering.Terminal)]


@pytest.mark.parametrize(("no_color", "shown"), [("", "\033[33mwarning:\033[0m late\n"), ("1", "warning: late\n")])
def test_a_terminal_has_colours_unless_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_color: str, shown: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with rendering.on_terminal():
        EVENTS.warning("late")
    assert capsys.readouterr().err == shown
