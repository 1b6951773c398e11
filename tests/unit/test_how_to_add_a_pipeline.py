"""docs/how-to/add-a-pipeline.md and pipeline-by-example.md, executed: their blocks in order, in a project of its own.

The `yaml` block is written to the file that its first line names; a `text` block after a `python` one is its output.
The first page speaks of a file of its reader's: `permits.csv` is made here.
Python blocks run in this process, on a platform in memory, and so do the commands of `sh` blocks. Of the `console`
blocks, which need the running stack, the delivery runs on the platform in memory, too.
"""

from __future__ import annotations

import random
import re
import shlex
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
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
from tests.tutorial_pages import unlike

HOW_TO = project_root() / "docs" / "how-to"
FIRST, EXAMPLE = HOW_TO / "add-a-pipeline.md", HOW_TO / "pipeline-by-example.md"


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


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


def typed(commands: str) -> str:
    """The output of `rempart` commands that must succeed."""
    shown = ""
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        assert program == "rempart", "a shell would be needed"
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        shown += done.stdout
    return shown


def permits(file: Path) -> None:
    """1,200 applications for building permits, with the separator, decimals, dates and headers of an office."""
    draw = random.Random(5)  # noqa: S311 - made up rows
    rows = ["Permit No;Filed on;District;Kind of work;Floor area (m2);Listed building;Remarks;Days to decision"]
    for number in range(1200):
        filed = date(2024, 1, 1) + timedelta(days=number // 2)
        kind, days = draw.choice([("extension", 40), ("new house", 90), ("roof", 20)])
        area = round(draw.uniform(10, 400), 1)
        row = f"P-{number:05d};{filed:%d.%m.%Y};{draw.choice(['north', 'south', 'harbour'])};{kind};{area}".split(";")
        row[4] = row[4].replace(".", ",")
        listed, remark = draw.choice(["yes", "no"]), f"see file {draw.randint(1, 900)}" if number % 3 else ""
        rows.append(";".join([*row, listed, remark, str(round(days + area / 10 + draw.gauss(0, 6)))]))
    file.write_text("\n".join([*rows, ""]), encoding="utf-8")


def test_the_first_page_leads_from_a_file_to_a_delivery(
    project: Path, site: MemorySite, capsys: pytest.CaptureFixture[str]
) -> None:
    permits(project / "permits.csv")
    shown = ""
    for language, text in blocks(FIRST):
        if language == "sh":
            shown = typed(text)
            draft = project / "include" / "pipelines" / "permits.yaml"
            if "pipeline new" in text:
                draft.write_text(decided(draft.read_text(encoding="utf-8")), encoding="utf-8")
        elif language == "text":
            assert unlike(shown, text) is None
        elif text.startswith("rempart pipeline deliver "):
            capsys.readouterr()
            deliver_files("permits", [project / "permits.csv"])
    assert len(list(site.list("landing", "permits/"))) == 1


def decided(draft: str) -> str:
    """A draft with the page's first answer to when the target is known: its line, uncommented, and `known`."""
    (moment,) = re.findall(r"after the rest \(`([^`]*)`\)", FIRST.read_text(encoding="utf-8"))
    known = "days_to_decision: {type: integer, known: "
    assert draft.count(f"  # {moment}\n") == draft.count(f"{known}event") == 1
    return draft.replace(f"  # {moment}\n", f"  {moment}\n").replace(f"{known}event", f"{known}outcome")


def test_the_example_does_what_it_says(project: Path, site: MemorySite, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(EXAMPLE)
    assert {language for language, _ in found} == {"python", "sh", "yaml", "console", "text"}
    before = ""
    for language, text in found:
        if language == "python":
            capsys.readouterr()
            exec(compile(text, str(EXAMPLE), "exec"), {"__name__": "page"})  # noqa: S102 - our own page
        elif language == "sh":
            typed(text)
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


def test_the_example_shows_the_message_that_a_leak_gets(project: Path) -> None:
    text = next(text for language, text in blocks(EXAMPLE) if language == "yaml")
    message = next(text for language, text in blocks(EXAMPLE) if language == "text" and "known only" in text)
    data = yaml.safe_load(text)
    data["features"]["own"]["columns"].append("measured_celsius")
    file = project / "include" / "pipelines" / "energy_use.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    with pytest.raises(PipelineError) as error:
        pipelines.load(file)
    assert message.strip() in error.value.what
