"""Write docs/adr/README.md: the list of decisions, from their files."""

from __future__ import annotations

from pathlib import Path

from rempart.docsgen.site_pages import decisions

_HEAD = """# Decisions

**For** people who change Rempart, and reviewers who ask why it is as it is. **Answers** which choices were made, what
else was weighed, and what follows from each.

One page for each choice that is expensive to take back. A page is not rewritten when the code moves on: a later page
replaces it.

"""


def decisions_page(root: Path) -> str:
    """Return the list, by number."""
    lines = [f"- [{title}]({name})" for name, title in decisions(root)]
    return _HEAD + "\n".join(lines) + "\n"
