"""The examples of docs/how-to/where-is-your-data.md, and a project that is made of their files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import RempartError
from rempart.flows.ingestion.extract import ExtractResult, extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings import config, operators, pipelines
from rempart.settings.schema import read_yaml
from tests.derived_project import NOW
from tests.tutorial_pages import unlike

ROOT = config.project_root()
PAGE = (ROOT / "docs" / "how-to" / "where-is-your-data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BASE = "The same in every example"
PIPELINE = "include/pipelines/readings.yaml"


def texts(title: str, language: str, begins: str = "") -> list[str]:
    """The blocks of a section in a language whose first line begins with a comment."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[title], re.MULTILINE | re.DOTALL)
    return [text for text in blocks if text.lstrip("#- ").startswith(begins)]


def seen(title: str, mark: str) -> str:
    """Return the lines that the page shows of a failure."""
    (found,) = re.findall(rf"^<!-- seen: {mark} -->\n```text\n(.*?)^```$", SECTIONS[title], re.MULTILINE | re.DOTALL)
    return str(found)


def as_shown(error: BaseException | None, shown: str) -> None:
    """Check that an error says what the page says, and gives a remedy."""
    assert isinstance(error, RempartError) and error.hint, error
    assert unlike(error.what, shown) is None, error.what


@dataclass
class Project:
    """A project of its own, with the files of the page. `swaps`: texts of the page that name the reader's servers."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    make: Callable[[], Platform]
    swaps: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def use(self, title: str, *, number: int = 0, without: str = "") -> None:
        """Write what a section shows: rempart.yaml, files and connections. `number`: which of its pipeline files."""
        shipped = operators.merge(read_yaml(ROOT / "rempart.yaml"), self.settings)
        for text in texts(title, "yaml", "rempart.yaml"):
            parts = {name: part for name, part in yaml.safe_load(self.here(text)).items() if name != without}
            shipped = operators.merge(shipped, parts)
        (self.folder / "rempart.yaml").write_text(yaml.safe_dump(shipped, sort_keys=False))
        base = yaml.safe_load(texts(BASE, "yaml", PIPELINE)[0])
        for i, text in enumerate(texts(title, "yaml", "include/pipelines/")):
            file = self.folder / text.splitlines()[0].lstrip("# ")
            change = yaml.safe_load(self.here(text))
            if i == number or "name" in change:
                whole = change if "name" in change else {**base, **change}
                file.write_text(yaml.safe_dump(whole, sort_keys=False))
        for text in texts(title, "sql", "include/sql/"):
            (self.folder / text.splitlines()[0].lstrip("- ")).write_text(text)
        for text in texts(title, "sh", "export"):
            for name, value in re.findall(r"^export (\w+)='(.*?)'$", self.here(text), re.MULTILINE | re.DOTALL):
                self.monkeypatch.setenv(name, value)
        self.platform = replace(
            self.make(), clock=lambda: NOW, connections=config.environment_connections, config=config.load()
        )

    def here(self, text: str) -> str:
        """Return a text of the page with the test's servers in it."""
        for there, here in self.swaps.items():
            text = text.replace(there, here)
        return text

    def command(self, *arguments: str) -> str:
        """Run a command. Raises its error."""
        done = CliRunner().invoke(app, arguments)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def run(self, name: str = "readings") -> ExtractResult:
        """Check a pipeline by the command of the page, then run the two tasks of its DAG `ingest_NAME`."""
        assert f"pipeline {name}: valid" in self.command("pipeline", "check", name)
        spec = pipelines.named(name)
        taken = extract(self.platform, spec)
        ingest(self.platform, spec)
        return taken

    def rows(self, name: str = "readings") -> list[Mapping[str, Any]]:
        """The rows of the current snapshot."""
        site = self.platform.sites["primary"]
        current = snapshots.current(site, "lake", name)
        return snapshots.load_table(site, "lake", current).to_pylist() if current else []

    def counted(self) -> list[tuple[str, str, float]]:
        return sorted((row["meter"], row["day"].isoformat(), row["kwh"]) for row in self.rows())
