"""Read the comments of a drafted pipeline file as a person does."""

from __future__ import annotations

import re


def folded(text: str) -> str:
    """Return a draft with each question, which stands above its line, on one line behind it."""
    asked = re.compile(r"^( *)# (CHECK: .*(?:\n\1#   .*)*)\n(.*)", re.MULTILINE)
    return asked.sub(lambda found: f"{found[3]}    # {unbroken(found[2])}", text)


def unbroken(text: str) -> str:
    """Return comments without their breaks, as one line."""
    return re.sub(r"\s*\n\s*#\s+", " ", text)
