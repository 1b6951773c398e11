"""The page docs/how-to/labels-of-their-own.md, executed: its two files, the check, and a try on a file of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from tests.derived_project import write_project
from tests.labelled_project import csv, order, payment
from tests.unit.docsgen.blocks import blocks

PAGE = "docs/how-to/labels-of-their-own.md"


def texts(language: str) -> list[str]:
    return [block.text for block in blocks() if block.page == PAGE and block.language == language]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path, *texts("yaml"), sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    (text,) = texts("console")
    return [line.removeprefix("$ rempart ").split() for line in text.splitlines()]


def write(project: Path, *, labels: bool = True) -> None:
    days = range(60)
    rows = csv(order(n, n / 1.2, amount=20.0 + n % 7, country="fr" if n % 2 else "de") for n in days)
    (project / "orders.csv").write_text("\n".join(["order_id,ordered_at,amount,country", *rows, ""]))
    paid = csv(payment(n, n / 1.2 + (9 if n == 30 else 3), paid=n % 3 > 0) for n in days if n != 7)
    if labels:
        (project / "payments.csv").write_text("\n".join(["invoice,paid,settled_at", *paid, ""]))


def test_the_check_and_the_try_of_the_page(project: Path) -> None:
    write(project)
    check, trial = commands()
    done = CliRunner().invoke(app, check)
    assert done.exit_code == 0, done.output
    assert "Labels: column 'paid' of pipeline 'payments' (internal), known at 'settled_at'" in done.output
    done = CliRunner().invoke(app, trial)
    assert done.exit_code == 0, done.output
    assert "payments.csv: 59 rows read, 59 accepted" in done.output
    assert "rows have a label of 'payments'; 1 not used, none was delivered" in done.output
    assert "it became known only after the hold-out began" in done.output
    assert "Baseline: log_loss of paid" in done.output


def test_a_try_without_a_file_of_labels_says_what_it_needs(project: Path) -> None:
    write(project, labels=False)
    done = CliRunner().invoke(app, ["pipeline", "try", "orders", "orders.csv"])
    assert done.exit_code and "its labels come from 'payments', and neither a file nor data/ has them" in str(
        done.exception
    )


def test_a_try_in_which_no_row_has_a_label_says_so(project: Path) -> None:
    write(project)
    (project / "payments.csv").write_text("invoice,paid,settled_at\n999,true,2026-02-01T00:00:00Z\n")
    done = CliRunner().invoke(app, commands()[1])
    assert done.exit_code and "No example: build the training set of 'orders'" in done.output
