"""What a file or a server says is shown as text: it cannot move the cursor, hide lines, or break a document."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from rempart import cli
from rempart.cli import json_documents, rendering
from rempart.cli.views import names, text
from rempart.deployment.setup.terminal import is_control
from rempart.errors import IngestError, PipelineError, StackError
from rempart.flows.ingestion import deliver
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.sampling import extract
from tests.unit.training.stage import pipeline

HOSTILE = "a\x1b[2Jb\x9b1Ac\u202ed\x7f\udcff"
SHOWN = "a\\x1b[2Jb\\x9b1Ac\\u202ed\\x7f\\udcff"


def controls(told: str) -> list[str]:
    return [c for c in told if c != "\n" and is_control(c)]


def test_an_error_of_a_server_is_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StackError(f"ask a server: {HOSTILE}", "Ask again.")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    told = capsys.readouterr().err
    assert f"error: ask a server: {SHOWN}\n  What to do: Ask again." in told and not controls(told)


def test_log_lines_and_lines_of_views_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering.on_terminal():
        logging.getLogger("rempart.test").info("copied %s", HOSTILE)
    rendering.show([HOSTILE, *text.table(("NAME",), [(HOSTILE + "\nb",)]), *text.pairs([(HOSTILE, HOSTILE)])])
    told = capsys.readouterr().out
    assert told.splitlines()[0] == f"copied {SHOWN}" and told.count(SHOWN) == 5 and not controls(told)
    assert f"{SHOWN}\\nb" in told, "a cell stays in its row"
    rendering.show(["a\nNext: b\r\tc"])
    assert capsys.readouterr().out == "a\\nNext: b\\r\tc\n", "a line stays one line"


def test_names_of_files_and_descriptions_are_text(tmp_path: Path) -> None:
    file = tmp_path / "a\nerror: b\x1b[2J.csv"
    for body in ("", "a\n1\n", "day,a\n2025-01-01,x\n", "day\n2025-01-01\n"):
        file.write_text(body)
        with pytest.raises(PipelineError) as error:
            draft_pipeline(file)
        assert "a\\nerror: b\\x1b[2J" in error.value.what and not controls(error.value.what)
        assert "\n" not in error.value.what
    file.write_text("day,kwh\n2025-01-01,1\n2025-01-02,2\n")
    (first, *_) = draft_pipeline(file).splitlines()
    assert "all 2 rows of a\\nerror: b\\x1b[2J.csv." in first
    with pytest.raises(IngestError, match=r"a\\nerror") as refused:
        deliver.check(pipeline(), [file])
    assert "\n" not in refused.value.what and not controls(refused.value.what)
    with pytest.raises(PipelineError, match=r"read .*a\\nerror"):
        draft_pipeline(tmp_path / "none" / file.name)
    with pytest.raises(IngestError, match=r"read .*a\\nerror"):
        extract.take(tmp_path / "none" / file.name, tmp_path / "out")
    assert text.folded("two\nlines\n") == "two lines"


def test_a_name_on_the_command_line_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(names.UnknownName):
        names.pipeline("\x1b[31mred", ["hotel_bookings"])
    assert not controls(capsys.readouterr().err)


def test_a_document_holds_the_same_text_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    json_documents.show({"name": HOSTILE, "next": "\U000e0001é"})
    told = capsys.readouterr().out
    assert not controls(told) and "é" in told
    assert json.loads(told) == {"name": HOSTILE, "next": "\U000e0001é"}


def test_a_document_stands_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    level = rendering.ROOT.level
    with rendering.on_terminal():
        json_documents.begin(True)
        logging.getLogger("rempart.test").info("connected")
        json_documents.show([])
    assert capsys.readouterr().out == "[]\n" and rendering.ROOT.level == level


def test_events_of_a_command_without_standard_output_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with rendering.on_terminal():
        logging.getLogger("rempart.test").info("copied")
