"""docs/reference/expressions.md: every word of the language has a line, and every refusal a reason and a remedy."""

from __future__ import annotations

from rempart.docsgen import expressions
from rempart.settings.expressions.checking import FUNCTIONS
from rempart.settings.schema import read_yaml
from tests.unit.docsgen.blocks import ROOT, read

PAGE = "docs/reference/expressions.md"
SHIPPED = read_yaml(ROOT / "include" / "pipelines" / "hotel_bookings.yaml")


def test_each_function_has_a_line() -> None:
    text = read(PAGE)
    assert not [name for name, form in FUNCTIONS.items() if f"| `{form}` |" not in text]


def test_each_refused_expression_has_its_own_answer() -> None:
    answers = [expressions.answer(SHIPPED, text) for text in expressions.REFUSED]
    assert None not in answers
    different = {str(answer).split(" ", 1)[1] for answer in answers}
    assert len(different) >= len(answers) - 2, "now, current_date and random have one answer"


def test_an_expression_that_is_right_has_no_answer() -> None:
    assert expressions.answer(SHIPPED, "ln(lead_time + 1) / greatest(adults, 1)") is None
