"""The page `models`: champions, verdicts of the gate, lineage."""

from __future__ import annotations

from rempart.web import sources
from rempart.web.page import Page
from rempart.web.read_models import models


def read_models() -> models.Models:
    """Return champions, the gate's verdict on each version, and lineage."""
    return models.models(sources.newest(), sources.now())


PAGE = Page("models", 40, {"en": "Models", "fr": "Modèles"}, "read", read_models)
