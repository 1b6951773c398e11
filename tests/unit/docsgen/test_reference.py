"""The generated reference is up to date, and its JSON Schemas accept what the models accept."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from rempart.docsgen import reference
from rempart.settings.config import project_root


def plain(node: Any) -> Any:
    """YAML as JSON would hold it: dates as text."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node.isoformat() if isinstance(node, date) else node


def test_the_pages_are_up_to_date() -> None:
    assert reference.main(["--check"]) == 0


def test_a_stale_page_is_told_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("rempart.yaml", "docs/site"):
        (tmp_path / name).symlink_to(project_root() / name)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.setattr(reference, "pages", lambda root: {"configuration.md": reference.configuration_page(root)})
    assert reference.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize(
    "file", sorted((project_root() / "include" / "pipelines").glob("*.yaml")), ids=lambda f: f.stem
)
def test_shipped_pipelines_are_valid(file: Path) -> None:
    Draft202012Validator.check_schema(reference.pipeline_schema())
    Draft202012Validator(reference.pipeline_schema()).validate(plain(yaml.safe_load(file.read_text())))


def test_unknown_keys_and_wrong_durations_are_not() -> None:
    schema = Draft202012Validator(reference.pipeline_schema())
    shipped = plain(yaml.safe_load((project_root() / "include/pipelines/hotel_bookings.yaml").read_text()))
    assert not schema.is_valid({**shipped, "colour": "red"})
    assert not schema.is_valid({**shipped, "trainer": {"timeout": "soon"}})
    assert schema.is_valid({**shipped, "trainer": {"timeout": "15m"}})
