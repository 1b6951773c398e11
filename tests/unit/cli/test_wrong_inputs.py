"""A wrong input is answered without a traceback, with an exit code and with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.wrong_inputs import HEAD, INPUTS, PAGE, Wrong, answer, nowhere, row

SAYS = ("--help", "Did you mean", "What to do:", "what to do:")
"""What introduces a remedy."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("nowhere")
    with nowhere(made):
        yield made


def test_there_are_more_than_sixty() -> None:
    assert len({wrong.line for wrong in INPUTS}) == len(INPUTS) > 60


@pytest.mark.parametrize("wrong", INPUTS, ids=lambda wrong: wrong.line)
def test_a_wrong_input_is_answered_with_its_remedy(wrong: Wrong, folder: Path) -> None:
    given = answer(wrong.line, folder)
    assert given.fault is None
    assert given.code == wrong.code and wrong.part in given.text, given.text
    assert any(introduction in given.text for introduction in SAYS), given.text
    assert "Traceback" not in given.text
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(HEAD) and row(wrong, given) in page, "run `make docs`, and read what changed"
