"""The page `data`: pipelines and their snapshots."""

from __future__ import annotations

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.parameters import PageNumber
from rempart.web.read_models import data


def read_data(page: PageNumber = 0) -> data.Data:
    """Return pipelines, and snapshots with their counts, newest first."""
    return data.data(sources.newest(), sources.now(), page)


PAGE = Page("data", 50, {"en": "Data", "fr": "Données"}, "read", read_data)
