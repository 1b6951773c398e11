"""Write numbers, lists and comments as YAML of which no line is needlessly long."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rempart.ingestion.sampling.names import shown, yaml_word

_WIDTH = 100
"""Characters of a line up to which a list and a comment are not broken."""
_DEEPEST = 14
"""Characters by which the further lines of a list are indented at most."""


def number_text(value: float) -> str:
    """Return a number as YAML reads it: one with an exponent has a decimal point. Pure."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    digits, mark, power = repr(value).partition("e")
    return f"{digits}.0{mark}{power}" if mark and "." not in digits else repr(value)


def list_text(values: Iterable[str]) -> str:
    """Return a list of texts as YAML, on one line. Pure."""
    return "[" + ", ".join(map(yaml_word, values)) + "]"


def list_lines(before: str, values: Sequence[str], behind: str = "") -> str:
    """Return `before`, a list of texts as YAML, and `behind`: on several lines if one would be long. Pure."""
    unbroken = f"{before}{list_text(values)}{behind}"
    if len(unbroken) <= _WIDTH or not values:
        return unbroken
    indent = " " * min(len(before) + 1, _DEEPEST)
    lines, line = list[str](), f"{before}["
    for place, value in enumerate(values, 1):
        word = yaml_word(value) + ("," if place < len(values) else f"]{behind}")
        if len(line) + 1 + len(word) > _WIDTH and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += word if line.endswith(("[", " ")) else f" {word}"
    return "\n".join([*lines, line])


def explained(line: str, *, asks: str = "", note: str = "") -> Iterator[str]:
    """Yield a line of YAML with what a person decides about it above, marked CHECK, and what to know about it. Pure.

    The note stands at the end of the line if there is room, else above, too. `line`: may have several lines.
    """
    indent = " " * (len(line) - len(line.lstrip(" ")))
    whole = f"{line}    # {note}" if note else line
    has_room = len(whole.rpartition("\n")[2]) <= _WIDTH
    if asks:
        yield from comment_lines(f"CHECK: {asks}", indent, further="  ")
    if note and not has_room:
        yield from comment_lines(note, indent, further="  ")
    yield whole if has_room else line


def comment_lines(text: str, indent: str = "", *, further: str = "") -> Iterator[str]:
    """Yield a text as lines of comments; all but the first begin with `further`. Pure.

    A character that would break the line is escaped: a value of the data never becomes a line of the file.
    """
    wrapped = textwrap.wrap(
        shown(text), _WIDTH - len(indent) - 2 - len(further), break_long_words=False, break_on_hyphens=False
    )
    yield from (f"{indent}# {further if place else ''}{line}" for place, line in enumerate(wrapped))
