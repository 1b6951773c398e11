"""docs/how-to/add-a-pipeline.md, executed: its `python` and `sh` blocks in order, in a project of its own.

The `yaml` block is written to the file that its first line names; a `text` block after a `python` one is its output.
Python blocks run in this process, on a platform in memory; `sh` blocks run as a user's shell would. Of the `console`
blocks, which need the running stack, the delivery runs on the platform in memory, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from rempart.cli.groups.data.pipeline import deliver_files
from rempart.errors import PipelineError
from rempart.flows.shared import platform as platforms
from rempart.ingestion import snapshots
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config as configuration
from rempart.settings import pipeline, pipelines
from rempart.settings.config import Connection, project_root
from tests.memory_site import MemorySite

PAGE = project_root() / "docs" / "how-to" / "add-a-pipeline.md"


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the shipped configuration and no pipeline, as the working directory."""
    (tmp_path / "include" / "pipelines").mkdir(parents=True)
    shutil.copy(project_root() / "rempart.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.setenv("REMPART_VAR", str(tmp_path / "var"))
    return tmp_path


def no_connection(name: str) -> Connection:
    raise AssertionError(f"the page asked for connection {name}")


@pytest.fixture
def site(project: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySite:
    """The active site in memory, reached by `open_platform` as on the page."""
    made = MemorySite("primary")
    config = configuration.load()
    for bucket in (config.buckets.landing, config.buckets.lake):
        made.ensure_bucket(bucket, versioned=True)
    platform = platforms.Platform(
        config,
        no_connection,
        lambda: datetime(2026, 1, 5, tzinfo=UTC),
        {config.active_site: made},
        MemoryLedger(),
        MemoryContinuity(),
    )
    monkeypatch.setattr(platforms, "open_platform", lambda: platform)
    return made


def test_the_page_does_what_it_says(project: Path, site: MemorySite, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    found = blocks()
    assert {language for language, _ in found} == {"python", "sh", "yaml", "console", "text"}
    before = ""
    for language, text in found:
        if language == "python":
            capsys.readouterr()
            exec(compile(text, str(PAGE), "exec"), {"__name__": "page"})  # noqa: S102 - our own page
        elif language == "sh":
            done = subprocess.run(["sh", "-ec", text], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            if "pipeline new" in text:
                assert isinstance(pipelines.named("energy_use"), pipeline.Pipeline), "the draft is valid as it is"
                assert "caretaker" not in (project / "include" / "pipelines" / "energy_use.yaml").read_text()
        elif language == "yaml":
            name = text.splitlines()[0].removeprefix("# ")
            (project / name).write_text(text, encoding="utf-8")
        elif language == "console" and text.startswith("rempart pipeline deliver "):
            capsys.readouterr()
            deliver_files(text.split()[3], [Path(name) for name in text.split()[4:]])
            before = "python"
            continue
        elif language == "text" and before == "python":
            assert capsys.readouterr().out == text
        before = language
    snapshot = snapshots.current(site, "lake", "energy_use")
    assert snapshot is not None
    assert (snapshot.rows, len(snapshot.parts)) == (2919, 24)


def test_the_page_shows_the_message_that_a_leak_gets(project: Path) -> None:
    text = next(text for language, text in blocks() if language == "yaml")
    message = next(text for language, text in blocks() if language == "text" and "known only" in text)
    data = yaml.safe_load(text)
    data["features"]["own"]["columns"].append("measured_celsius")
    file = project / "include" / "pipelines" / "energy_use.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(PipelineError) as error:
        pipelines.load(file)
    assert message.strip() in error.value.what
