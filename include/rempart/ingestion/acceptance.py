"""Reasons against rows whose key is known, and the deliveries of which too many rows are refused."""

from __future__ import annotations

from collections.abc import Sequence

DUPLICATE = "duplicate of an accepted row"
CONFLICT = "its key was accepted before with other values"
HELD = "held back: too many rows of its delivery were refused"
"""Reason of a good row in quarantine."""


def held_back(counts: Sequence[tuple[int, int]], limit: float) -> frozenset[int]:
    """Return the held-back deliveries of a run; `counts`: rows delivered and refused of each.

    None unless more than the share `limit` of all rows was refused; then every delivery that exceeds it.
    """
    if sum(refused for _, refused in counts) <= limit * sum(delivered for delivered, _ in counts):
        return frozenset()
    return frozenset(i for i, (delivered, refused) in enumerate(counts) if limit * delivered < refused < delivered)
