"""A new user reads the README and both pages of the tutorial in ten minutes."""

from __future__ import annotations

import re

from rempart.settings.config import project_root

WORDS_A_MINUTE = 220
PAGES = ("README.md", "docs/tutorial/first-pipeline.md", "docs/tutorial/break-and-restore.md")


def words(text: str) -> int:
    """The words that a reader sees, outputs and code included: no comments, addresses of links or lines of tables."""
    shown = re.sub(r"<!--.*?-->|\]\([^)]*\)|```\w*", " ", text, flags=re.DOTALL)
    return sum(bool(re.search(r"\w", word)) for word in shown.split())


def test_words_are_those_that_are_read() -> None:
    assert words("<!-- no -->\n| a | b c |\n|---|---|\n```sh\nrempart up\n```\n[see here](x/y.md).") == 7


def test_the_first_path_is_read_in_ten_minutes() -> None:
    counted = {page: words((project_root() / page).read_text(encoding="utf-8")) for page in PAGES}
    assert sum(counted.values()) <= 10 * WORDS_A_MINUTE, counted
