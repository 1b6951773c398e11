"""Read the comments of a drafted pipeline file as a person does."""

from __future__ import annotations

import re

_NOTED = r"  \w+: \{type: .*|  - \{.*|partition_by: .*|  baseline_by: .*"
"""Lines with a comment at their end, or above them where it would be too long."""


def folded(text: str) -> str:
    """Return a draft with what stands above a line behind it: what to know about it, then what to decide."""
    notes = re.compile(rf"^( *)# ((?! |CHECK).*(?:\n\1#   .*)*)\n({_NOTED})", re.MULTILINE)
    asked = re.compile(r"^( *)# (CHECK: .*(?:\n\1#   .*)*)\n(.*)", re.MULTILINE)
    for comment in (notes, asked):
        text = comment.sub(lambda found: f"{found[3]}    # {unbroken(found[2])}", text)
    return text


def unbroken(text: str) -> str:
    """Return comments without their breaks, as one line."""
    return re.sub(r"\s*\n\s*#\s+", " ", text)
