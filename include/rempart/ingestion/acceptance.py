"""Counts of a delivery's rows, reasons against rows whose key is known, held-back deliveries and their acceptance."""

from __future__ import annotations

from collections.abc import Sequence

DUPLICATE = "duplicate of an accepted row"
CONFLICT = "its key was accepted before with other values"
HELD = "held back: too many rows of its delivery were refused"
"""Reason of a good row in quarantine."""

COUNTS = ("delivered", "accepted", "repeated", "quarantined")
"""Rows of a delivery: each delivered row is accepted, repeated or in quarantine."""

ALL = "all"
"""Stands for all deliveries where a run ingests one again."""


def good(accepted: int, repeated: int, replaced: int = 0) -> str:
    """Return how many rows were accepted, of these how many replaced older ones, and how many were repeated. Pure."""
    told = f"{accepted:,} accepted" + (f" ({replaced:,} replaced older rows)" if replaced else "")
    return told + (f", {repeated:,} repeated (equal or newer rows of their key stand)" if repeated else "")


def contradiction(again: str | None, *, accept: bool, accept_loss: str | None) -> tuple[str, str] | None:
    """Return why an ingestion cannot do both that it was asked for, and the remedy; None if it can. Pure.

    `again`: SHA-256 of a delivery, or ALL. `accept`: publish although too many rows are refused. `accept_loss`: id of a
    lost snapshot.
    """
    if accept and again is None:
        return (
            "accept_quarantined needs `again` to name a delivery: nothing was started",
            "Inspect a delivery on the cockpit's page of this pipeline first, and pass its SHA-256 as `again`.",
        )
    if again == ALL and (accept or accept_loss):
        return (
            "`again: all` takes no `accept_quarantined` and no `accept_loss`: nothing was started",
            "Judge all deliveries anew without it, then accept a held-back delivery by its SHA-256.",
        )
    return None


def held_back(counts: Sequence[tuple[int, int]], limit: float) -> frozenset[int]:
    """Return the held-back deliveries of a run; `counts`: rows delivered and refused of each.

    None unless more than the share `limit` of all rows was refused; then every delivery that exceeds it.
    """
    if sum(refused for _, refused in counts) <= limit * sum(delivered for delivered, _ in counts):
        return frozenset()
    return frozenset(i for i, (delivered, refused) in enumerate(counts) if limit * delivered < refused < delivered)
