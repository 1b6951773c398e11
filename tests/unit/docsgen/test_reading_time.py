"""A new user reads the README and the tutorial in ten minutes, or what the way from an own file to a drill needs."""

from __future__ import annotations

import re
from pathlib import Path

from rempart.ingestion.draft import draft_pipeline
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


def page(name: str) -> str:
    return (project_root() / name).read_text(encoding="utf-8")


def test_the_way_from_an_own_file_to_a_drill_is_read_in_ten_minutes(tmp_path: Path) -> None:
    """The comments of the draft are part of it. The steps about bad deliveries are not."""
    (file := tmp_path / "permits.csv").write_text(
        "permit,filed_on,kind,area,remarks,days\n"
        + "".join(f"P{n:03},2025-{n % 12 + 1:02}-{n % 28 + 1:02},{'ab'[n % 2]},{n % 9}.5,,{n % 7}\n" for n in range(99))
    )
    guide, restore = page("docs/how-to/add-a-pipeline.md"), page("docs/tutorial/break-and-restore.md")
    intro, _, steps = restore.partition("\n## 1. ")
    read = {
        "README.md": page("README.md"),
        "the draft": "\n".join(re.findall("# .*", draft_pipeline(file, target="days"))),
        "add a pipeline": guide[: guide.index("\n## Where next?")],
        "lose and restore": intro + steps[steps.index("\n## 3. ") :],
    }
    counted = {name: words(text) for name, text in read.items()}
    assert sum(counted.values()) <= 10 * WORDS_A_MINUTE, counted
    assert min(counted.values()) >= 200, counted
