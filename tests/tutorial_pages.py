"""Read the tutorial's pages: their blocks in order, and whether an output is like the one that a page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_FENCE = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of a page: language, text, the mark above it, and the output that the page shows below it.

    Marks: `fails` (the last command fails), `not run: REASON`, or anything that the reader of the block knows.
    """

    language: str
    text: str
    mark: str
    shown: str | None


def blocks(page: str) -> Iterator[Block]:
    """Yield every block but those of language `text`, which are the output of the block before."""
    block: Block | None = None
    for mark, language, text in _FENCE.findall(page):
        if language == "text":
            assert block is not None and block.shown is None, f"nothing gives the output: {text}"
            block = block._replace(shown=text)
            continue
        if block is not None:
            yield block
        block = Block(language, text, mark, None)
    if block is not None:
        yield block


def unlike(output: str, shown: str) -> str | None:
    """Return the first shown line that the output lacks, or nothing.

    A shown line `...` stands for any lines, and `...` within a line for any text. White space is not compared.
    """
    lines, at, free = [" ".join(line.split()) for line in output.splitlines() if line.strip()], 0, False
    for expected in (" ".join(line.split()) for line in shown.splitlines() if line.strip()):
        if expected == "...":
            free = True
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in expected.split("...")))
        until = len(lines) if free else at + 1
        found = next((number for number in range(at, min(until, len(lines))) if pattern.fullmatch(lines[number])), None)
        if found is None:
            return expected
        at, free = found + 1, False
    return None
