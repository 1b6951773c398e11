"""The page `ledger`: the records of evidence, by kind and subject."""

from __future__ import annotations

from typing import get_args

from rempart.ledger import port
from rempart.web import sources
from rempart.web.page import Page
from rempart.web.parameters import Before, Kind, Subject
from rempart.web.read_models import evidence


def read_ledger(kind: Kind = None, subject: Subject = None, before: Before = None) -> evidence.EvidencePage:
    """Return a page of the ledger, newest first."""
    return sources.page(kind or None, subject or None, before)


PAGE = Page(
    "ledger",
    60,
    {"en": "Evidence", "fr": "Preuves"},
    "read_evidence",
    read_ledger,
    constants={"kinds": get_args(port.Kind)},
)
