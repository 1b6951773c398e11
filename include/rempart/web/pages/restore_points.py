"""The page `restore-points`: the restore points and their drills."""

from __future__ import annotations

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.read_models import points


def read_points() -> points.Points:
    """Return the existing restore points, newest first."""
    return points.points(sources.newest(), sources.now())


PAGE = Page("restore-points", 30, {"en": "Restore points", "fr": "Points de restauration"}, "read", read_points)
