"""`rempart model card` writes where a project ignores files, unless a file is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.cli.predictions import card
from rempart.deployment.setup import paths
from tests.unit.models.card import carded


@pytest.mark.parametrize(
    ("words", "file"), [((), "var/model-cards/stays-3.html"), (("--out", "shown/card.html"), "shown/card.html")]
)
def test_the_project_s_folder_gets_no_file_that_nobody_named(
    words: tuple[str, ...], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = dataclasses.replace(paths.current(), var=tmp_path / "var")
    monkeypatch.setattr(paths, "current", lambda: stack)
    monkeypatch.setattr(card, "gathered", lambda name, version: carded.card())
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["model", "card", "stays", "3", *words], catch_exceptions=False)
    assert f"{file}: model card of stays version 3" in answer.output.replace("\n", "")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")] == [file]
