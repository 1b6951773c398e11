"""Tell apart the reasons of a verdict as evidence has them. Pure; imports nothing."""

UNCHANGED = "unchanged since "
"""Beginning of the first reason of a version that was champion already: the other reasons are of its promotion."""


def is_kept(reason: str) -> bool:
    """Return whether a verdict's reason describes a passed rule."""
    return reason.startswith("passed: ")
