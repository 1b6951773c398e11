"""The page `overview`: can any one site be lost now, and where is everything?"""

from __future__ import annotations

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.read_models import overview


def read_overview() -> overview.Overview:
    """Return the verdict, all places, figures against objectives, open denials, champions."""
    return overview.overview(sources.newest(), sources.now())


PAGE = Page("overview", 10, {"en": "Overview", "fr": "Vue d’ensemble"}, "read", read_overview)
