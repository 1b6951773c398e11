"""No pattern of a configuration, a form or a route accepts a line end after the last character."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, ValidationError

import rempart

ROOT = Path(rempart.__file__).parent


class Anchored(BaseModel):
    text: str = Field(pattern=r"^[a-z]{1,5}$")


def test_s3_pydantics_dollar_is_the_end_of_the_text() -> None:
    """Its engine is Rust's, where `$` matches nowhere else. If that changes, every pattern needs another anchor."""
    assert Anchored(text="abc")
    for text in ("abc\n", "abc\nx", "\nabc"):
        with pytest.raises(ValidationError):
            Anchored(text=text)


def test_s3_no_pattern_of_ours_ends_in_a_dollar_where_python_looks_for_it() -> None:
    """In Python's `re`, `$` matches before a last line end as well: use fullmatch, or \\Z."""
    anchored = re.compile(r"""re\.(?:match|search|compile)\(\s*r?b?f?["'][^"'\n]*[^\\]\$["']""")
    found = {
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in ROOT.rglob("*.py")
        for match in anchored.finditer(file.read_text(encoding="utf-8"))
    }
    assert not found
