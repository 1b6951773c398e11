"""Flags are the same everywhere: --json where something is listed or shown, --yes where something is lost for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.docsgen.commands import commands

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = dict(commands())
SHOWS = ("list", "show", "status", "active", "explain", "doctor", "verify", "preflight")
"""Last words of commands that tell something and change nothing."""
PLANS = (
    "backup prune",
    "backup repair",
    "backup restore",
    "keys destroy",
    "keys rewrap",
    "ledger remove-forged",
    "ledger repair",
    "ledger rotate-key",
    "pipeline erase",
    "pitr prune",
    "pitr restore",
    "quarantine accept",
    "restore",
    "site failback",
    "site failover",
    "stack upgrade",
    "users remove",
)
"""Commands that show a plan and change nothing without --yes."""


def options(path: str) -> dict[str, Any]:
    return {option: param for param in COMMANDS[path].params for option in param.opts}


@pytest.mark.parametrize("path", [path for path in COMMANDS if path.split()[-1] in SHOWS])
def test_what_lists_or_shows_prints_json(path: str) -> None:
    assert "JSON document" in options(path)["--json"].help


def test_whoever_loses_something_for_good_says_yes() -> None:
    confirmed = [path.removeprefix("rempart ") for path in COMMANDS if "--yes" in options(path)]
    assert set(PLANS) <= set(confirmed)
    for path in confirmed:
        assert options(f"rempart {path}")["--yes"].default is False
        assert "Without it" in options(f"rempart {path}")["--yes"].help


def test_a_flag_means_one_thing() -> None:
    for flag in ("--json", "--yes", "--dry-run", "--follow"):
        helps = [options(path)[flag] for path in COMMANDS if flag in options(path)]
        assert all(param.is_flag for param in helps), flag


@pytest.mark.parametrize("words", [["policy", "show"], ["policy", "explain", "primary"], ["stack", "preflight"]])
def test_a_document_is_all_that_json_prints(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    monkeypatch.setenv("REMPART_VAR", str(tmp_path / "var"))
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)


STARTED = """
import atexit, sys
sys.argv = ["rempart", *{words}]
heavy = {{"boto3", "mlflow", "pandas", "pyarrow", "psycopg", "kubernetes", "sqlalchemy", "airflow", "httpx", "obstore"}}
atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))
from rempart.cli import main
main()
"""
COMPLETION = {"_REMPART_COMPLETE": "complete_bash", "COMP_WORDS": "rempart site fail", "COMP_CWORD": "2"}


@pytest.mark.parametrize(
    ("words", "more", "shown"),
    [([], COMPLETION, ["failover", "failback"]), (["site", "--help"], {}, ["failover", "failback"])],
    ids=["completion", "help"],
)
def test_the_command_line_starts_without_heavy_imports(
    words: list[str], more: dict[str, str], shown: list[str]
) -> None:
    """Only its own code and typer are loaded: at each key a shell starts it, and each command imports what it uses."""
    code = STARTED.format(words=words)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **more}, capture_output=True, text=True, check=False
    )
    assert [word for word in done.stdout.split() if word in shown] == shown
    assert done.stderr.strip() == "[]"


def test_completion_is_offered() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--install-completion" in shown and "--show-completion" in shown
