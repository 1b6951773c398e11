"""A first mistake is answered in at most three lines, by its cause and by what mends it; the page shows the answer."""

from __future__ import annotations

import os
import re

import pytest

from tests.unit.cli import first_failures
from tests.unit.cli.provoked import MISTAKES, Mistake

NEEDS_ROOT = {"state_of_another_user"}
"""Answers that name another user only if the test may become one."""


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_first_mistake_is_answered_by_what_mends_it(mistake: Mistake) -> None:
    answer = first_failures.answer(mistake)
    assert "Traceback" not in answer and answer != "no error", answer
    assert len(answer.splitlines()) <= 3, answer
    for words in mistake.holds:
        assert re.search(words, answer), (words, answer)
    if os.geteuid() == 0 or mistake.id not in NEEDS_ROOT:
        block = f"### {mistake.what}\n\n```text\n{answer}\n```"
        told = "docs/reference/first-failures.md is stale: run `python -m tests.unit.cli.first_failures`"
        assert block in first_failures.PAGE.read_text(encoding="utf-8"), told


def test_the_page_has_each_mistake_once_and_no_other() -> None:
    page = first_failures.PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", page, re.M)
    assert len(MISTAKES) >= 20
    assert headings == [
        mistake.what
        for group in dict.fromkeys(m.group for m in MISTAKES)
        for mistake in MISTAKES
        if mistake.group == group
    ]
