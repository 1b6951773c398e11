"""The blocks of code on the documentation's pages, and the note that says how each is checked.

A note is a comment on the line before a block:

    <!-- run by tests/unit/test_x.py -->               that test executes the block
    <!-- checked as rempart.yaml -->                   test_snippets.py validates it as part of that file
    <!-- not run: it needs a cluster -->               nobody executes it, for this reason

`<!-- other blocks: not run: it needs a cluster -->` anywhere on a page serves its blocks without a note of their own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ("sh", "bash", "console", "")
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<note>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_DEFAULT = re.compile(r"^<!-- other blocks: (.*?) -->$", re.M)
_ENDS = {"|", "||", "&&", "&", ";", ">", ">>", "<", "<<", ")", "("}


@dataclass(frozen=True)
class Block:
    """A block with its page, its line on the page, and its note; empty without one."""

    page: str
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def pages() -> tuple[str, ...]:
    """The pages for readers: all but the decisions, which tell of the past."""
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    files += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return tuple(sorted(str(file.relative_to(ROOT)) for file in files if file.parent.name != "adr"))


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks() -> tuple[Block, ...]:
    return tuple(block for page in pages() for block in of_page(page, read(page)))


def of_page(page: str, text: str) -> Iterator[Block]:
    default = next(iter(_DEFAULT.findall(text)), "")
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        lines = [line[indent:] for line in found["text"].splitlines()]
        note = found["note"] or ""
        if not re.match(r"run by |checked as |not run: ", note):
            note = default
        line = text[: found.start("indent")].count("\n") + 1
        yield Block(page, line, found["language"], "\n".join(lines) + "\n", note)


def command_lines(block: Block) -> list[str]:
    """The lines that a person types: with `$ ` before them if the block shows answers as well."""
    joined = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    typed = [line[2:] for line in joined if line.startswith("$ ")]
    return typed or joined


def calls(block: Block, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in a block."""
    for line in command_lines(block):
        for found in re.finditer(rf"(?:^|[\s;&|(])(?:\.venv/bin/)?{program}(?=\s|$)", line.split(" # ")[0]):
            yield list(_words(line[found.end() :]))


def _words(text: str) -> Iterator[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        for word in lexer:
            if word in _ENDS or re.fullmatch(r"[12]?[<>&|;()]+", word):
                return
            yield word
    except ValueError:  # a quotation that goes on in the next line
        return
